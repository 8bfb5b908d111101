//! What somebody decided to let in. No fact of the host is in here: the same policy means the same thing everywhere.

use std::collections::BTreeSet;

use agentd_protocol::security::Mode;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub mode: Mode,
    /// Ports of the proxy; let in by `daemon-port` alone (A1).
    pub proxy_tcp: BTreeSet<u16>,
    /// Networks that may reach SSH, as the document or a person asked; in `daemon-port` alone (A2).
    pub ssh: Vec<IpNet>,
    /// Others, which the host's owner lets in whatever is asked: a network that leaves policy.toml leaves the rules.
    #[serde(default)]
    pub owner_ssh: Vec<IpNet>,
    /// Interfaces on which SSH may be reached in both closed modes (A2, T1).
    pub ssh_interfaces: BTreeSet<String>,
    /// Interfaces on which everything passes (P9).
    pub trusted_interfaces: BTreeSet<String>,
}

impl Policy {
    /// Nothing is shut, nothing is named.
    pub fn open() -> Self {
        Self {
            mode: Mode::Open,
            proxy_tcp: BTreeSet::new(),
            ssh: Vec::new(),
            owner_ssh: Vec::new(),
            ssh_interfaces: BTreeSet::new(),
            trusted_interfaces: BTreeSet::new(),
        }
    }

    /// All of them, each once.
    pub fn ssh_networks(&self) -> Vec<IpNet> {
        self.ssh.iter().chain(&self.owner_ssh).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// In place of one that cannot be read: nobody is shut out of SSH, whose own doors hold, and nothing else is open.
    pub fn shut_but_ssh() -> Self {
        let anyone = ["0.0.0.0/0", "::/0"].map(|network| network.parse().expect("a network"));
        Self { mode: Mode::DaemonPort, ssh: anyone.to_vec(), ..Self::open() }
    }
}
