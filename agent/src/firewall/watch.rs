//! Tells when somebody changes nftables: the kernel's own word, so that our rules are back before a scan notices.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::unix::AsyncFd;

/// Bit of NFNLGRP_NFTABLES, the seventh group (linux/netfilter/nfnetlink.h).
const GROUP_NFTABLES: u32 = 1 << 6;
/// More than one datagram of the kernel's (NLMSG_GOODSIZE is a page or 8 KiB).
const DATAGRAM_BYTES_MAX: usize = 32 * 1_024;
/// Datagrams read at once before the caller is told; the kernel drops what it has no room for and says so.
const DATAGRAMS_MAX: usize = 64;

/// Changes of tables called like ours, whoever makes them.
#[derive(Debug)]
pub(super) struct Changes {
    socket: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Needs CAP_NET_ADMIN in the network's namespace.
    #[expect(unsafe_code, reason = "AsyncFd asks for a promise about the descriptor")]
    pub(super) fn subscribe() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP_NFTABLES))?;
        // SAFETY: an OwnedFd names one open descriptor until it is dropped, which AsyncFd does last.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Self { socket })
    }

    /// Returns when our table may have been changed. Cancel safe: what was not read is read next time.
    pub(super) async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(read) = ready.try_io(|socket| drain(socket.get_ref()))
                && read?
            {
                return Ok(());
            }
        }
    }
}

/// Whether one of the waiting datagrams is about us; blocks never.
fn drain(socket: &OwnedFd) -> io::Result<bool> {
    let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
    let mut ours = false;
    for round in 0..DATAGRAMS_MAX {
        match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Ok(length) => ours |= names_us(&bytes[..length]),
            // Something was lost: it may have been about us.
            Err(nix::errno::Errno::ENOBUFS) => ours = true,
            Err(nix::errno::Errno::EINTR) => {}
            // The first round must say so, or the runtime would not wait.
            Err(nix::errno::Errno::EAGAIN) if round == 0 => return Err(io::ErrorKind::WouldBlock.into()),
            Err(nix::errno::Errno::EAGAIN) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(ours)
}

/// The table's name is an attribute of every message about it, with its final zero.
fn names_us(datagram: &[u8]) -> bool {
    const NAME: &[u8] = b"agentd\0";
    datagram.windows(NAME.len()).any(|window| window == NAME)
}
