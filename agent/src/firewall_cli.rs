//! `agentd firewall`: what boot, the watchdog and a person at the console run without a manager. Plain code: no tokio, no
//! database, no network.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use agentd_protocol::exit_code::Exit;
use agentd_sys::causes::chain;
use clap::Subcommand;

use crate::firewall::files::Files;
use crate::firewall::load::{Loaded, load};
use crate::firewall::nft::{self, Nft};
use crate::firewall::transaction::{self, Reverted, Transactions};
use crate::firewall::watchdog::{OwnProcess, guard};

/// State of the agent of the machine.
const STATE_DIR: &str = "/var/lib/agentd";

#[derive(Debug, Subcommand)]
pub enum FirewallVerb {
    /// Loads the confirmed rules, before any interface is up. Forgets a trial that the last boot did not finish.
    Load(Place),
    /// Ends a trial: the rules of before come back. Without TX, whichever trial runs.
    Rollback(RollbackArgs),
    /// Waits for the deadline of a trial and rolls it back. Started by the manager, never by hand.
    #[command(hide = true)]
    Watchdog(WatchdogArgs),
}

#[derive(Debug, clap::Args)]
pub struct Place {
    /// Folder of the agent's state.
    #[arg(long, default_value = STATE_DIR, value_name = "DIR")]
    state: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    /// As `agentctl security status` shows it.
    tx: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub struct WatchdogArgs {
    tx: String,
    /// Goes on in a session of its own; the caller does not wait.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Nft(#[from] nft::Error),
    #[error(transparent)]
    Transaction(#[from] transaction::Error),
    #[error("the watchdog cannot be left behind")]
    Detach(#[source] std::io::Error),
}

pub fn run(verb: &FirewallVerb) -> Exit {
    match act(verb) {
        Ok((exit, said)) => {
            say(said);
            exit
        }
        Err(error) => {
            say(&chain(&error));
            match error {
                Error::Transaction(transaction::Error::Files(_)) => Exit::Home,
                Error::Nft(_) | Error::Transaction(_) | Error::Detach(_) => Exit::Failed,
            }
        }
    }
}

fn act(verb: &FirewallVerb) -> Result<(Exit, &'static str), Error> {
    match verb {
        FirewallVerb::Load(place) => Ok(match load(&transactions(&place.state)?)? {
            Loaded::Nothing => (Exit::Ok, "nothing is to be shut"),
            Loaded::Confirmed(_) => (Exit::Ok, "the confirmed rules are loaded"),
            Loaded::Minimal(_) => (Exit::Degraded, "the confirmed rules cannot be loaded as they were; simpler ones of the same mode are"),
            Loaded::ShutButSsh => (
                Exit::Degraded,
                "what was confirmed cannot be read; everything is shut but SSH; `agentctl security apply` sets it right",
            ),
        }),
        FirewallVerb::Rollback(args) => Ok((
            Exit::Ok,
            match transactions(&args.place.state)?.revert(args.tx.as_deref())? {
                Reverted::Nothing => "no such trial runs; nothing was changed",
                Reverted::WasConfirmed => "the trial had been confirmed; its rules stay",
                Reverted::Done => "the rules of before are back",
            },
        )),
        FirewallVerb::Watchdog(args) if args.detach => {
            let mut own = Command::new("/proc/self/exe");
            own.args(["firewall", "watchdog", &args.tx, "--state"]).arg(&args.place.state).current_dir("/");
            own.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // Not waited for: with our end it becomes init's.
            own.spawn().map_err(Error::Detach)?;
            Ok((Exit::Ok, "the watchdog is armed"))
        }
        FirewallVerb::Watchdog(args) => {
            nix::unistd::setsid().map_err(|errno| Error::Detach(errno.into()))?;
            guard(&transactions(&args.place.state)?, &args.tx)?;
            Ok((Exit::Ok, "the trial is over"))
        }
    }
}

fn transactions(state_dir: &Path) -> Result<Transactions, Error> {
    let watchdog = OwnProcess::choose(state_dir == Path::new(STATE_DIR));
    Ok(Transactions::new(Arc::new(Nft::find()?), Arc::new(watchdog), Files::below(state_dir)))
}

fn say(text: &str) {
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "agentd: {text}");
}
