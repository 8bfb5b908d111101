//! `agentd firewall preview`: what `agentctl security apply` of the same words would hand to nft and ask of UFW. Works
//! without a manager, also with a program that is not installed yet: the installer shows it. Changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_document::Format;
use agentd_protocol::api::WINDOW_DEFAULT_MS;
use agentd_protocol::places::Places;
use agentd_protocol::security::{Mode, Security};
use agentd_protocol::stack::{PROXY_PORT_DEFAULT, Span};
use clap::Args;
use ipnet::IpNet;

use crate::config;
use crate::firewall::files::{self, Moment};
use crate::firewall::ufw::{Allow, Purpose, State, Ufw, Wanted};
use crate::firewall::wishes::policy_of;
use crate::firewall::{Facts, Policy, Transactions, nft, ruleset, transaction};
use crate::firewall_launch::owner_rules;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the stack file {path} cannot be read")]
    Stack {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}:{problem}; `agentctl check {path}` shows all")]
    Document { path: PathBuf, problem: String },
    #[error(transparent)]
    Owner(#[from] config::Error),
    #[error(transparent)]
    Files(#[from] files::Error),
    #[error(transparent)]
    Transaction(#[from] transaction::Error),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  agentd firewall preview --stack stack.toml --mode daemon-port --ssh 203.0.113.0/24

The last line is what nft would be given, to the byte, as long as the host stays as it is: who is connected now is in it.")]
pub struct Options {
    /// open, daemon-port or tunnel
    #[arg(long, value_parser = mode)]
    mode: Mode,
    /// Network that may reach SSH in daemon-port; may be given again [default: as `agentctl security apply` has it]
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    ssh: Vec<IpNet>,
    /// Where the proxy's port and the document's own networks are from [default: /etc/agentd/stack.toml; a host that takes
    /// its stack from a control server has none, and its port is the usual one]
    #[arg(long, value_name = "FILE")]
    stack: Option<PathBuf>,
    /// Where the host's own port is from
    #[arg(long, value_name = "FILE", default_value = "/etc/agentd/agentd.toml")]
    settings: PathBuf,
    /// What no document may change on this host
    #[arg(long, value_name = "FILE", default_value = "/etc/agentd/policy.toml")]
    policy: PathBuf,
    /// How long the trial would last
    #[arg(long, value_name = "TIME", default_value_t = Span::from_secs(WINDOW_DEFAULT_MS / 1_000))]
    window: Span,
}

fn mode(word: &str) -> Result<Mode, &'static str> {
    Mode::parse(word).ok_or("open, daemon-port or tunnel")
}

/// An address alone is a network of one.
fn network(text: &str) -> Result<IpNet, String> {
    let alone = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().map(|network| network.trunc()).or_else(|_| alone());
    network.map_err(|_| "not a network such as 203.0.113.0/24 or 2001:db8::/32".to_owned())
}

/// What is to be printed.
pub fn act(options: &Options, transactions: &Transactions) -> Result<String, Error> {
    let (now, from) = (Moment::now(), transactions.policy()?);
    let to = wanted(options, &from)?;
    let pending = transactions.files().pending()?.filter(|pending| pending.left_ms(&now) > 0);
    if let Some(pending) = pending.filter(|pending| pending.to == to) {
        let left_s = pending.left_ms(&now) / 1_000;
        return Ok(format!(
            "{} is on trial already, for {left_s} s more; `agentctl security confirm` from a NEW connection keeps it",
            to.mode
        ));
    }
    if to == from {
        return Ok(format!("{} is in force already", to.mode));
    }
    let window = Duration::from_millis(options.window.as_ms());
    let facts = transactions.facts(&now)?;
    let mut lines = vec![format!(
        "{} would be on trial for {}; then {} is back, unless it is confirmed",
        to.mode, options.window, from.mode
    )];
    lines.extend(told_to_ufw(&from, &to, &facts));
    match transactions.check(&to, window) {
        Ok(()) => {}
        Err(transaction::Error::Check(nft::Error::Missing)) => {
            lines.push("nft is not installed yet: this kernel was not asked about the rules".to_owned());
        }
        Err(error) => return Err(error.into()),
    }
    lines.push("The rules, as nft would be given them:".to_owned());
    lines.push(ruleset::trial(&from, &to, &facts, window).text());
    Ok(lines.join("\n"))
}

/// As the manager makes it of an order: what is not said is the document's, else as it is.
fn wanted(options: &Options, now: &Policy) -> Result<Policy, Error> {
    let owner = owner_rules(&options.policy)?;
    let (port, security) = document(options.stack.as_deref())?;
    let port = config::Settings::read(&options.settings)?.proxy_port().unwrap_or(port);
    let security = security.filter(|security| security.mode == options.mode);
    let ssh = match (options.ssh.is_empty(), security) {
        (false, _) => options.ssh.clone(),
        (true, Some(security)) => security.ssh,
        (true, None) => now.ssh.clone(),
    };
    Ok(policy_of(options.mode, &ssh, port, &owner))
}

/// The port a document asks for, and what it asks to be let in.
fn document(named: Option<&Path>) -> Result<(u16, Option<Security>), Error> {
    let usual = Places::system().stack_file();
    match read(named.unwrap_or(&usual)) {
        Ok(stack) => Ok((stack.proxy.port, stack.security)),
        Err(Error::Stack { source, .. }) if named.is_none() && source.kind() == io::ErrorKind::NotFound => {
            Ok((PROXY_PORT_DEFAULT, None))
        }
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> Result<agentd_protocol::stack::Stack, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Stack { path: path.to_owned(), source })?;
    agentd_document::read(&text, Format::of(path)).map_err(|problems| {
        let problem = problems.first().map(ToString::to_string).unwrap_or_default();
        Error::Document { path: path.to_owned(), problem }
    })
}

/// One line for each allow, in the words of its comment there.
fn told_to_ufw(from: &Policy, to: &Policy, facts: &Facts) -> Vec<String> {
    let wanted = Wanted::by(from, facts).and(Wanted::by(to, facts));
    if wanted == Wanted::default() || !matches!(Ufw::system().state(), Ok(State::Active)) {
        return Vec::new();
    }
    let anywhere =
        wanted.proxy.iter().map(|port| format!("TCP port {port} from anywhere ({})", Purpose::Proxy.comment()));
    let ssh = wanted.ssh_ports.iter().flat_map(|&port| {
        let allow = move |&from: &IpNet| Allow { purpose: Purpose::Ssh, from, port };
        wanted.ssh.iter().map(move |from| format!("{} ({})", allow(from), Purpose::Ssh.comment()))
    });
    anywhere.chain(ssh).map(|allow| format!("ufw would be told to allow, where it does not yet: {allow}")).collect()
}
