//! Who listens where: /proc/net/tcp and udp give sockets by inode, /proc/PID/fd gives the inodes a process holds (proc(5)).
//! Processes of other users cannot be looked into without privilege: their sockets have a uid and no holder.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
            Self::Tcp => ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"],
            Self::Udp => ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    pub address: SocketAddr,
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
    // Without IPv6 the second file does not exist.
    transport
        .tables()
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| parse_table(&table, transport))
        .collect()
}

/// Rows of /proc/net/tcp and its like whose sockets wait for anybody.
fn parse_table(table: &str, transport: Transport) -> Vec<Socket> {
    table.lines().skip(1).filter_map(|row| parse_row(row, transport)).collect()
}

fn parse_row(row: &str, transport: Transport) -> Option<Socket> {
    let fields: Vec<&str> = row.split_ascii_whitespace().collect();
    if *fields.get(3)? != transport.waiting() {
        return None;
    }
    Some(Socket {
        address: parse_endpoint(fields.get(1)?)?,
        uid: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// `0100007F:4E21`.
pub(crate) fn parse_endpoint(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
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
    let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    if inodes.is_empty() {
        return found;
    }
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
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
    std::fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_both_families() {
        let v4 = "head\n 0: 0100007F:4E21 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 4242 1 0\n \
                  1: 0100007F:4E22 0100007F:1111 01 00000000:00000000 00:00000000 00000000 0 0 77 1 0\n torn";
        let sockets = parse_table(v4, Transport::Tcp);
        assert_eq!(sockets.len(), 1);
        assert_eq!(sockets[0].address, "127.0.0.1:20001".parse().unwrap());
        assert_eq!((sockets[0].uid, sockets[0].inode), (1000, 4242));
        let v6 = "head\n 0: 00000000000000000000000001000000:0050 0:0 0A 0:0 0:0 0 0 0 9 1";
        assert_eq!(parse_table(v6, Transport::Tcp)[0].address, "[::1]:80".parse().unwrap());
    }

    #[test]
    fn a_udp_socket_is_found_under_our_pid() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let named = listener_name(port, Transport::Udp).unwrap();
        assert!(named.starts_with(&format!("pid {} (", std::process::id())), "{named}");
    }
}
