//! Unix SEQPACKET sockets: one datagram is one [`Envelope`], descriptors ride along by SCM_RIGHTS (unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use agentd_protocol::shim::HELD_FDS_MAX;
use agentd_protocol::shim::wire::{Envelope, MESSAGE_BYTES_MAX, WireError};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockopt, listen, recvmsg, sendmsg, socket, sockopt,
};

use crate::files::SocketDir;

/// Connections that wait to be accepted; controllers are few.
const BACKLOG: i32 = 16;

/// A listening socket `<dir>/<name>`; non-blocking, close-on-exec.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// One connection; close-on-exec. Blocking or not as its maker says.
#[derive(Debug)]
pub struct Connection(OwnedFd);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    Yes,
    No,
}

/// Who is at the other end (SO_PEERCRED), as of connect(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub pid: u32,
    pub uid: u32,
}

/// What one read brought.
#[derive(Debug)]
pub enum Received {
    Message {
        envelope: Envelope,
        fds: Vec<OwnedFd>,
    },
    /// A datagram we cannot read; the connection goes on.
    Bad(WireError),
    /// The other end is closed.
    Closed,
}

impl Listener {
    /// Binds, replacing a socket file that a dead process left: the caller holds the lock that makes it the only one.
    pub fn bind(dir: &Path, name: &str) -> io::Result<Self> {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let held = SocketDir::open(dir)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&held.path_of(name))?)?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(Self(fd))
    }

    /// `Ok(None)` when nobody waits.
    #[expect(unsafe_code, reason = "accept4 of nix gives a raw descriptor")]
    pub fn accept(&self, blocking: Blocking) -> io::Result<Option<Connection>> {
        let flags = match blocking {
            Blocking::Yes => SockFlag::SOCK_CLOEXEC,
            Blocking::No => SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        };
        match accept4(self.0.as_raw_fd(), flags) {
            // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
            Ok(fd) => Ok(Some(Connection(unsafe { OwnedFd::from_raw_fd(fd) }))),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ECONNABORTED | nix::errno::Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Connection {
    /// Connects to `<dir>/<name>`. ENOENT or ECONNREFUSED: nobody listens there. Not blocking, also EAGAIN: the
    /// listener's queue is full, which a stopped process causes; a blocking call would wait for it without end.
    pub fn connect(dir: &Path, name: &str, blocking: Blocking) -> io::Result<Self> {
        let held = SocketDir::open(dir)?;
        let flags = match blocking {
            Blocking::Yes => SockFlag::SOCK_CLOEXEC,
            Blocking::No => SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        };
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(&held.path_of(name))?)?;
        Ok(Self(fd))
    }

    /// As `connect` with blocking reads and writes, but none of connect, send and receive takes longer than `limit`
    /// (each on its own): a hung listener whose backlog is full costs that much.
    pub fn connect_within(dir: &Path, name: &str, limit: std::time::Duration) -> io::Result<Self> {
        let held = SocketDir::open(dir)?;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let value = time_val(limit);
        nix::sys::socket::setsockopt(&fd, sockopt::SendTimeout, &value)?;
        nix::sys::socket::setsockopt(&fd, sockopt::ReceiveTimeout, &value)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(&held.path_of(name))?)?;
        Ok(Self(fd))
    }

    pub fn peer(&self) -> io::Result<Peer> {
        let creds = getsockopt(&self.0, sockopt::PeerCredentials)?;
        Ok(Peer { pid: u32::try_from(creds.pid()).unwrap_or_default(), uid: creds.uid() })
    }

    /// Limit of a blocking read; past it `receive` fails with WouldBlock.
    pub fn set_receive_timeout(&self, limit: std::time::Duration) -> io::Result<()> {
        Ok(nix::sys::socket::setsockopt(&self.0, sockopt::ReceiveTimeout, &time_val(limit))?)
    }

    /// Sends one message. EAGAIN on a non-blocking socket whose reader is slow; EPIPE when it is gone (no SIGPIPE).
    pub fn send(&self, envelope: &Envelope, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = envelope.encode();
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Receives one message. WouldBlock when there is none on a non-blocking socket or within the receive timeout.
    #[expect(unsafe_code, reason = "recvmsg of nix gives raw descriptors")]
    pub fn receive(&self) -> io::Result<Received> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX + 1];
        let mut space = nix::cmsg_space!([RawFd; HELD_FDS_MAX]);
        let (len, fds) = {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let message = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
            let mut fds = Vec::new();
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(raw) = control {
                    // SAFETY: the kernel just installed these descriptors for us and nobody else knows them.
                    fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
            (message.bytes, fds)
        };
        if len == 0 {
            return Ok(Received::Closed);
        }
        Ok(match Envelope::decode(&bytes[..len]) {
            Ok(envelope) => Received::Message { envelope, fds },
            Err(error) => Received::Bad(error),
        })
    }
}

fn time_val(limit: std::time::Duration) -> nix::sys::time::TimeVal {
    let secs = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    nix::sys::time::TimeVal::new(secs, i64::from(limit.subsec_micros()))
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::io::Write;

    use agentd_protocol::shim::wire::Message;

    use super::*;

    #[test]
    fn messages_and_descriptors_travel_in_a_folder_of_any_depth() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&dir).unwrap();
        let listener = Listener::bind(&dir, "ctl.sock").unwrap();
        assert!(listener.accept(Blocking::Yes).unwrap().is_none());
        let here = Connection::connect(&dir, "ctl.sock", Blocking::No).unwrap();
        let there = listener.accept(Blocking::Yes).unwrap().unwrap();
        assert_eq!(there.peer().unwrap().uid, nix::unistd::getuid().as_raw());
        assert_eq!(here.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);

        let (reader, writer) = nix::unistd::pipe().unwrap();
        let held = Envelope { seq: 1, re: 0, message: Message::Held { names: vec!["listen.x".into()] } };
        here.send(&held, &[writer.as_fd()]).unwrap();
        drop(writer);
        let Received::Message { envelope, fds } = there.receive().unwrap() else { panic!("no message") };
        assert_eq!(envelope, held);
        std::fs::File::from(fds.into_iter().next().unwrap()).write_all(b"hi").unwrap();
        let mut text = String::new();
        std::fs::File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");

        drop(here);
        assert!(matches!(there.receive().unwrap(), Received::Closed));
    }
}
