//! Whether what should listen does: one connection or one question each, within a second or two.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

const LIMIT: Duration = Duration::from_secs(2);
/// An answer without EDNS is never longer (RFC 1035 §4.2.1).
const DNS_BYTES_MAX: usize = 512;

pub(super) fn connects(address: SocketAddr) -> Result<(), String> {
    TcpStream::connect_timeout(&reachable(address), LIMIT).map(drop).map_err(|error| error.to_string())
}

/// What listens on every address is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { (Ipv4Addr::LOCALHOST, address.port()).into() } else { address }
}

/// Asks for the start of the zone, which is there whatever the services.
pub(super) fn resolves(address: SocketAddr, suffix: &str) -> Result<(), String> {
    let name = Name::from_ascii(format!("{suffix}.")).map_err(|error| error.to_string())?;
    let mut question =
        Message::new(std::process::id().to_le_bytes().map(u16::from)[0], MessageType::Query, OpCode::Query);
    question.add_query(Query::query(name, RecordType::SOA));
    let ask = || -> io::Result<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.connect(reachable(address))?;
        socket.send(&question.to_vec().map_err(io::Error::other)?)?;
        let mut answer = vec![0; DNS_BYTES_MAX];
        let count = socket.recv(&mut answer)?;
        answer.truncate(count);
        Ok(answer)
    };
    let answer = ask().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => "no answer".to_owned(),
        _ => error.to_string(),
    })?;
    let answer = Message::from_vec(&answer).map_err(|error| error.to_string())?;
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(()),
        code => Err(format!("it answers {code}")),
    }
}

/// Whether the address could be listened on, as agentd will.
pub(super) fn is_free(address: SocketAddr) -> io::Result<()> {
    TcpListener::bind(address).map(drop)
}

pub(super) fn is_free_for_datagrams(address: SocketAddr) -> io::Result<()> {
    UdpSocket::bind(address).map(drop)
}
