//! Questions to the edge's responder, written byte by byte, so that a test sees what was on the wire.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

pub const A: u16 = 1;
pub const SOA: u16 = 6;
pub const AAAA: u16 = 28;

/// Longest wait for an answer; a queued query waits for an edge that starts.
const LIMIT: Duration = Duration::from_secs(20);
const ID: u16 = 0x5a17;
const HEADER_BYTES: usize = 12;

/// The parts of an answer that tests look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub rcode: u8,
    pub authoritative: bool,
    pub addresses: Vec<Ipv4Addr>,
    /// Records in the authority section.
    pub authorities: u16,
}

/// One question without EDNS, class IN.
pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in [ID, 0x0100, 1, 0, 0, 0] {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("labels are short"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&1_u16.to_be_bytes());
    bytes
}

pub fn over_udp(port: u16, name: &str, kind: u16) -> Resolved {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.send(&query(name, kind)).unwrap();
    let mut answer = [0; 1500];
    let count = socket.recv(&mut answer).unwrap_or_else(|error| panic!("no answer for {name}: {error}"));
    parse(&answer[..count], name)
}

pub fn over_tcp(port: u16, name: &str, kind: u16) -> Resolved {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let query = query(name, kind);
    let length = u16::try_from(query.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    parse(&answer, name)
}

fn field(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn parse(answer: &[u8], name: &str) -> Resolved {
    assert_eq!(field(answer, 0), ID, "the id is ours");
    assert_eq!(answer[2] & 0x80, 0x80, "an answer");
    assert_eq!(field(answer, 4), 1, "the question comes back");
    let question = &query(name, 0)[HEADER_BYTES..];
    let question_end = HEADER_BYTES + question.len();
    let name_end = question_end - 4;
    assert_eq!(&answer[HEADER_BYTES..name_end], &question[..question.len() - 4], "letter by letter");
    let mut at = question_end;
    let addresses = (0..field(answer, 6)).filter_map(|_| {
        at = past_name(answer, at);
        let (kind, length) = (field(answer, at), usize::from(field(answer, at + 8)));
        let data = &answer[at + 10..at + 10 + length];
        at += 10 + length;
        (kind == A).then(|| Ipv4Addr::from(<[u8; 4]>::try_from(data).expect("an address has four bytes")))
    });
    Resolved {
        addresses: addresses.collect(),
        rcode: answer[3] & 0x0f,
        authoritative: answer[2] & 0x04 != 0,
        authorities: field(answer, 8),
    }
}

fn past_name(bytes: &[u8], mut at: usize) -> usize {
    loop {
        match bytes[at] {
            0 => return at + 1,
            pointer if pointer >= 0xc0 => return at + 2,
            length => at += 1 + usize::from(length),
        }
    }
}
