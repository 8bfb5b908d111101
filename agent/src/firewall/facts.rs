//! What this host is like at the moment the rules are made.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{links, sockets};

/// Where SSH is until a server was seen anywhere (RFC 4251 §9).
const SSH_PORT: u16 = 22;

/// An established TCP connection of this host with another one.
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
    /// Ports SSH listens on, read off the sockets; see [`Facts::with_ssh_known`] for when it does not.
    pub ssh_ports: BTreeSet<u16>,
    /// Bridges without a physical port: docker0, virbr0, podman's (P8).
    pub guest_interfaces: BTreeSet<String>,
    /// Bridges whose frames netfilter sees as forwarded (br_netfilter): from and to the same bridge passes.
    pub bridged: BTreeSet<String>,
    /// Connections to keep although the kernel may not have tracked them (P7).
    pub survivors: BTreeSet<Session>,
    /// `None` leaves in place what the kernel is counting down.
    pub break_glass: Option<BreakGlass>,
}

impl Facts {
    /// A server that is away for a moment (a restart, an upgrade, the end of the host) comes back where it was.
    pub fn with_ssh_known(mut self, last_found: &BTreeSet<u16>) -> Self {
        if self.ssh_ports.is_empty() {
            self.ssh_ports = if last_found.is_empty() { [SSH_PORT].into() } else { last_found.clone() };
        }
        self
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot tell which interfaces lead to guests; look at {path}")]
    Interfaces {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Where the kernel and the service manager tell about the host; another tree in tests.
#[derive(Debug, Clone)]
pub struct Sources {
    pub proc: PathBuf,
    pub sys: PathBuf,
    /// Root of the folders in which units lie (systemd.unit(5)).
    pub root: PathBuf,
}

impl Sources {
    pub fn host() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), root: "/".into() }
    }
}

/// Without the interfaces of guests: they reach nobody, everything else is as it should be.
pub fn but_interfaces(sources: &Sources) -> Facts {
    Facts { ssh_ports: sockets::ssh_ports(sources), survivors: sockets::survivors(sources), ..Facts::default() }
}

/// As this network namespace is now. Break-glass is no fact of the host: whoever opens it says so.
pub fn gather(sources: &Sources) -> Result<Facts, Error> {
    let links = links::gather(sources)?;
    Ok(Facts {
        ssh_ports: sockets::ssh_ports(sources),
        guest_interfaces: links.guests,
        bridged: links.bridged,
        survivors: sockets::survivors(sources),
        break_glass: None,
    })
}
