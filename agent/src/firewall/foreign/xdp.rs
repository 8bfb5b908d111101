//! Which links have an XDP program: one dump of the links by rtnetlink(7). /sys does not tell.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};

/// The kernel answers at once or not at all.
const ANSWER_LIMIT_S: i64 = 5;
/// A datagram of the dump: the kernel fills what it is offered, up to 32 KiB.
const DATAGRAM_BYTES: usize = 32 << 10;
/// Datagrams of one dump; each holds a dozen links or more.
const DATAGRAMS_MAX: usize = 4096;

// include/uapi/linux/{netlink,rtnetlink,if_link}.h
const HEADER_BYTES: usize = 16;
const INTERFACE_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLA_TYPE_MASK: u16 = 0x3fff;
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;

pub(super) fn links() -> io::Result<BTreeSet<String>> {
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&kernel, ReceiveTimeout, &TimeVal::seconds(ANSWER_LIMIT_S))?;
    send(kernel.as_raw_fd(), &question(), MsgFlags::empty())?;
    let mut found = BTreeSet::new();
    let mut datagram = vec![0; DATAGRAM_BYTES];
    for _ in 0..DATAGRAMS_MAX {
        let length = recv(kernel.as_raw_fd(), &mut datagram, MsgFlags::empty())?;
        match read(&datagram[..length], &mut found) {
            Dump::GoesOn => {}
            Dump::Complete => return Ok(found),
            Dump::Refused => return Err(io::Error::from(io::ErrorKind::PermissionDenied)),
        }
    }
    Err(io::Error::from(io::ErrorKind::InvalidData))
}

fn question() -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + INTERFACE_BYTES).expect("32");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(RTM_GETLINK.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.resize(HEADER_BYTES + INTERFACE_BYTES, 0);
    bytes
}

#[derive(Debug, PartialEq, Eq)]
enum Dump {
    GoesOn,
    Complete,
    Refused,
}

/// The messages of one datagram; what is torn ends it.
fn read(mut datagram: &[u8], found: &mut BTreeSet<String>) -> Dump {
    while let Some((kind, body, rest)) = message(datagram) {
        match kind {
            NLMSG_DONE => return Dump::Complete,
            NLMSG_ERROR => return Dump::Refused,
            RTM_NEWLINK => found.extend(body.get(INTERFACE_BYTES..).and_then(with_xdp)),
            _ => {}
        }
        datagram = rest;
    }
    Dump::GoesOn
}

fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER_BYTES..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The link's name, if a program is attached in whichever way.
fn with_xdp(attributes: &[u8]) -> Option<String> {
    let xdp = attribute(attributes, IFLA_XDP)?;
    let attached = attribute(xdp, IFLA_XDP_ATTACHED)?;
    let name = attribute(attributes, IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
    (attached.first().is_some_and(|way| *way != 0)).then_some(name)
}

fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrap(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link(name: &str, attached: u8) -> Vec<u8> {
        let mut body = vec![0; INTERFACE_BYTES];
        body.extend(wrap(IFLA_IFNAME, format!("{name}\0").as_bytes()));
        body.extend(wrap(IFLA_XDP | 0x8000, &wrap(IFLA_XDP_ATTACHED, &[attached])));
        whole(RTM_NEWLINK, &body)
    }

    fn whole(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER_BYTES + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn links_with_a_program_are_named_and_others_not() {
        let mut found = BTreeSet::new();
        let datagram = [link("eth0", 0), link("eth10", 1), link("wlan0", 2)].concat();
        assert_eq!(read(&datagram, &mut found), Dump::GoesOn);
        assert_eq!(found, ["eth10".to_owned(), "wlan0".to_owned()].into());
        assert_eq!(read(&whole(NLMSG_DONE, &[0; 4]), &mut found), Dump::Complete);
        assert_eq!(read(&whole(NLMSG_ERROR, &[0; 4]), &mut found), Dump::Refused);
    }

    #[test]
    fn this_kernel_answers() {
        links().expect("a dump of links needs no privilege");
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes, &mut BTreeSet::new());
            attribute(&bytes, IFLA_XDP);
        }
    }
}
