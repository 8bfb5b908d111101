//! `agentd firewall`: what boot, the watchdog and people at a console do with the firewall, without a manager.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::exit_code::Exit;
use agentd_protocol::security::Mode;
use clap::{Args, Subcommand};
use ipnet::IpNet;
use nix::errno::Errno;
use serde_json::json;

use crate::firewall::files::Files;
use crate::firewall::kernel;
use crate::firewall::load::{Loaded, load};
use crate::firewall::remove::{Removed, remove};
use crate::firewall::selftest;
use crate::firewall::transaction::{self, Reverted, Transactions};
use crate::firewall::ufw::Ufw;
use crate::firewall::watchdog::{OwnProcess, guard};
use crate::firewall::{BreakGlass, Nft, Policy, Ruleset, facts, inspect, nft, ruleset};
use crate::firewall_look::{self, LookVerb};
use crate::firewall_preview;

/// State of the agent of the machine.
const STATE_DIR: &str = "/var/lib/agentd";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Facts(#[from] facts::Error),
    #[error(transparent)]
    Nft(#[from] nft::Error),
    #[error(transparent)]
    Look(#[from] firewall_look::Error),
    #[error(transparent)]
    Preview(#[from] firewall_preview::Error),
    #[error("cannot print")]
    Print(#[source] io::Error),
    #[error(transparent)]
    Selftest(#[from] selftest::Error),
    #[error(transparent)]
    Transaction(#[from] transaction::Error),
    #[error("the confirmed rules cannot be loaded as they were; simpler ones of the same mode are in force")]
    Simpler,
    #[error(
        "what was confirmed cannot be read; everything is shut but SSH; `agentctl security apply` of a mode sets it right"
    )]
    ShutButSsh,
    #[error("not everything could be taken back: {what}")]
    Left { what: String },
    #[error("the watchdog cannot be left behind")]
    Detach(#[source] io::Error),
}

impl Error {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Simpler | Self::ShutButSsh => Exit::Degraded,
            Self::Transaction(transaction::Error::Files(_)) => Exit::Home,
            Self::Left { .. }
            | Self::Selftest(_)
            | Self::Facts(_)
            | Self::Nft(_)
            | Self::Look(_)
            | Self::Preview(_)
            | Self::Print(_)
            | Self::Transaction(_)
            | Self::Detach(_) => Exit::Failed,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum FirewallVerb {
    /// Loads the confirmed rules, before any interface is up. Forgets a trial that the last boot did not finish.
    #[command(after_help = "\
Example:
  agentd firewall load

Exit codes: 0 the confirmed rules are in force, or there are none to load; 1 no rule could be loaded: nothing is shut; 6 \
rules are in force, though not those confirmed: simpler ones of the same mode, or, where what was confirmed cannot be \
read, everything is shut but SSH; 8 the files of the state cannot be read or written")]
    Load(Place),
    /// Ends a trial: the rules of before come back. Without TX, whichever trial runs.
    Rollback(RollbackArgs),
    /// Takes everything of ours out of the kernel and of UFW, and forgets what was confirmed. Again is fine.
    #[command(
        after_help = "Example:\n  agentd firewall remove\n\nExit codes: 0, 1 something could not be taken back; it says what"
    )]
    Remove(Place),
    /// Waits for the deadline of a trial and rolls it back. Started by the manager, never by hand.
    #[command(hide = true)]
    Watchdog(WatchdogArgs),
    /// The far end of the self-test's link. Started by the manager, never by hand.
    #[command(hide = true)]
    Outside,
    /// Prints the transaction a policy comes to on this host, for `nft -j -f -`; changes nothing.
    Render(RenderOptions),
    /// Prints what a mode on trial would hand to nft and ask of UFW, by the files of this host; changes nothing.
    Preview(firewall_preview::Options),
    /// Checks and applies what `render` prints.
    #[command(hide = true)]
    Apply(RenderOptions),
    /// Lets SSH in for a while on top of the rules there are.
    #[command(hide = true)]
    OpenSsh(OpenOptions),
    /// Prints what our table in the kernel says.
    #[command(hide = true)]
    Read,
    #[command(flatten)]
    Look(LookVerb),
}

#[derive(Debug, Args)]
pub struct Place {
    /// Folder of the agent's state.
    #[arg(long, default_value = STATE_DIR, value_name = "DIR")]
    state: PathBuf,
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// As `agentctl security status --json` shows it.
    tx: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub struct WatchdogArgs {
    tx: String,
    /// Goes on in a session of its own; the caller does not wait.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  agentd firewall render --mode daemon-port --proxy-port 8080 --ssh 203.0.113.0/24")]
pub struct RenderOptions {
    /// open, daemon-port or tunnel
    #[arg(long, value_parser = mode)]
    mode: Mode,
    /// Port of the proxy, for daemon-port; may be given again.
    #[arg(long, value_name = "PORT")]
    proxy_port: Vec<u16>,
    /// Network that may reach SSH, for daemon-port; may be given again.
    #[arg(long, value_name = "NETWORK")]
    ssh: Vec<IpNet>,
    /// Interface on which SSH may be reached; may be given again.
    #[arg(long, value_name = "NAME")]
    ssh_interface: Vec<String>,
    /// Interface on which everything passes; may be given again.
    #[arg(long, value_name = "NAME")]
    trusted_interface: Vec<String>,
    /// On trial, with this mode to return to; it shares ports and networks with the new one.
    #[arg(long, value_name = "MODE", value_parser = mode, requires = "window")]
    from: Option<Mode>,
    /// Seconds until the kernel returns by itself.
    #[arg(long, value_name = "SECONDS", requires = "from")]
    window: Option<u64>,
}

#[derive(Debug, Args)]
pub struct OpenOptions {
    /// Network that may reach SSH; may be given again.
    #[arg(value_name = "NETWORK")]
    ssh: Vec<IpNet>,
    /// Seconds until the kernel ends it.
    #[arg(long, value_name = "SECONDS")]
    window: u64,
}

fn mode(word: &str) -> Result<Mode, &'static str> {
    Mode::parse(word).ok_or("open, daemon-port or tunnel")
}

pub fn run(verb: &FirewallVerb) -> Result<(), Error> {
    match verb {
        FirewallVerb::Load(place) => match load(&transactions(&place.state)?)? {
            Loaded::Nothing => print("nothing is to be shut"),
            Loaded::Confirmed(mode) => print(&format!("the confirmed rules are loaded: {mode}")),
            Loaded::Minimal(_) => Err(Error::Simpler),
            Loaded::ShutButSsh => Err(Error::ShutButSsh),
        },
        FirewallVerb::Rollback(args) => print(match transactions(&args.place.state)?.revert(args.tx.as_deref())? {
            Reverted::Nothing => "no such trial runs; nothing was changed",
            Reverted::WasConfirmed => "the trial had been confirmed; its rules stay",
            Reverted::Done => "the rules of before are back",
        }),
        FirewallVerb::Remove(place) => forget(&place.state),
        FirewallVerb::Watchdog(args) => watch(args),
        FirewallVerb::Outside => Ok(selftest::outside()?),
        FirewallVerb::Render(options) => print(&render(options)?.text()),
        FirewallVerb::Preview(options) => print(&firewall_preview::act(options, &transactions(Path::new(STATE_DIR))?)?),
        FirewallVerb::Apply(options) => {
            let (nft, ruleset) = (Nft::find()?, render(options)?);
            nft.check(&ruleset)?;
            Ok(nft.apply(&ruleset)?)
        }
        FirewallVerb::OpenSsh(options) => {
            let glass = BreakGlass { ssh: options.ssh.clone(), left: Duration::from_secs(options.window) };
            Ok(Nft::find()?.amend(&ruleset::open_ssh(&glass))?)
        }
        FirewallVerb::Read => read(&Nft::find()?),
        FirewallVerb::Look(verb) => print(&firewall_look::act(verb)?),
    }
}

fn watch(args: &WatchdogArgs) -> Result<(), Error> {
    if args.detach {
        let mut own = Command::new("/proc/self/exe");
        own.args(["firewall", "watchdog", &args.tx, "--state"]).arg(&args.place.state).current_dir("/");
        own.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Not waited for: with our end it becomes init's.
        return own.spawn().map(drop).map_err(Error::Detach);
    }
    match nix::unistd::setsid() {
        // systemd starts every service as the leader of a session.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(Error::Detach(errno.into())),
    }
    Ok(guard(&transactions(&args.place.state)?, &args.tx)?)
}

fn transactions(state_dir: &Path) -> Result<Transactions, Error> {
    let (is_the_machines, files) = (state_dir == Path::new(STATE_DIR), Files::below(state_dir));
    // Another's say in UFW is what its manager told UFW.
    let ufw = (is_the_machines || files.journal_path().exists()).then(Ufw::system);
    let watchdog = Arc::new(OwnProcess::choose(is_the_machines));
    Ok(Transactions::new(kernel::of_this_host()?, watchdog, files).with_ufw(ufw))
}

fn forget(state_dir: &Path) -> Result<(), Error> {
    let Removed { done, left } = remove(&transactions(state_dir)?);
    done.iter().try_for_each(|line| print(line))?;
    match (done.is_empty(), left.is_empty()) {
        (_, false) => Err(Error::Left { what: left.join("; ") }),
        (true, true) => print("there was nothing of ours"),
        (false, true) => Ok(()),
    }
}

fn render(options: &RenderOptions) -> Result<Ruleset, Error> {
    let facts = facts::gather(&facts::Sources::host())?.with_ssh_known(&BTreeSet::new());
    let policy = |mode| Policy {
        mode,
        proxy_tcp: options.proxy_port.iter().copied().collect(),
        ssh: options.ssh.clone(),
        owner_ssh: Vec::new(),
        ssh_interfaces: BTreeSet::from_iter(options.ssh_interface.clone()),
        trusted_interfaces: BTreeSet::from_iter(options.trusted_interface.clone()),
    };
    Ok(match (options.from, options.window) {
        (Some(from), Some(window)) => {
            ruleset::trial(&policy(from), &policy(options.mode), &facts, Duration::from_secs(window))
        }
        (None, _) | (_, None) => ruleset::confirmed(&policy(options.mode), &facts),
    })
}

fn read(nft: &Nft) -> Result<(), Error> {
    let table = nft.table()?;
    let found = inspect::read(table.as_ref());
    let dropped = table.as_ref().map(inspect::dropped).unwrap_or_default();
    let found_word = match &found {
        inspect::Found::Absent => "absent".to_owned(),
        inspect::Found::Confirmed { mode, revision } => format!("confirmed mode={mode} rev={revision}"),
        inspect::Found::Trial { from, to, left } => format!("trial {from} to {to} left={}s", left.as_secs()),
        inspect::Found::Altered { reason } => format!("altered: {reason}"),
    };
    print(
        &json!({
            "found": found_word,
            "exposure": inspect::exposure(&found),
            "dropped_in": dropped.input,
            "dropped_forward": dropped.forward,
        })
        .to_string(),
    )
}

fn print(line: &str) -> Result<(), Error> {
    writeln!(io::stdout(), "{line}").map_err(Error::Print)
}
