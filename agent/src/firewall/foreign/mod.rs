//! What else decides about packets here, and whether a closed mode can be kept.
//!
//! Our table enforces wherever nft is usable: a drop of ours is final, whoever else accepts. What others do can only let in
//! less, go around netfilter, or take our table away. `gather` looks; `judge` decides purely from what was `Seen`.

mod gather;
mod judge;
mod xdp;

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::ufw;

pub use gather::gather;
pub use judge::judge;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub nft: NftSeen,
    pub ufw: UfwSeen,
    pub iptables: Option<Backend>,
    /// Tables of the old xtables hooks, which nft does not show; `filter`, `nat`.
    pub legacy_tables: BTreeSet<String>,
    pub is_firewalld_running: bool,
    pub engines: BTreeSet<Engine>,
    /// Links that would pass packets on to each other: forwarding is on, and there is more than one that is no guest's.
    pub forwarders: BTreeSet<String>,
    pub xdp: XdpSeen,
    pub place: Place,
    /// CAP_NET_ADMIN in our effective set.
    pub may_administer: bool,
    /// `nftables.service` of the distribution starts at boot.
    pub is_nftables_service_enabled: bool,
    /// Ports of this host that lead elsewhere.
    pub published: BTreeSet<Published>,
}

/// A port that is forwarded to a guest (DNAT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftSeen {
    Missing,
    /// It is there and could not list the rules; what it said.
    Refused(String),
    Usable {
        /// Somebody takes connections out of tracking.
        has_notrack: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UfwSeen {
    Absent,
    Installed {
        runtime: Runtime,
        /// `ENABLED=yes`: active after the next boot, whatever holds now.
        at_boot: bool,
        /// `IPV6=no`: UFW then drops all IPv6, outgoing too.
        manages_ipv6: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Active,
    Inactive,
    /// `ufw status` gave no answer.
    Unknown,
}

/// Which hooks `iptables` writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    NfTables,
    Legacy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    Docker,
    Podman,
    Libvirt,
    Kubernetes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XdpSeen {
    /// Links with a program attached; mostly none.
    On(BTreeSet<String>),
    CouldNotAsk,
}

/// Whose network it is that our rules are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Host,
    Container,
    /// A network namespace other than that of process 1.
    OtherNamespace,
}

/// What keeps a closed mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    Nftables,
    /// Our table, and allows in the active UFW so that it does not drop what our table lets in.
    NftablesWithUfwAllows,
    /// No usable nft: UFW alone. It leaves published ports of containers open, and opens up while it reloads.
    PartialUfw,
    /// Only `open` is honest.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// The mode is kept, yet something is beyond its reach.
    CannotVouch,
    /// The owner must decide first.
    Ask,
    /// Not without `--force`.
    Refuse,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub text: String,
    /// What to do about it.
    pub cure: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub enforcement: Enforcement,
    /// Why it is no more than that; empty where it is all.
    pub reason: String,
    /// Gravest first.
    pub findings: Vec<Finding>,
}

impl Verdict {
    pub fn gravest(&self) -> Option<Severity> {
        self.findings.first().map(|finding| finding.severity)
    }
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nftables => "nftables",
            Self::NftablesWithUfwAllows => "nftables (+ufw allows)",
            Self::PartialUfw => "partial (ufw)",
            Self::Nothing => "nothing",
        })
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::CannotVouch => "cannot vouch",
            Self::Ask => "ask",
            Self::Refuse => "refuse",
        })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
            Self::Libvirt => "libvirt",
            Self::Kubernetes => "Kubernetes",
        })
    }
}

impl From<ufw::State> for Runtime {
    fn from(state: ufw::State) -> Self {
        match state {
            ufw::State::Active => Self::Active,
            ufw::State::Inactive | ufw::State::Absent => Self::Inactive,
        }
    }
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
