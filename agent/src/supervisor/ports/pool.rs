//! Reservation of ports: a socket that is bound and never listens. The kernel then gives the port to nobody by itself,
//! while a program that sets SO_REUSEADDR, as servers do, listens over it.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentd_sys::listeners::{Transport, listener_name};
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use super::super::Error;

/// A freed port rests so long: late connections to the old instance must not meet a new one.
const COOLING: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortWish {
    /// Any free port of the configured range.
    Pool,
    Fixed(u16),
}

/// A port kept for one instance. Dropped without being launched, it frees the port.
#[derive(Debug)]
pub struct Reservation {
    pub port: u16,
    pub(in super::super) fd: OwnedFd,
    pub(in super::super) lease: Lease,
}

/// The entry of a port in the table; dropping it lets the port cool.
#[derive(Debug)]
pub(in super::super) struct Lease {
    port: u16,
    table: Arc<Mutex<BTreeMap<u16, Use>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Use {
    Leased,
    Cooling { until: Instant },
}

#[derive(Debug)]
pub(in super::super) struct Ports {
    range: RangeInclusive<u16>,
    table: Arc<Mutex<BTreeMap<u16, Use>>>,
}

impl Ports {
    pub(in super::super) fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, table: Arc::default() }
    }

    pub(in super::super) fn reserve(&self, wish: PortWish) -> Result<Reservation, Error> {
        match wish {
            PortWish::Pool => self.pooled(),
            PortWish::Fixed(port) => self.fixed(port),
        }
    }

    /// The port of an instance that was found running.
    pub(in super::super) fn adopt(&self, port: u16) -> Lease {
        self.lease(port)
    }

    fn pooled(&self) -> Result<Reservation, Error> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let exhausted = || Error::NoPort { first, last };
        if first > last {
            return Err(exhausted());
        }
        let seed = fastrand::u16(first..=last);
        let free = {
            let table = self.table.lock().expect("no holder panics");
            candidates(&self.range, seed, &table, Instant::now())
        };
        for port in free {
            // Bound without SO_REUSEADDR first: a reservation of somebody else would let ours pass beside it.
            match bind(port, Sharing::Exclusive).and_then(|probe| {
                drop(probe);
                bind(port, Sharing::Reuse)
            }) {
                Ok(socket) => return Ok(self.reservation(port, socket)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(source) => return Err(Error::Port { port, source }),
            }
        }
        Err(exhausted())
    }

    fn fixed(&self, port: u16) -> Result<Reservation, Error> {
        let leased = self.table.lock().expect("no holder panics").get(&port) == Some(&Use::Leased);
        if leased {
            return Err(Error::PortTaken { port, owner: Some("another instance of ours".to_owned()) });
        }
        match bind(port, Sharing::Reuse) {
            Ok(socket) => Ok(self.reservation(port, socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(Error::PortTaken { port, owner: listener_name(port, Transport::Tcp) })
            }
            Err(source) => Err(Error::Port { port, source }),
        }
    }

    fn reservation(&self, port: u16, socket: Socket) -> Reservation {
        Reservation { port, fd: socket.into(), lease: self.lease(port) }
    }

    fn lease(&self, port: u16) -> Lease {
        self.table.lock().expect("no holder panics").insert(port, Use::Leased);
        Lease { port, table: Arc::clone(&self.table) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let until = Instant::now() + COOLING;
        self.table.lock().expect("no holder panics").insert(self.port, Use::Cooling { until });
    }
}

/// The ports that may be tried, from `seed` on and around.
fn candidates(range: &RangeInclusive<u16>, seed: u16, table: &BTreeMap<u16, Use>, now: Instant) -> Vec<u16> {
    let around = (seed..=*range.end()).chain(*range.start()..seed);
    around
        .filter(|port| match table.get(port) {
            None => true,
            Some(Use::Leased) => false,
            Some(Use::Cooling { until }) => *until <= now,
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Exclusive,
    Reuse,
}

fn bind(port: u16, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(sharing == Sharing::Reuse)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn candidates_start_at_the_seed_and_skip_what_is_used() {
        let now = Instant::now();
        let table = BTreeMap::from([
            (11, Use::Leased),
            (13, Use::Cooling { until: now }),
            (14, Use::Cooling { until: now + Duration::from_secs(1) }),
        ]);
        assert_eq!(candidates(&(10..=14), 12, &table, now), [12, 13, 10]);
        assert_eq!(candidates(&(10..=14), 10, &table, now), [10, 12, 13]);
    }

    #[test]
    fn a_reserved_port_is_ours_until_it_is_dropped_and_then_cools() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports = Ports::new(port..=port);
        let held = ports.reserve(PortWish::Pool).unwrap();
        assert_eq!(held.port, port);
        // std sets SO_REUSEADDR, as servers do: they listen over the reservation.
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(matches!(ports.reserve(PortWish::Pool), Err(Error::NoPort { .. })));
        assert!(matches!(ports.reserve(PortWish::Fixed(port)), Err(Error::PortTaken { .. })));
        drop(listener);
        drop(held);
        assert!(matches!(ports.reserve(PortWish::Pool), Err(Error::NoPort { .. })), "still cooling");
        assert_eq!(ports.reserve(PortWish::Fixed(port)).unwrap().port, port, "a fixed port has no choice");
    }

    #[test]
    fn a_strangers_port_is_skipped_or_named() {
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = stranger.local_addr().unwrap().port();
        let ports = Ports::new(port..=port);
        assert!(matches!(ports.reserve(PortWish::Pool), Err(Error::NoPort { .. })));
        match ports.reserve(PortWish::Fixed(port)) {
            Err(Error::PortTaken { owner: Some(owner), .. }) => {
                assert!(owner.starts_with(&format!("pid {} (", std::process::id())), "{owner}");
            }
            other => panic!("{other:?}"),
        }
    }
}
