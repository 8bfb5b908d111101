//! The sockets outside traffic comes in by, when the host's security mode lets it. They are bound once like the others,
//! and opened and shut by listen(2) and shutdown(2), which holds for every process that has them: nothing has to reach
//! the edge, and a manager that was killed leaves them as the mode has them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use agentd_protocol::edge::{LISTEN_PUBLIC_V4, LISTEN_PUBLIC_V6};
use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{BACKLOG, Held, find};

/// Who may reach the proxy's port, as far as its sockets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Loopback,
    Everybody,
}

/// The manager's copies; empty where the edge was started without any.
#[derive(Debug, Clone, Default)]
pub struct PublicSockets(Arc<Vec<OwnedFd>>);

impl PublicSockets {
    pub(super) fn of(held: &Held) -> Self {
        let copy = |name| find(held, name).and_then(|fd| fd.try_clone().ok());
        Self(Arc::new([LISTEN_PUBLIC_V4, LISTEN_PUBLIC_V6].into_iter().filter_map(copy).collect()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn reach(&self) -> Reach {
        let is_open = |socket: &OwnedFd| getsockopt(socket, AcceptConn).unwrap_or(false);
        if self.0.iter().any(is_open) { Reach::Everybody } else { Reach::Loopback }
    }

    /// Shutting resets connections that nobody has accepted yet; those that were are not touched.
    pub fn set(&self, reach: Reach) -> io::Result<()> {
        for socket in self.0.iter() {
            let is_open = getsockopt(socket, AcceptConn)?;
            match (reach, is_open) {
                (Reach::Everybody, false) => SockRef::from(socket).listen(BACKLOG)?,
                (Reach::Loopback, true) => SockRef::from(socket).shutdown(Shutdown::Read)?,
                (Reach::Everybody, true) | (Reach::Loopback, false) => {}
            }
        }
        Ok(())
    }
}

/// Bound, not listened on. A host without IPv6 has the first only.
pub(super) fn bind(port: u16) -> io::Result<Held> {
    let mut sockets = vec![(LISTEN_PUBLIC_V4.to_owned(), bound((Ipv4Addr::UNSPECIFIED, port).into())?)];
    match bound((Ipv6Addr::UNSPECIFIED, port).into()) {
        Ok(socket) => sockets.push((LISTEN_PUBLIC_V6.to_owned(), socket)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            tracing::info!(%error, "this host has no IPv6; the proxy goes without");
        }
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

/// SO_REUSEPORT lets one user's sockets for all addresses stand beside that for loopback; the kernel gives a connection
/// to the more exact one.
fn bound(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A port whose loopback socket is ours already, as the edge has it.
    fn port() -> (TcpListener, u16) {
        let loopback = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        loopback.set_reuse_port(true).unwrap();
        loopback.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        loopback.listen(1).unwrap();
        let listener = TcpListener::from(loopback);
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[test]
    fn outside_traffic_is_taken_only_while_it_may_be() {
        let (_loopback, port) = port();
        let held = bind(port).unwrap();
        let (public, edges_copy) = (PublicSockets::of(&held), PublicSockets::of(&held));
        // 127.0.0.2 is not the address of the exact socket, so the one for all addresses has to take it.
        let outside = || TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), port));
        assert_eq!((public.reach(), outside().is_ok()), (Reach::Loopback, false));
        let mut accepted = Vec::new();
        for _ in 0..2 {
            public.set(Reach::Everybody).unwrap();
            let client = outside().unwrap();
            let listener = TcpListener::from(find(&held, LISTEN_PUBLIC_V4).unwrap().try_clone().unwrap());
            // A connection that lives on must not keep the port from being opened again.
            accepted.push((client, listener.accept().unwrap()));
            assert_eq!(edges_copy.reach(), Reach::Everybody);
            public.set(Reach::Loopback).unwrap();
            assert_eq!((edges_copy.reach(), outside().is_ok()), (Reach::Loopback, false));
        }
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(), "loopback is served all the while");
    }

    #[test]
    fn an_accepted_connection_outlives_the_shutting() {
        use std::io::{Read, Write};
        let (_loopback, port) = port();
        let held = bind(port).unwrap();
        let public = PublicSockets::of(&held);
        public.set(Reach::Everybody).unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), port)).unwrap();
        let listener = TcpListener::from(find(&held, LISTEN_PUBLIC_V4).unwrap().try_clone().unwrap());
        let (mut server, _) = listener.accept().unwrap();
        public.set(Reach::Loopback).unwrap();
        client.write_all(b"x").unwrap();
        let mut byte = [0];
        server.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert_eq!(listener.accept().unwrap_err().raw_os_error(), Some(libc::EINVAL), "what the edge sees");
    }
}
