//! `agentd`: the manager and the edge. Parses the command line, then hands over to the library.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use agentd::app::{self, RunOptions};
use agentd::firewall_cli::{self, FirewallVerb};
use agentd::join_cli::{self, JoinArgs, LeaveArgs};
use agentd::static_site;
use agentd_protocol::exit_code::Exit;
use agentd_sys::causes::chain;
use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A node agent: clones, builds, runs, routes and supervises the services of a stack.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the manager on one home. Ending it leaves every service running; `agentctl shutdown` stops them.
    Run {
        /// The desired state, TOML or JSON; watched for changes [default: the control server that the host has joined;
        /// with --system, where it has not: /etc/agentd/stack.toml]
        #[arg(long)]
        stack: Option<PathBuf>,
        /// Folder for everything this agent keeps.
        #[arg(long, required_unless_present = "system")]
        home: Option<PathBuf>,
        /// The agent of the machine: its files under /etc, /var and /run, its firewall and names.
        #[arg(long, conflicts_with = "home")]
        system: bool,
        /// User that builds and services run as when started as root; `each-service` gives every service its own
        /// [default: nobody; with --system: each-service]
        #[arg(long, value_name = "USER")]
        run_as: Option<String>,
        /// Listen on every address of the host, not on loopback only.
        #[arg(long)]
        public: bool,
        /// With --home: keeps the firewall of the network namespace this runs in, as --system does for the machine.
        #[arg(long, requires = "home")]
        enforce_security: bool,
        /// With --enforce-security: an active UFW gets allows, as --system gives it.
        #[arg(long, requires = "enforce_security", hide = true)]
        ufw: bool,
    },
    /// Makes this host follow a control server.
    Join(JoinArgs),
    /// Makes this host follow nothing any more; services run on.
    Leave(LeaveArgs),
    /// The firewall by itself, without a manager.
    #[command(subcommand)]
    Firewall(FirewallVerb),
    /// The names of services in the machine's own /etc/hosts, which `agentd run --system` keeps there.
    Hosts {
        #[command(subcommand)]
        verb: HostsVerb,
    },
    /// Runs the data plane. Started by the manager under a shim, never by hand.
    #[command(hide = true)]
    Edge {
        #[arg(long)]
        snapshot: PathBuf,
    },
    /// Serves the files of a static service. Started by the manager under a shim, never by hand.
    #[command(hide = true)]
    Static {
        /// Folder below the current one.
        #[arg(long)]
        root: PathBuf,
        /// File below the root that answers what no file matches.
        #[arg(long)]
        fallback: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum HostsVerb {
    /// Takes them out, and nothing else. Again is fine; a manager that runs puts them back.
    Remove,
}

fn main() -> ExitCode {
    agentd_sys::process::unblock_signals();
    let outcome = match Cli::parse().verb {
        Verb::Run { stack, home, system: _, run_as, public, enforce_security, ufw } => {
            app::run(&RunOptions { stack, home, run_as, public, enforce_security, ufw })
        }
        Verb::Join(args) => return ended(join_cli::run_join(&args), join_cli::Error::exit),
        Verb::Leave(args) => return ended(join_cli::run_leave(&args), join_cli::Error::exit),
        Verb::Firewall(verb) => firewall_cli::run(&verb).map(|()| Exit::Ok).map_err(app::Error::from),
        Verb::Hosts { verb: HostsVerb::Remove } => app::remove_hosts().map(|()| Exit::Ok),
        Verb::Edge { snapshot } => app::edge(snapshot).map(|()| Exit::Ok),
        Verb::Static { root, fallback } => app::static_site(static_site::Options { root, fallback }).map(|()| Exit::Ok),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => ended(Err(error), app::Error::exit),
    }
}

fn ended<E: std::error::Error>(outcome: Result<(), E>, exit: impl Fn(&E) -> Exit) -> ExitCode {
    match outcome {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            // Nobody is left to tell when stderr is closed.
            let _ = writeln!(std::io::stderr(), "agentd: {}", chain(&error));
            exit(&error).into()
        }
    }
}
