//! `agentctl security`: what this host lets in, and changing it without locking anybody out.

mod apply;
mod confirm;
mod open;
mod page;
mod plan;
mod revert;
mod selftest;
mod status;

use agentd_protocol::api::{CheckName, SecurityOrder};
use agentd_protocol::exit_code::Exit;
use agentd_protocol::security::Mode;
use agentd_protocol::stack::Span;
use ipnet::IpNet;

use crate::client::{Client, Error};
use crate::out::Out;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl security status
  agentctl security plan --mode tunnel
  agentctl security apply --mode daemon-port --ssh 203.0.113.0/24
  agentctl security confirm                         from a NEW connection
  agentctl security open --ssh 198.51.100.20/32 --for 30m

A change is on trial first: the kernel itself goes back to the rules of before when nobody confirms it, also when agentd \
is killed or the host restarts. docs/security-modes.md says what each mode lets in.

Exit codes: 0, 1 nothing was changed (the message says why), 4 no agentd answers, 6 the rules are not as confirmed \
(status), or something answers that should not (selftest)")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show what an order would shut, whom it would cut off, and whether this host works
    Plan(Wanted),
    /// Put a mode on trial
    Apply(apply::Args),
    /// Keep the mode that is on trial; from a new connection, which proves that there is a way in
    Confirm(confirm::Args),
    /// End the trial now: the rules of before come back
    Revert,
    /// Show what the kernel lets in
    Status(status::Args),
    /// Connect to every port of this host through a link that stands for the outside
    Selftest,
    /// Let SSH in for a while, whatever the mode; the kernel ends it
    Open(open::Args),
}

/// What is left out stays as it is.
#[derive(Debug, clap::Args)]
struct Wanted {
    /// open, daemon-port or tunnel [default: the document's, else the one in force]
    #[arg(long, value_parser = mode)]
    mode: Option<Mode>,
    /// Network that may reach SSH in `daemon-port`; may be given several times
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    ssh: Vec<IpNet>,
}

impl Wanted {
    fn order(&self) -> SecurityOrder {
        SecurityOrder {
            mode: self.mode,
            ssh: (!self.ssh.is_empty()).then(|| self.ssh.clone()),
            ..SecurityOrder::default()
        }
    }

    fn names_nothing(&self) -> bool {
        self.mode.is_none() && self.ssh.is_empty()
    }
}

pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    match &args.verb {
        Verb::Plan(wanted) => plan::run(client, wanted, out).await,
        Verb::Apply(args) => apply::run(client, args, out).await,
        Verb::Confirm(args) => confirm::run(client, args, out).await,
        Verb::Revert => revert::run(client, out).await,
        Verb::Status(args) => status::run(client, args, out).await,
        Verb::Selftest => selftest::run(client, out).await,
        Verb::Open(args) => open::run(client, args, out).await,
    }
}

fn mode(word: &str) -> Result<Mode, String> {
    Mode::parse(word).ok_or_else(|| "not one of open, daemon-port, tunnel".to_owned())
}

/// An address alone is a network of one.
fn network(text: &str) -> Result<IpNet, String> {
    let alone = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .map(|network| network.trunc())
        .or_else(|_| alone())
        .map_err(|_| "not a network such as 203.0.113.0/24 or 2001:db8::/32".to_owned())
}

fn check_name(word: &str) -> Result<CheckName, String> {
    CheckName::parse(word).ok_or_else(|| {
        let known: Vec<&str> = CheckName::ALL.iter().map(|name| name.as_str()).collect();
        format!("not one of {}", known.join(", "))
    })
}

fn span(text: &str) -> Result<Span, String> {
    text.parse().map_err(|bad: agentd_protocol::stack::BadSpan| bad.to_string())
}
