//! A SEQPACKET connection to a shim or the keeper, awaited instead of polled. No deadlines here: the caller knows how
//! long an answer may take. Both directions may be used from one shared reference; every call is cancel-safe, because
//! one message is one system call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use agentd_protocol::shim::wire::{Envelope, WireError};
use agentd_sys::seqpacket::{Blocking, Connection, Peer, Received};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// ENOENT or ECONNREFUSED: nobody listens. EAGAIN: the listener accepts no more; it hangs.
    #[error("connecting to the control socket failed; see whether the process behind it lives")]
    Connect(#[source] io::Error),
    #[error("sending on the control socket failed")]
    Send(#[source] io::Error),
    #[error("reading from the control socket failed")]
    Receive(#[source] io::Error),
    /// The other end is gone.
    #[error("the process behind the control socket closed it")]
    Closed,
    /// One message was lost, the connection goes on.
    #[error("a message on the control socket cannot be read; shim and agentd may be too far apart in version")]
    Malformed(#[source] WireError),
}

#[derive(Debug)]
pub struct AsyncConnection {
    inner: AsyncFd<Connection>,
    peer: Peer,
}

impl AsyncConnection {
    /// Connects to `<dir>/<name>` at once or not at all. Must be called inside the runtime.
    pub fn connect(dir: &Path, name: &str) -> Result<Self, SocketError> {
        Self::connect_now(dir, name).map_err(SocketError::Connect)
    }

    #[expect(unsafe_code, reason = "AsyncFd asks for a promise about the descriptor")]
    fn connect_now(dir: &Path, name: &str) -> io::Result<Self> {
        let connection = Connection::connect(dir, name, Blocking::No)?;
        let peer = connection.peer()?;
        // SAFETY: `Connection` owns one descriptor, always answers with that one, and closes it only when dropped.
        let inner = unsafe { AsyncFd::register(connection)? };
        Ok(Self { inner, peer })
    }

    /// The process that listened, and its user, as the kernel tells it.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Waits while the other end's buffer is full. The descriptors are duplicated into the message and closed here.
    pub async fn send(&self, envelope: Envelope, fds: Vec<OwnedFd>) -> Result<(), SocketError> {
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let sent = self.inner.async_io(Interest::WRITABLE, |connection| connection.send(&envelope, &borrowed)).await;
        sent.map_err(SocketError::Send)
    }

    /// The next message and the descriptors that came with it.
    pub async fn receive(&self) -> Result<(Envelope, Vec<OwnedFd>), SocketError> {
        match self.inner.async_io(Interest::READABLE, Connection::receive).await {
            Ok(Received::Message { envelope, fds }) => Ok((envelope, fds)),
            Ok(Received::Bad(cause)) => Err(SocketError::Malformed(cause)),
            Ok(Received::Closed) => Err(SocketError::Closed),
            // The other end died with our last message unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(SocketError::Closed),
            Err(error) => Err(SocketError::Receive(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::shim::wire::Message;
    use agentd_sys::seqpacket::Listener;

    use super::*;

    fn envelope(seq: u32, message: Message) -> Envelope {
        Envelope { seq, re: 0, message }
    }

    #[tokio::test]
    async fn messages_travel_both_ways_and_the_end_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(dir.path(), "ctl.sock").unwrap();
        let here = AsyncConnection::connect(dir.path(), "ctl.sock").unwrap();
        assert_eq!(here.peer().pid, std::process::id());
        let there = listener.accept(Blocking::Yes).unwrap().unwrap();

        let (_, writer) = nix::unistd::pipe().unwrap();
        let held = envelope(1, Message::Held { names: vec!["listen.x".into()] });
        here.send(held.clone(), vec![writer]).await.unwrap();
        let Received::Message { envelope: seen, fds } = there.receive().unwrap() else { panic!("no message") };
        assert_eq!((seen, fds.len()), (held, 1));

        there.send(&envelope(7, Message::Done), &[]).unwrap();
        let (answer, fds) = here.receive().await.unwrap();
        assert_eq!((answer, fds.len()), (envelope(7, Message::Done), 0));
        drop(there);
        assert!(matches!(here.receive().await, Err(SocketError::Closed)));
    }

    #[tokio::test]
    async fn a_listener_that_hangs_is_an_error_and_not_a_wait() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(AsyncConnection::connect(dir.path(), "ctl.sock"), Err(SocketError::Connect(_))));
        let _listener = Listener::bind(dir.path(), "ctl.sock").unwrap();
        let full = (0..100).find_map(|_| AsyncConnection::connect(dir.path(), "ctl.sock").err());
        let Some(SocketError::Connect(cause)) = full else { panic!("a hundred connections were queued") };
        assert_eq!(cause.kind(), io::ErrorKind::WouldBlock);
    }
}
