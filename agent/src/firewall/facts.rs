//! What this host is like at the moment the rules are made.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An established TCP connection that somebody else opened to this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Session {
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// SSH let in for a while, whatever the mode (T2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakGlass {
    pub ssh: Vec<IpNet>,
    /// What is left of the time; the kernel counts it down.
    pub left: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Ports SSH listens on, read off the sockets; 22 where none is found.
    pub ssh_ports: BTreeSet<u16>,
    /// Bridges without a physical port: docker0, virbr0, podman's (P8).
    pub guest_interfaces: BTreeSet<String>,
    /// Bridges whose frames netfilter sees as forwarded (br_netfilter): from and to the same bridge passes.
    pub bridged: BTreeSet<String>,
    /// Connections to keep although the kernel may not have tracked them (P7).
    pub survivors: BTreeSet<Session>,
    pub break_glass: Option<BreakGlass>,
}
