//! Who listens where: /proc/net/tcp and udp give sockets by inode, /proc/PID/fd gives the inodes a process holds (proc(5)).
//! Processes of other users cannot be looked into without privilege: their sockets have a uid and no holder.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// How a port is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// State of a socket that waits for anybody: TCP_LISTEN, or TCP_CLOSE, which UDP has while it is not connected
    /// (include/net/tcp_states.h).
    fn waiting(self) -> &'static str {
        match self {
            Self::Tcp => "0A",
            Self::Udp => "07",
        }
    }

    fn tables(self) -> [&'static str; 2] {
        match self {
            Self::Tcp => ["self/net/tcp", "self/net/tcp6"],
            Self::Udp => ["self/net/udp", "self/net/udp6"],
        }
    }
}

/// TCP_ESTABLISHED of the same table.
const ESTABLISHED: &str = "01";

/// Where the kernel tells it; another place in tests.
fn proc() -> &'static Path {
    Path::new("/proc")
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    pub address: SocketAddr,
    /// The other end; unspecified for one that waits for anybody.
    pub peer: SocketAddr,
    pub uid: u32,
    pub inode: u64,
}

/// `pid 123 (nginx)`: the process that listens on `port` of this host, if it can be seen.
pub fn listener_name(port: u16, transport: Transport) -> Option<String> {
    listener(port, transport).map(|pid| format!("pid {pid} ({})", name_of(pid)))
}

/// The process that listens on `port` of this host, if it can be seen; of several the oldest.
pub fn listener(port: u16, transport: Transport) -> Option<u32> {
    let inodes: BTreeSet<u64> =
        listening(transport).iter().filter(|socket| socket.address.port() == port).map(|socket| socket.inode).collect();
    holders(&inodes).into_values().flatten().min()
}

/// Every socket of this network namespace that waits for anybody.
pub fn listening(transport: Transport) -> Vec<Socket> {
    listening_in(proc(), transport)
}

/// As `listening`, by the process file system at `proc`.
pub fn listening_in(proc: &Path, transport: Transport) -> Vec<Socket> {
    sockets(proc, transport, transport.waiting())
}

/// Every TCP connection of this network namespace, by the process file system at `proc`.
pub fn established_in(proc: &Path) -> Vec<Socket> {
    sockets(proc, Transport::Tcp, ESTABLISHED)
}

fn sockets(proc: &Path, transport: Transport, state: &str) -> Vec<Socket> {
    // Without IPv6 the second file does not exist.
    transport
        .tables()
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(proc.join(path)).ok())
        .flat_map(|table| parse_table(&table, state))
        .collect()
}

/// Rows of /proc/net/tcp and its like whose sockets are in that state.
fn parse_table(table: &str, state: &str) -> Vec<Socket> {
    table.lines().skip(1).filter_map(|row| parse_row(row, state)).collect()
}

fn parse_row(row: &str, state: &str) -> Option<Socket> {
    let fields: Vec<&str> = row.split_ascii_whitespace().collect();
    if *fields.get(3)? != state {
        return None;
    }
    Some(Socket {
        address: parse_end(fields.get(1)?)?,
        peer: parse_end(fields.get(2)?)?,
        uid: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

fn parse_end(end: &str) -> Option<SocketAddr> {
    let (address, port) = end.split_once(':')?;
    Some(SocketAddr::new(parse_address(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// The kernel prints each 32-bit word of an address, kept in network order, as a number of the host's order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let words: Option<Vec<[u8; 4]>> = (0..hex.len() / 8)
        .map(|at| Some(u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect();
    match words?.as_slice() {
        [word] => Some(Ipv4Addr::from(*word).into()),
        words => Some(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into()),
    }
}

/// Which processes hold these sockets. Processes that end meanwhile or may not be read are left out.
pub fn holders(inodes: &BTreeSet<u64>) -> BTreeMap<u64, Vec<u32>> {
    holders_in(proc(), inodes)
}

/// As `holders`, by the process file system at `proc`.
pub fn holders_in(proc: &Path, inodes: &BTreeSet<u64>) -> BTreeMap<u64, Vec<u32>> {
    let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    if inodes.is_empty() {
        return found;
    }
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let fds = std::fs::read_dir(proc.join(format!("{pid}/fd"))).into_iter().flatten().flatten();
        for target in fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()) {
            let inode = target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                let pids = found.entry(inode).or_default();
                if pids.last() != Some(&pid) {
                    pids.push(pid);
                }
            }
        }
    }
    found
}

/// The name `ps` shows; `?` for one that is gone.
pub fn name_of(pid: u32) -> String {
    name_in(proc(), pid)
}

/// As `name_of`, by the process file system at `proc`.
pub fn name_in(proc: &Path, pid: u32) -> String {
    std::fs::read_to_string(proc.join(format!("{pid}/comm")))
        .map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_both_families() {
        let v4 = "head\n 0: 0100007F:4E21 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 4242 1 0\n \
                  1: 0100007F:4E22 0100007F:1111 01 00000000:00000000 00:00000000 00000000 0 0 77 1 0\n torn";
        let sockets = parse_table(v4, Transport::Tcp.waiting());
        assert_eq!(sockets.len(), 1);
        assert_eq!(sockets[0].address, "127.0.0.1:20001".parse().unwrap());
        assert_eq!((sockets[0].uid, sockets[0].inode), (1000, 4242));
        let connected = parse_table(v4, ESTABLISHED);
        assert_eq!(connected.len(), 1);
        assert_eq!(connected[0].peer, "127.0.0.1:4369".parse().unwrap());
        let v6 = "head\n 0: 00000000000000000000000001000000:0050 00000000:0000 0A 0:0 0:0 0 0 0 9 1";
        assert_eq!(parse_table(v6, Transport::Tcp.waiting())[0].address, "[::1]:80".parse().unwrap());
    }

    #[test]
    fn a_udp_socket_is_found_under_our_pid() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let named = listener_name(port, Transport::Udp).unwrap();
        assert!(named.starts_with(&format!("pid {} (", std::process::id())), "{named}");
    }
}
