//! The listening sockets the shim hands over (sd_listen_fds(3)).

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use agentd_protocol::edge::{
    LISTEN_CONTROL, LISTEN_DNS_TCP, LISTEN_DNS_UDP, LISTEN_EXTERNAL, LISTEN_INTERNAL, LISTEN_PUBLIC_V4,
    LISTEN_PUBLIC_V6,
};
use agentd_protocol::shim::LISTEN_PREFIX;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::Error;

/// SD_LISTEN_FDS_START.
const FIRST: RawFd = 3;

#[derive(Debug)]
pub(super) struct Descriptors {
    /// At least one.
    pub(super) external: Vec<TcpListener>,
    pub(super) internal: TcpListener,
    pub(super) dns_udp: UdpSocket,
    pub(super) dns_tcp: TcpListener,
    pub(super) control: UnixListener,
}

/// Takes the descriptors named in the environment; to be called once, before anything else opens one.
pub(super) fn take() -> Result<Descriptors, Error> {
    // What is no text is not ours.
    let read = |name| std::env::var(name).ok();
    let ours = read("LISTEN_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let (Some(count), Some(names), true) = (read("LISTEN_FDS"), read("LISTEN_FDNAMES"), ours) else {
        return Err(Error::NoDescriptors);
    };
    let count = count.parse().map_err(|_| Error::NoDescriptors)?;
    let all = [LISTEN_EXTERNAL, LISTEN_PUBLIC_V4, LISTEN_PUBLIC_V6];
    let external: Vec<RawFd> = all.iter().flat_map(|name| named(&names, count, name)).collect();
    let one = |name| {
        let found = named(&names, count, name).first().copied();
        found.ok_or(Error::MissingDescriptor { name }).and_then(|descriptor| own(descriptor, name))
    };
    if external.is_empty() {
        return Err(Error::MissingDescriptor { name: LISTEN_EXTERNAL });
    }
    let tcp = |descriptor: &RawFd| Ok(TcpListener::from(own(*descriptor, LISTEN_EXTERNAL)?));
    Ok(Descriptors {
        external: external.iter().map(tcp).collect::<Result<_, Error>>()?,
        internal: one(LISTEN_INTERNAL)?.into(),
        dns_udp: one(LISTEN_DNS_UDP)?.into(),
        dns_tcp: one(LISTEN_DNS_TCP)?.into(),
        control: one(LISTEN_CONTROL)?.into(),
    })
}

/// Descriptors of that name, which may come with or without the shim's prefix.
fn named(names: &str, count: usize, wanted: &str) -> Vec<RawFd> {
    let bare = wanted.strip_prefix(LISTEN_PREFIX).unwrap_or(wanted);
    let numbered = (FIRST..).zip(names.split(':').take(count));
    numbered.filter(|(_, name)| *name == bare || *name == wanted).map(|(descriptor, _)| descriptor).collect()
}

#[expect(unsafe_code, reason = "descriptors arrive by number")]
fn own(descriptor: RawFd, name: &'static str) -> Result<OwnedFd, Error> {
    // SAFETY: the environment says that this number was handed to us, nobody else in this process has taken it, and
    // fcntl below fails when it is not open.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    match fcntl(owned.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(owned),
        Err(error) => {
            // Not open: closing it again would be closing somebody else's later.
            std::mem::forget(owned);
            Err(Error::BadDescriptor { name, source: error.into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_with_and_without_prefix() {
        let names = "reserve:external:listen.control:listen.external:external";
        assert_eq!(named(names, 4, LISTEN_EXTERNAL), [4, 6]);
        assert_eq!(named(names, 4, LISTEN_CONTROL), [5]);
        assert!(named(names, 1, LISTEN_CONTROL).is_empty(), "only as many as were handed over");
        assert!(named("", 1, LISTEN_CONTROL).is_empty());
    }
}
