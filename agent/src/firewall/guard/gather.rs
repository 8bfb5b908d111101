//! Looks for what `Scene` holds. What one place does not tell, another may: only the sockets must be readable.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

use agentd_sys::listeners::{self, Socket, Transport};

use super::super::Facts;
use super::{Holder, Scene};

/// Read of one process's environment, bytes; ARG_MAX bounds it to some MiB, sshd puts its own first.
const ENVIRONMENT_BYTES_MAX: u64 = 256 << 10;
/// ip(7), where the kernel says nothing else.
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("/proc/net/tcp cannot be read, so nobody can say who is on SSH: is /proc mounted?")]
    Connections(#[source] io::Error),
    #[error("the addresses of this host cannot be read")]
    Addresses(#[source] io::Error),
}

pub fn gather(facts: &Facts) -> Result<Scene, Error> {
    // A table that cannot be read would look like nobody.
    std::fs::File::open(Path::new("/proc").join("self/net/tcp")).map_err(Error::Connections)?;
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let connections: Vec<Socket> = listeners::established_in(Path::new("/proc"))
        .into_iter()
        .map(|socket| Socket { address: plain(socket.address), peer: plain(socket.peer), ..socket })
        .collect();
    let listening: Vec<(u16, u64)> =
        listeners::listening(Transport::Tcp).iter().map(|socket| (socket.address.port(), socket.inode)).collect();
    let inodes: BTreeSet<u64> =
        connections.iter().map(|one| one.inode).chain(listening.iter().map(|(_, inode)| *inode)).collect();
    let holder = |pid| Holder { pid, name: listeners::name_of(pid) };
    let holders = listeners::holders(&inodes)
        .into_iter()
        .map(|(inode, pids)| (inode, pids.into_iter().map(holder).collect()))
        .collect();
    Ok(Scene {
        connections,
        listening,
        ssh_ports: facts.ssh_ports.clone(),
        holders,
        environments: environments(),
        sessions: sessions(Path::new("/run/systemd/sessions")),
        interfaces: interfaces().map_err(Error::Addresses)?,
        ephemeral: ephemeral(&std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default()),
    })
}

/// Of every process we may look into; one that ends meanwhile is left out.
fn environments() -> BTreeSet<(SocketAddr, SocketAddr)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
    let read = |path: &Path| {
        let mut bytes = Vec::new();
        std::fs::File::open(path).ok()?.take(ENVIRONMENT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        ssh_connection(&bytes)
    };
    processes.filter_map(|entry| read(&entry.path().join("environ"))).collect()
}

/// `SSH_CONNECTION=198.51.100.20 50000 192.0.2.1 22` (ssh(1)).
pub(super) fn ssh_connection(environ: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let value = environ.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"SSH_CONNECTION="))?;
    let words: Vec<&str> = std::str::from_utf8(value).ok()?.split(' ').collect();
    let [peer, peer_port, local, local_port] = words.as_slice() else { return None };
    let end = |address: &str, port: &str| {
        // A link-local address is written with its zone.
        let address: IpAddr = address.split('%').next()?.parse().ok()?;
        Some(SocketAddr::new(address.to_canonical(), port.parse().ok()?))
    };
    Some((end(peer, peer_port)?, end(local, local_port)?))
}

/// Remote sessions logind has open, by address.
fn sessions(dir: &Path) -> BTreeSet<IpAddr> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| remote_host(&std::fs::read_to_string(entry.path()).ok()?)).collect()
}

pub(super) fn remote_host(session: &str) -> Option<IpAddr> {
    let value = |name: &str| session.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let remote = value("REMOTE") == Some("1") && value("STATE") != Some("closing");
    let host: IpAddr = value("REMOTE_HOST")?.split('%').next()?.parse().ok()?;
    remote.then(|| host.to_canonical())
}

fn interfaces() -> io::Result<BTreeMap<IpAddr, String>> {
    let mut found = BTreeMap::new();
    for entry in nix::ifaddrs::getifaddrs()? {
        let Some(address) = entry.address else { continue };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        if let Some(address) = v4.or(v6) {
            found.insert(address, entry.interface_name);
        }
    }
    Ok(found)
}

pub(super) fn ephemeral(text: &str) -> RangeInclusive<u16> {
    let ports: Vec<u16> = text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    match ports.as_slice() {
        [low, high] => *low..=*high,
        _ => EPHEMERAL,
    }
}
