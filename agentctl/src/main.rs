//! agentctl: asks the agent, and checks what a person wrote before the agent sees it.
//!
//! One verb a file; this one parses the command line and hands over. What a verb prints goes through [`out::Out`],
//! how it ended is an [`Exit`]; an error is printed here with all of its causes.

mod check;
mod client;
mod completions;
mod doctor;
mod events;
mod explain;
mod git_key;
mod help;
mod lock;
mod logs;
mod out;
mod place;
mod plan;
mod problem;
mod releases;
mod resolve;
mod routes;
mod schema;
mod screen;
mod security;
mod service;
mod shutdown;
mod status;
mod table;
mod time;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use agentd_protocol::exit_code::Exit;
use clap::{CommandFactory as _, Parser, Subcommand};
use out::Out;

/// Talk to the agentd on this host.
#[derive(Debug, Parser)]
#[command(name = "agentctl", version, after_help = help::TOP)]
struct Cli {
    /// The agent's home [default: $AGENTD_HOME, else the agent of this system]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check a stack file and print every problem in it
    Check(check::Args),
    /// Say what a key of a stack file means
    Explain(explain::Args),
    /// Print the JSON Schema of stack files
    Schema(schema::Args),
    /// Show what runs and what is wrong
    Status(status::Args),
    /// Show what a service wrote
    Logs(logs::Args),
    /// Show what happened, and what happens from now on
    Events(events::Args),
    /// Show which path and name leads to which service
    Routes(routes::Args),
    /// Follow an address from its name to the instances behind it
    Resolve(resolve::Args),
    /// Show what applying the newest stack would do, removals first
    Plan(plan::Args),
    /// List the kept releases of a service
    Releases(releases::Args),
    /// Put the commits of now in place of the branches and tags of a stack file
    Lock(lock::Args),
    /// Stop a service until it is started again
    #[command(after_help = help::STOP)]
    Stop(service::Args),
    /// Start a stopped service
    #[command(after_help = help::START)]
    Start(service::Args),
    /// Replace a service's instances by new ones of the same release
    #[command(after_help = help::RESTART)]
    Restart(service::Args),
    /// Go back to a kept release and pin it
    #[command(after_help = help::ROLLBACK)]
    Rollback(service::RollbackArgs),
    /// End a pin: the service follows the document again
    #[command(after_help = help::UNPIN)]
    Unpin(service::Args),
    /// Remove releases, data and logs of a service that has left the stack
    #[command(after_help = help::PRUNE)]
    Prune(service::Args),
    /// Show and change what this host lets in
    Security(security::Args),
    /// Check this host and this home: what stands in the way, and its cure
    Doctor(doctor::Args),
    /// Make a deploy key for private repositories
    GitKey(git_key::Args),
    /// Stop everything, keeper and manager included
    #[command(after_help = help::SHUTDOWN, alias = "down")]
    Shutdown(shutdown::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print docs/agentctl.md
    #[command(hide = true)]
    HelpMarkdown,
}

fn main() -> ExitCode {
    let mut out = Out::new();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return command_line(&usage, &mut out).into(),
    };
    let ended = match &cli.verb {
        Verb::Check(args) => check::run(args, &mut out),
        Verb::Explain(args) => explain::run(args, &mut out),
        Verb::Schema(args) => schema::run(args, &mut out),
        Verb::Doctor(args) => doctor::run(&place::places(cli.home), args, &mut out),
        Verb::Completions(args) => completions::run(args, &Cli::command(), &mut out),
        Verb::HelpMarkdown => help::run(Cli::command(), &mut out),
        verb => ask(cli.home, verb, &mut out),
    };
    // The alternate form of an anyhow error is the whole chain on one line.
    let exit = ended.and_then(|exit| out.finish().map(|()| exit)).unwrap_or_else(|error| {
        out.complain(format_args!("agentctl: {error:#}"));
        Exit::Failed
    });
    exit.into()
}

/// The verbs that need a running agent. Its refusals are answers: they are said here, with the exit code they stand for.
fn ask(home: Option<PathBuf>, verb: &Verb, out: &mut Out) -> anyhow::Result<Exit> {
    let places = place::places(home);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let client = client::Client::new(&places)?;
        match verb {
            Verb::Status(args) => status::run(&client, args, out).await,
            Verb::Logs(args) => logs::run(&client, args, out).await,
            Verb::Events(args) => events::run(&client, args, out).await,
            Verb::Routes(args) => routes::run(&client, args, out).await,
            Verb::Resolve(args) => resolve::run(&client, args, out).await,
            Verb::Plan(args) => plan::run(&client, args, out).await,
            Verb::Releases(args) => releases::run(&client, args, out).await,
            Verb::Lock(args) => lock::run(&client, args, out).await,
            Verb::Stop(args) => service::run(&client, args, "stop", out).await,
            Verb::Start(args) => service::run(&client, args, "start", out).await,
            Verb::Restart(args) => service::run(&client, args, "restart", out).await,
            Verb::Unpin(args) => service::run(&client, args, "unpin", out).await,
            Verb::Prune(args) => service::run(&client, args, "prune", out).await,
            Verb::Rollback(args) => service::rollback(&client, args, out).await,
            Verb::GitKey(args) => git_key::run(&client, args, out).await,
            Verb::Security(args) => security::run(&client, args, out).await,
            Verb::Shutdown(args) => shutdown::run(&client, args, out).await,
            Verb::Check(_)
            | Verb::Explain(_)
            | Verb::Schema(_)
            | Verb::Completions(_)
            | Verb::HelpMarkdown
            | Verb::Doctor(_) => {
                unreachable!("answered without an agent")
            }
        }
    });
    Ok(ended.unwrap_or_else(|error| {
        out.complain(format_args!("agentctl: {}", error.text()));
        error.exit()
    }))
}

/// Help and version are answers; anything else about the command line is a complaint.
fn command_line(usage: &clap::Error, out: &mut Out) -> Exit {
    let text = usage.render();
    let text = text.to_string();
    if usage.use_stderr() {
        out.complain(text.trim_end());
        return Exit::Usage;
    }
    out.line(text.trim_end());
    out.finish().map_or(Exit::Failed, |()| Exit::Ok)
}
