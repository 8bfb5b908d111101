//! `agentctl`: talks to the manager of one home, and reads stack files without one. One verb a file.

mod check;
mod client;
mod down;
mod explain;
mod out;
mod plan;
mod service;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use agentd_protocol::exit_code::Exit;
use clap::{Parser, Subcommand};

use client::{Client, Error};

/// Where a packaged agent keeps its state.
const HOME: &str = "/var/lib/agentd";
const HOME_ENV: &str = "AGENTD_HOME";

/// Asks and tells the agent of a host.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    /// The agent's home [default: $AGENTD_HOME, else /var/lib/agentd]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Says everything that is wrong with a stack file; needs no running agent.
    Check {
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Explains a key of the stack file, or lists them all.
    Explain { key: Option<String> },
    /// Shows what runs and what is wrong.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Shows what applying the newest stack would do, removals first.
    Plan {
        #[arg(long)]
        json: bool,
    },
    /// Stops a service until it is started again.
    Stop { service: String },
    /// Starts a stopped service.
    Start { service: String },
    /// Replaces a service's instances by new ones of the same release.
    Restart { service: String },
    /// Goes back to a kept release and pins it.
    Rollback {
        service: String,
        /// Its number; without it the newest one before the release that runs.
        #[arg(long)]
        release: Option<u64>,
    },
    /// Ends a pin: the service follows the document again.
    Unpin { service: String },
    /// Removes releases and data of a service that has left the stack.
    Prune { service: String },
    /// Stops everything on this home, keeper and manager included.
    Down,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let home = cli.home.or_else(|| std::env::var_os(HOME_ENV).map(PathBuf::from)).unwrap_or_else(|| HOME.into());
    let exit = match cli.verb {
        Verb::Check { file, json } => match check::run(&file, json) {
            Ok((text, exit)) => out::print(&text, exit),
            Err(text) => out::fail(&text, Exit::Failed),
        },
        Verb::Explain { key } => match explain::run(key.as_deref()) {
            Ok(text) => out::print(&text, Exit::Ok),
            Err(text) => out::fail(&text, Exit::NotFound),
        },
        verb => match ask(&home, verb) {
            Ok((text, exit)) => out::print(&text, exit),
            Err(error) => out::fail(&error.text(), error.exit()),
        },
    };
    exit.into()
}

/// The verbs that need a running agent.
fn ask(home: &std::path::Path, verb: Verb) -> Result<(String, Exit), Error> {
    let broken = |error: std::io::Error| Error::Broken { cause: error.to_string() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
    runtime.block_on(async {
        let client = Client::new(home)?;
        let text = match verb {
            Verb::Status { json } => return status::run(&client, json).await,
            Verb::Plan { json } => plan::run(&client, json).await?,
            Verb::Stop { service } => service::run(&client, &service, "stop").await?,
            Verb::Start { service } => service::run(&client, &service, "start").await?,
            Verb::Restart { service } => service::run(&client, &service, "restart").await?,
            Verb::Unpin { service } => service::run(&client, &service, "unpin").await?,
            Verb::Prune { service } => service::run(&client, &service, "prune").await?,
            Verb::Rollback { service, release } => service::rollback(&client, &service, release).await?,
            Verb::Down => down::run(&client).await?,
            Verb::Check { .. } | Verb::Explain { .. } => unreachable!("answered without an agent"),
        };
        Ok((text, Exit::Ok))
    })
}
