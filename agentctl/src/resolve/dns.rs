//! One question to the responder itself, whatever the machine's own resolver is set to.

use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// The responder is on this host and answers from memory; one that is being restarted has its queue.
const LIMIT: Duration = Duration::from_secs(2);
/// Largest answer: what we offer is the 512 bytes of RFC 1035 §4.2.1.
const ANSWER_BYTES_MAX: usize = 512;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(super) enum Answer {
    Addresses {
        addresses: Vec<Ipv4Addr>,
    },
    /// NXDOMAIN
    NoName,
    /// The name is there, an address of this kind is not.
    NoAddress,
    /// Another response code, by its name.
    Code {
        code: String,
    },
    TimedOut,
    /// Nobody has the port open.
    Closed,
    Failed {
        error: String,
    },
}

pub(super) async fn ask(server: SocketAddr, name: &str) -> Answer {
    match timeout(LIMIT, exchange(server, name)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Answer::Closed,
        Ok(Err(error)) => Answer::Failed { error: error.to_string() },
        Err(_elapsed) => Answer::TimedOut,
    }
}

async fn exchange(server: SocketAddr, name: &str) -> std::io::Result<Answer> {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).map_err(Error::other)?, RecordType::A));
    let local = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(&question.to_vec().map_err(Error::other)?).await?;
    let mut space = [0; ANSWER_BYTES_MAX];
    loop {
        let count = socket.recv(&mut space).await?;
        let answer = Message::from_vec(&space[..count]).map_err(Error::other)?;
        // One that belongs to nobody's question is passed over; the caller's limit ends the wait.
        if answer.metadata.id == question.metadata.id {
            return Ok(read(&answer));
        }
    }
}

fn read(answer: &Message) -> Answer {
    let address = |data: &RData| match data {
        RData::A(address) => Some(address.0),
        _ => None,
    };
    match answer.metadata.response_code {
        ResponseCode::NoError => {
            let addresses: Vec<Ipv4Addr> = answer.answers.iter().filter_map(|record| address(&record.data)).collect();
            if addresses.is_empty() { Answer::NoAddress } else { Answer::Addresses { addresses } }
        }
        ResponseCode::NXDomain => Answer::NoName,
        code => Answer::Code { code: code.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers every question by `reply`, given its bytes.
    async fn served(reply: impl Fn(&[u8]) -> Vec<u8>) -> Answer {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let serve = async {
            let mut space = [0; 512];
            let (count, from) = server.recv_from(&mut space).await.unwrap();
            server.send_to(&reply(&space[..count]), from).await.unwrap();
        };
        tokio::join!(ask(address, "api.svc.internal."), serve).0
    }

    fn code(question: &[u8], code: u8) -> Vec<u8> {
        let mut answer = question.to_vec();
        answer[2] |= 0x80;
        answer[3] = code;
        answer
    }

    #[tokio::test]
    async fn what_came_is_said() {
        assert_eq!(served(|question| code(question, 3)).await, Answer::NoName);
        assert_eq!(served(|question| code(question, 0)).await, Answer::NoAddress);
        assert!(matches!(served(|question| code(question, 2)).await, Answer::Code { .. }));
        assert!(matches!(served(|_| b"nonsense".to_vec()).await, Answer::Failed { .. }));
        let address = |question: &[u8]| {
            let mut answer = code(question, 0);
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 127, 0, 0, 1]);
            answer
        };
        assert_eq!(served(address).await, Answer::Addresses { addresses: vec![Ipv4Addr::LOCALHOST] });
    }

    #[tokio::test]
    async fn a_closed_port_is_told_at_once() {
        let free = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(ask(free, "api.svc.internal.").await, Answer::Closed);
    }
}
