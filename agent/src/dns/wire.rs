//! Answers on the wire: hickory reads and writes the messages, the zone decides. The one file that names hickory.
//!
//! The sockets are ours, not its server's: that one ends its TCP listener with the first connection that was aborted,
//! spins when descriptors run out, takes any number of connections, and answers over UDP what was no question.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hickory_proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, NS, SOA};
use hickory_proto::rr::{Name, RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::zone::{self, Answer, Found, NAMESERVER, NEGATIVE_TTL_S, Question, TTL_S, Zone};
use crate::lifecycle;

/// UDP payload we offer in EDNS, bytes: 1280 (smallest IPv6 MTU, RFC 8200 §5) - 40 (IPv6) - 8 (UDP).
const EDNS_UDP_BYTES_MAX: u16 = 1232;
/// Each takes one descriptor of the edge; resolvers ask over UDP and come here only after a truncated answer.
pub(super) const TCP_CONNECTIONS_MAX: usize = 64;
/// For one whole message, and for the pause before it (RFC 7766 §6.2.3: a few seconds).
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// Queries with every option there is stay far below it.
const QUERY_BYTES_MAX: usize = 4096;
/// DNS header (RFC 1035 §4.1.1), and the bit of its third byte that marks answers.
const HEADER_BYTES: usize = 12;
const QR: u8 = 0x80;
/// A socket that fails is used again after the first, doubled up to the second while it goes on failing.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Times for a secondary server, of which there is none: what is usual.
const SOA_REFRESH_S: i32 = 3600;
const SOA_RETRY_S: i32 = 600;
const SOA_EXPIRE_S: i32 = 86_400;

/// Answers by the zone that was installed last; SERVFAIL before there is one.
#[derive(Debug, Clone, Default)]
pub struct Responder(Arc<ArcSwapOption<Loaded>>);

/// A zone with the records that do not depend on the question.
#[derive(Debug)]
struct Loaded {
    zone: Zone,
    soa: Record,
    nameserver: Record,
    glue: Record,
}

impl Responder {
    /// In force when this returns.
    pub fn install(&self, zone: Zone) {
        self.0.store(Some(Arc::new(Loaded::new(zone))));
    }

    /// Serves until it is dropped.
    pub async fn serve_udp(self, socket: UdpSocket) {
        let mut pause = PAUSE_MIN;
        let mut space = vec![0; QUERY_BYTES_MAX];
        loop {
            match self.serve_one(&socket, &mut space).await {
                Ok(()) => pause = PAUSE_MIN,
                Err(error) => {
                    tracing::warn!(%error, ?pause, "cannot answer names over UDP for now");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// A datagram longer than `space` is cut; no query is as long.
    async fn serve_one(&self, socket: &UdpSocket, space: &mut [u8]) -> io::Result<()> {
        let (count, peer) = socket.recv_from(space).await?;
        if let Some(answer) = self.reply_to(&space[..count])
            && let Err(error) = socket.send_to(&answer, peer).await
        {
            // Says something of that one client alone.
            tracing::debug!(%error, %peer, "a DNS answer was not sent");
        }
        Ok(())
    }

    /// Accepts until it is dropped; open connections end by themselves.
    pub async fn serve_tcp(self, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(TCP_CONNECTIONS_MAX));
        let mut pause = PAUSE_MIN;
        loop {
            let permit = Arc::clone(&connections).acquire_owned().await.expect("never closed");
            match listener.accept().await {
                Ok((stream, peer)) => {
                    pause = PAUSE_MIN;
                    let responder = self.clone();
                    lifecycle::spawn("dns connection", async move {
                        let _permit = permit;
                        if let Err(error) = responder.converse(stream).await {
                            tracing::debug!(%error, %peer, "a DNS connection ended");
                        }
                    });
                }
                // That one connection broke before we had it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, ?pause, "cannot accept DNS connections for now; look at the edge's descriptor limit");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// One query after the other, each within its time.
    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let Some(query) = timeout(TCP_TIMEOUT, read_message(&mut stream)).await?? else { return Ok(()) };
            // What was no question ends the conversation.
            let Some(answer) = self.reply_to(&query) else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes()[..], &answer].concat();
            timeout(TCP_TIMEOUT, stream.write_all(&framed)).await??;
        }
    }

    /// `None`: not to be answered at all.
    fn reply_to(&self, query: &[u8]) -> Option<Vec<u8>> {
        let header: &[u8; HEADER_BYTES] = query.first_chunk()?;
        if header[2] & QR != 0 {
            return None;
        }
        // Looked at first, since hickory makes room for as many questions as a message claims (RFC 9619: one at most).
        let questions = u16::from_be_bytes([header[4], header[5]]);
        let Some(query) = (questions <= 1).then(|| Message::from_vec(query).ok()).flatten() else {
            return Some(malformed(header));
        };
        match self.reply(query).to_vec() {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::error!(%error, "a DNS answer cannot be written");
                None
            }
        }
    }

    fn reply(&self, query: Message) -> Message {
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata = Metadata::response_from_request(&query.metadata);
        reply.queries = query.queries;
        // Only when asked; our size, no option, and of the flags DO alone (RFC 6891 §7, RFC 3225).
        reply.edns = query.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(EDNS_UDP_BYTES_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        if query.edns.is_some_and(|asked| asked.version() > 0) {
            reply.metadata.response_code = ResponseCode::BADVERS;
        } else if query.metadata.op_code != OpCode::Query {
            reply.metadata.response_code = ResponseCode::NotImp;
        } else if reply.queries.is_empty() {
            reply.metadata.response_code = ResponseCode::FormErr;
        } else {
            match &*self.0.load() {
                Some(loaded) => loaded.answer(&mut reply),
                None => reply.metadata.response_code = ResponseCode::ServFail,
            }
        }
        reply
    }
}

impl Loaded {
    fn new(zone: Zone) -> Self {
        let apex = Name::from_labels(zone.suffix()).expect("a suffix is a DNS name");
        let host = |label: &str| {
            Name::from_labels([label.as_bytes()]).and_then(|host| host.append_domain(&apex)).expect("a label more fits")
        };
        let (server, mailbox) = (host(NAMESERVER), host("hostmaster"));
        let soa =
            SOA::new(server.clone(), mailbox, zone.serial(), SOA_REFRESH_S, SOA_RETRY_S, SOA_EXPIRE_S, NEGATIVE_TTL_S);
        Self {
            soa: Record::from_rdata(apex.clone(), NEGATIVE_TTL_S, RData::SOA(soa)),
            nameserver: Record::from_rdata(apex, TTL_S, RData::NS(NS(server.clone()))),
            glue: loopback(server),
            zone,
        }
    }

    /// To the first question of `reply`.
    fn answer(&self, reply: &mut Message) {
        let Some(query) = reply.queries.first() else { return };
        let labels: Vec<&[u8]> = query.name().iter().collect();
        let (kind, class) = (query.query_type().into(), query.query_class().into());
        let answer = zone::answer(&self.zone, &Question { labels: &labels, kind, class });
        reply.metadata.authoritative = answer != Answer::Refused;
        match answer {
            Answer::Refused => reply.metadata.response_code = ResponseCode::Refused,
            Answer::NoName => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.authorities.push(self.soa.clone());
            }
            Answer::NoData => reply.authorities.push(self.soa.clone()),
            Answer::Found(Found::Loopback) => reply.answers.push(loopback(query.name().clone())),
            Answer::Found(Found::Soa) => reply.answers.push(self.soa.clone()),
            Answer::Found(Found::Nameserver) => {
                reply.answers.push(self.nameserver.clone());
                reply.additionals.push(self.glue.clone());
            }
        }
    }
}

fn loopback(name: Name) -> Record {
    Record::from_rdata(name, TTL_S, RData::A(A(Ipv4Addr::LOCALHOST)))
}

/// FORMERR with nothing but a header, for a message that could not be read further; opcode and RD are copied.
fn malformed(header: &[u8; HEADER_BYTES]) -> Vec<u8> {
    const OPCODE_AND_RD: u8 = 0x79;
    const FORMERR: u8 = 1;
    let mut answer = vec![0; HEADER_BYTES];
    answer[..4].copy_from_slice(&[header[0], header[1], QR | header[2] & OPCODE_AND_RD, FORMERR]);
    answer
}

/// `None` at the end of the stream, and for a message that is none or too long: the connection ends.
async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match stream.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let length = usize::from(u16::from_be_bytes(length));
    if !(HEADER_BYTES..=QUERY_BYTES_MAX).contains(&length) {
        return Ok(None);
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use agentd_protocol::ids::{Generation, ServiceName};
    use proptest::prelude::*;

    use super::*;

    const QUERY: &[u8] =
        b"\x5a\x17\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x03api\x03svc\x08internal\x00\x00\x01\x00\x01\
        \x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";

    fn responder() -> Responder {
        let responder = Responder::default();
        responder.install(Zone::new("svc.internal", &[ServiceName::new("api").unwrap()], Generation(1)).unwrap());
        responder
    }

    /// Neither panics nor amplifies; an answer is one, to this question.
    fn hold(bytes: Vec<u8>) -> Result<(), TestCaseError> {
        let id = bytes.get(..2).map(<[u8]>::to_vec);
        let is_answer = bytes.get(2).is_some_and(|flags| flags & 0x80 != 0);
        let length = bytes.len();
        let Some(answer) = responder().reply_to(&bytes) else { return Ok(()) };
        prop_assert!(!is_answer && length >= 3);
        prop_assert_eq!(Some(answer[..2].to_vec()), id);
        prop_assert!(answer[2] & 0x80 != 0 && answer.len() >= HEADER_BYTES);
        prop_assert!(answer.len() <= length + 128, "{} bytes for {length}", answer.len());
        Ok(())
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            hold(bytes)?;
        }

        #[test]
        fn a_query_gone_wrong(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..8),
        ) {
            let mut bytes = QUERY.to_vec();
            for (at, value, change) in changes {
                let at = at.index(bytes.len());
                match change {
                    0 => bytes[at] = value,
                    1 => bytes[at] = 0xc0,
                    2 => bytes.insert(at, value),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            hold(bytes)?;
        }
    }
}
