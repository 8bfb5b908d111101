//! Connections of this host: the rows of /proc/net/tcp and tcp6 whose two ends have shaken hands (proc(5)).
//!
//! The kernel gives the table bucket by bucket while connections come and go: one that ends meanwhile may be missing or
//! be there, one that stays is there. Who needs to know who holds a connection asks `listeners::holders` by inode, once
//! for all of them.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;

use crate::listeners::parse_endpoint;

/// TCP_ESTABLISHED (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";

/// Addresses are those of the packets: an IPv4 peer of a socket bound to `[::]` is an IPv4 address here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// 0 for a connection that nobody has accepted yet, and for one whose process is gone.
    pub inode: u64,
    pub uid: u32,
}

/// Every established TCP connection of the caller's network namespace, whoever opened it, loopback included.
pub fn established() -> io::Result<Vec<Connection>> {
    let mut found = read("/proc/thread-self/net/tcp")?;
    match read("/proc/thread-self/net/tcp6") {
        Ok(more) => found.extend(more),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}

fn read(path: &str) -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    for row in BufReader::new(File::open(path)?).lines().skip(1) {
        found.extend(parse_row(&row?));
    }
    Ok(found)
}

fn parse_row(row: &str) -> Option<Connection> {
    let fields: Vec<&str> = row.split_ascii_whitespace().collect();
    if *fields.get(3)? != ESTABLISHED {
        return None;
    }
    Some(Connection {
        local: canonical(parse_endpoint(fields.get(1)?)?),
        peer: canonical(parse_endpoint(fields.get(2)?)?),
        inode: fields.get(9)?.parse().ok()?,
        uid: fields.get(7)?.parse().ok()?,
    })
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_both_families_and_nothing_else() {
        let listening = " 0: 0100007F:4E21 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 4242 1 0";
        assert_eq!(parse_row(listening), None);
        let mapped = " 1: 0000000000000000FFFF0000010200C0:0016 0000000000000000FFFF0000146433C6:C350 01 \
                      0:0 0:0 0 7 0 77 1";
        let found = parse_row(mapped).unwrap();
        assert_eq!(found.local, "192.0.2.1:22".parse().unwrap());
        assert_eq!(found.peer, "198.51.100.20:50000".parse().unwrap());
        assert_eq!((found.uid, found.inode), (7, 77));
        for torn in ["", " 1: 0100007F:4E21", " 1: zz:1 0100007F:1 01 0:0 0:0 0 0 0 9", " 1: é:1 0:1 01 0 0 0 0 0 9 1"]
        {
            assert_eq!(parse_row(torn), None, "{torn}");
        }
    }

    #[test]
    fn both_ends_of_our_own_connection_are_seen_and_a_closed_one_is_not() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (local, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let server = listener.accept().unwrap().0;
            let ends = |found: &[Connection]| {
                [(local, peer), (peer, local)]
                    .map(|ends| found.iter().any(|c| (c.local, c.peer) == ends && c.inode != 0))
            };
            assert_eq!(ends(&established().unwrap()), [true, true], "{address}");
            drop((client, server));
            assert_eq!(ends(&established().unwrap()), [false, false], "{address}");
        }
    }
}
