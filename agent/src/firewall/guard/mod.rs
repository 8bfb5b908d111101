//! Who is on this host by SSH, and whether a policy would let them come back.
//!
//! Never "am I in an SSH session": sudo empties the environment, tmux and systemd cut the ancestry. "Is anyone": by the
//! sockets, which no way of starting a program hides; by the environment of processes and by logind beside them. Decided
//! purely from a `Scene`; `gather` makes one.
//! A connection that is established outlives a switch (P7); what is judged is the next one.

mod gather;
mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use agentd_sys::listeners::Socket;

pub use gather::{Error, gather};
pub use judge::{Verdict, judge};

/// Processes that hold an SSH connection or listen for one. OpenSSH from 9.8 on has one program per session and one for
/// the time before a login.
const SERVERS: [&str; 4] = ["sshd", "sshd-session", "sshd-auth", "dropbear"];
/// Where nothing says otherwise (RFC 4253 §4.1).
const SSH_PORT: u16 = 22;

/// What was seen of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// Established; addresses as the packets have them.
    pub connections: Vec<Socket>,
    /// TCP sockets that wait: port and inode.
    pub listening: Vec<(u16, u64)>,
    /// As `Facts` has them.
    pub ssh_ports: BTreeSet<u16>,
    /// By inode, the processes that hold it.
    pub holders: BTreeMap<u64, Vec<Holder>>,
    /// `SSH_CONNECTION` of processes: peer and own end. May be of a session long gone.
    pub environments: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Addresses that logind has open remote sessions from.
    pub sessions: BTreeSet<IpAddr>,
    /// Which interface has which address.
    pub interfaces: BTreeMap<IpAddr, String>,
    /// Ports the kernel gives to connections that this host opens.
    pub ephemeral: RangeInclusive<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub name: String,
}

/// What gave a peer away; the first that did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// A process of an SSH server holds the connection.
    Held,
    /// It came to a port that an SSH server listens on.
    Port,
    /// A process says so in its `SSH_CONNECTION`, and the connection is there.
    Environment,
    /// logind has a remote session from that address, and a connection is there.
    Logind,
}

/// Somebody on SSH. `port` is ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    pub address: IpAddr,
    pub port: u16,
    /// The one that has the address they came to; none where it is known to none.
    pub interface: Option<String>,
    pub how: How,
}

/// Those of `Facts`, and those of any process by a server's name: whoever came there is on SSH, let in again or not.
fn ssh_ports(scene: &Scene) -> BTreeSet<u16> {
    let serves = |inode: &u64| scene.holders.get(inode).into_iter().flatten().any(is_server);
    let served = scene.listening.iter().filter(|(_, inode)| serves(inode)).map(|(port, _)| *port);
    served.chain(scene.ssh_ports.iter().copied()).collect()
}

fn is_server(holder: &Holder) -> bool {
    SERVERS.contains(&holder.name.as_str())
}

/// Everybody on SSH, sorted, each address and port once. Peers on loopback are left out: loopback always passes (P1).
pub fn peers(scene: &Scene) -> Vec<Peer> {
    let ports = ssh_ports(scene);
    let mut found: BTreeMap<(IpAddr, u16, Option<String>), How> = BTreeMap::new();
    for connection in &scene.connections {
        let Some(how) = how(scene, &ports, connection) else { continue };
        let (peer, local) = (connection.peer.ip(), connection.address.ip());
        if peer.is_loopback() {
            continue;
        }
        let interface = scene.interfaces.get(&local).cloned();
        let entry = found.entry((peer, connection.address.port(), interface)).or_insert(how);
        *entry = how.min(*entry);
    }
    found.into_iter().map(|((address, port, interface), how)| Peer { address, port, interface, how }).collect()
}

fn how(scene: &Scene, ports: &BTreeSet<u16>, connection: &Socket) -> Option<How> {
    let port = connection.address.port();
    let waits = scene.listening.iter().any(|(listening, _)| *listening == port);
    if ports.contains(&port) {
        return Some(if is_held(scene, connection) { How::Held } else { How::Port });
    }
    // A server opens connections too, for `ssh -L`: those have a port of the kernel's choice that nobody listens on.
    let forwarded = scene.ephemeral.contains(&port) && !waits;
    if is_held(scene, connection) && !forwarded {
        return Some(How::Held);
    }
    if scene.environments.contains(&(connection.peer, connection.address)) {
        return Some(How::Environment);
    }
    // By address alone: only on a port that could be SSH's, or every visitor of a web page would be on SSH.
    (scene.sessions.contains(&connection.peer.ip()) && port == SSH_PORT).then_some(How::Logind)
}

fn is_held(scene: &Scene, connection: &Socket) -> bool {
    scene.holders.get(&connection.inode).into_iter().flatten().any(is_server)
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
