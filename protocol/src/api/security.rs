//! What the host lets in: questions and orders about it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::security::{Exposure, Mode};

/// How long a new mode is on trial when nobody says.
pub const WINDOW_DEFAULT_MS: u64 = 120_000;
/// Shorter, nobody could confirm from a new connection.
pub const WINDOW_MIN_MS: u64 = 2_000;
/// Longer, a mistake would last.
pub const WINDOW_MAX_MS: u64 = 3_600_000;
/// Longest that SSH may be let in for a while.
pub const OPEN_MAX_MS: u64 = 86_400_000;
/// Networks of one order.
pub const NETWORKS_MAX: usize = 64;

/// `GET /v1/security`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityStatus {
    pub at_unix_ms: u64,
    /// Why this agent leaves the firewall alone; `None`: it keeps it.
    pub unmanaged: Option<String>,
    /// Of what was confirmed.
    pub mode: Mode,
    /// As the kernel has it now.
    pub exposure: Exposure,
    /// By what, and how far, in words.
    pub enforcement: String,
    pub origin: Option<Origin>,
    pub ssh: Vec<IpNet>,
    pub trial: Option<TrialStatus>,
    pub awaiting: Option<Awaiting>,
    pub open_ssh: Option<OpenSsh>,
    /// How the kernel's rules differ from what was confirmed.
    pub altered: Option<String>,
    pub drops: Drops,
    /// How often somebody else's change was undone since this manager started.
    pub repairs: u64,
    /// What the last order came to, in words.
    pub last: Option<String>,
}

/// Who decided what is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    Document,
    /// `agentctl security apply`: kept until the document's section changes.
    Local,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialStatus {
    pub tx: String,
    pub from: Mode,
    pub to: Mode,
    pub left_ms: u64,
    pub origin: Origin,
}

/// What the document asks for and a person has to agree to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaiting {
    pub mode: Mode,
    pub why: String,
    /// To be typed.
    pub command: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSsh {
    pub networks: Vec<IpNet>,
    pub left_ms: u64,
}

/// Packets our rules have dropped since they were loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Drops {
    pub input: u64,
    pub forward: u64,
}

/// One line of `agentctl status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityBrief {
    pub mode: Mode,
    pub exposure: Exposure,
    pub enforcement: String,
    /// The rules are as confirmed or, during a trial, as they are tried out.
    pub is_kept: bool,
    /// What wants a person: a trial, a question, rules that were changed.
    pub notice: Option<String>,
}

/// `POST /v1/security/plan` and `/apply`; what is left out stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityOrder {
    pub mode: Option<Mode>,
    pub ssh: Option<Vec<IpNet>>,
    pub window_ms: Option<u64>,
    /// Typed by a person whose order ends somebody's SSH.
    pub phrase: Option<String>,
    /// A person agrees to all that [`SecurityPlan::asks`] names.
    pub accept: bool,
    /// A person goes on against all that [`SecurityPlan::refuses`] names.
    pub force: bool,
    pub without_checks: Vec<CheckName>,
}

/// `POST /v1/security/confirm`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityConfirm {
    /// The trial that runs, where none is named.
    pub tx: Option<String>,
}

/// `POST /v1/security/open`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecurityOpen {
    pub ssh: Vec<IpNet>,
    pub for_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityPlan {
    pub now: Mode,
    pub wanted: Mode,
    pub wanted_ssh: Vec<IpNet>,
    /// What else filters on this host, and what the mode cannot vouch for.
    pub tools: Vec<String>,
    /// What will enforce it, and why that.
    pub enforcement: String,
    /// What a person has to agree to, by `--accept`.
    pub asks: Vec<String>,
    /// What speaks against the mode here; `--force` goes on all the same.
    pub refuses: Vec<String>,
    /// What will stop being reachable from outside.
    pub closes: Vec<String>,
    pub ssh: Vec<SshSession>,
    /// To be typed, where the order ends somebody's SSH.
    pub phrase: Option<String>,
    pub checks: Vec<Check>,
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshSession {
    pub peer: IpAddr,
    /// Of this host.
    pub port: u16,
    /// Whether a new connection from there would be let in.
    pub comes_back: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckName {
    Dns,
    #[serde(rename = "outbound-ipv4")]
    OutboundIpv4,
    #[serde(rename = "outbound-ipv6")]
    OutboundIpv6,
    Proxy,
    Sessions,
    Control,
}

impl CheckName {
    pub const ALL: [Self; 6] =
        [Self::Dns, Self::OutboundIpv4, Self::OutboundIpv6, Self::Proxy, Self::Sessions, Self::Control];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::OutboundIpv4 => "outbound-ipv4",
            Self::OutboundIpv6 => "outbound-ipv6",
            Self::Proxy => "proxy",
            Self::Sessions => "sessions",
            Self::Control => "control",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == word)
    }
}

impl std::fmt::Display for CheckName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Colour {
    Green,
    Red,
    NotApplicable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: CheckName,
    pub colour: Colour,
    pub text: String,
}

/// `POST /v1/security/apply`, `/confirm`, `/revert`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityDone {
    pub message: String,
    /// The trial that began.
    pub trial: Option<TrialStatus>,
    pub checks: Vec<Check>,
}

/// `POST /v1/security/selftest`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selftest {
    /// Ports tried from a link that stands for the outside.
    pub tried: Vec<SocketAddr>,
    /// Those that answered, though the mode shuts them.
    pub leaks: Vec<SocketAddr>,
    /// Those that were silent, though the mode lets them in.
    pub shut: Vec<SocketAddr>,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_named_on_the_wire_as_on_the_command_line() {
        for name in CheckName::ALL {
            assert_eq!(serde_json::to_value(name).unwrap(), name.as_str());
            assert_eq!(CheckName::parse(name.as_str()), Some(name));
        }
        assert_eq!(CheckName::parse("all"), None);
    }
}
