//! Answers on the wire: hickory reads and writes the messages, the zone decides. The one file that names hickory.
//!
//! The sockets are ours, not its server's: that one ends its TCP listener with the first connection that was aborted,
//! spins when descriptors run out, takes any number of connections, and answers over UDP what was no question.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{A, NS, SOA};
use hickory_server::proto::rr::{Name, RData, Record};
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::Request;
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder, Queries};
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

/// One answer before it is written.
struct Reply {
    metadata: Metadata,
    edns: Option<Edns>,
    answer: Option<Record>,
    authority: Option<Record>,
    additional: Option<Record>,
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

    /// A datagram longer than `space` is cut, and is then no query.
    async fn serve_one(&self, socket: &UdpSocket, space: &mut [u8]) -> io::Result<()> {
        let (count, peer) = socket.recv_from(space).await?;
        if let Some(answer) = self.reply_to(space[..count].to_vec(), peer) {
            socket.send_to(&answer, peer).await?;
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
                        if let Err(error) = responder.converse(stream, peer).await {
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
    async fn converse(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        loop {
            let Some(query) = timeout(TCP_TIMEOUT, read_message(&mut stream)).await?? else { return Ok(()) };
            let Some(answer) = self.reply_to(query, peer) else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes()[..], &answer].concat();
            timeout(TCP_TIMEOUT, stream.write_all(&framed)).await??;
        }
    }

    /// `None`: not to be answered at all.
    fn reply_to(&self, query: Vec<u8>, peer: SocketAddr) -> Option<Vec<u8>> {
        let (id, flags) = ([*query.first()?, *query.get(1)?], *query.get(2)?);
        if flags & QR != 0 || query.len() < HEADER_BYTES {
            return None;
        }
        // The transport changes nothing here.
        let Ok(request) = Request::from_bytes(query, peer, Protocol::Udp) else { return Some(malformed(id, flags)) };
        let reply = self.reply(&request);
        let mut bytes = Vec::new();
        let written = reply.message(&request.queries).destructive_emit(&mut BinEncoder::new(&mut bytes));
        match written {
            Ok(_) => Some(bytes),
            Err(error) => {
                tracing::error!(%error, "a DNS answer cannot be written");
                None
            }
        }
    }

    fn reply(&self, request: &Request) -> Reply {
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(EDNS_UDP_BYTES_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        let mut reply = Reply {
            metadata: Metadata::response_from_request(&request.metadata),
            edns,
            answer: None,
            authority: None,
            additional: None,
        };
        reply.metadata.response_code = match (request.metadata.op_code, request.request_info()) {
            _ if request.edns.as_ref().is_some_and(|asked| asked.version() > 0) => ResponseCode::BADVERS,
            (OpCode::Query, Ok(info)) => match &*self.0.load() {
                Some(loaded) => {
                    let name: &Name = info.query.name();
                    return loaded.answer(name, info.query.query_type().into(), info.query.query_class().into(), reply);
                }
                None => ResponseCode::ServFail,
            },
            // Not exactly one question (RFC 9619).
            (OpCode::Query, Err(_)) => ResponseCode::FormErr,
            (OpCode::Status | OpCode::Notify | OpCode::Update | OpCode::Unknown(_), _) => ResponseCode::NotImp,
        };
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

    fn answer(&self, name: &Name, kind: u16, class: u16, mut reply: Reply) -> Reply {
        let labels: Vec<&[u8]> = name.iter().collect();
        let answer = zone::answer(&self.zone, &Question { labels: &labels, kind, class });
        reply.metadata.authoritative = answer != Answer::Refused;
        match answer {
            Answer::Refused => reply.metadata.response_code = ResponseCode::Refused,
            Answer::NoName => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.authority = Some(self.soa.clone());
            }
            Answer::NoData => reply.authority = Some(self.soa.clone()),
            Answer::Found(Found::Loopback) => reply.answer = Some(loopback(name.clone())),
            Answer::Found(Found::Soa) => reply.answer = Some(self.soa.clone()),
            Answer::Found(Found::Nameserver) => {
                reply.answer = Some(self.nameserver.clone());
                reply.additional = Some(self.glue.clone());
            }
        }
        reply
    }
}

fn loopback(name: Name) -> Record {
    Record::from_rdata(name, TTL_S, RData::A(A(Ipv4Addr::LOCALHOST)))
}

impl Reply {
    fn message<'a>(
        &'a self,
        queries: &'a Queries,
    ) -> MessageResponse<
        'a,
        'a,
        impl Iterator<Item = &'a Record> + Send,
        impl Iterator<Item = &'a Record> + Send,
        impl Iterator<Item = &'a Record> + Send,
        impl Iterator<Item = &'a Record> + Send,
    > {
        MessageResponseBuilder::new(queries, self.edns.as_ref()).build(
            self.metadata,
            &self.answer,
            &self.authority,
            None,
            &self.additional,
        )
    }
}

/// FORMERR with nothing but a header, for a message that could not be read further; opcode and RD are copied.
fn malformed(id: [u8; 2], flags: u8) -> Vec<u8> {
    const OPCODE_AND_RD: u8 = 0x79;
    const FORMERR: u8 = 1;
    let mut header = vec![0; HEADER_BYTES];
    header[..2].copy_from_slice(&id);
    header[2] = QR | flags & OPCODE_AND_RD;
    header[3] = FORMERR;
    header
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
        responder.install(Zone::new("svc.internal", &[ServiceName::new("api").unwrap()], Generation(1)));
        responder
    }

    /// Neither panics nor amplifies; an answer is one, to this question.
    fn hold(bytes: Vec<u8>) -> Result<(), TestCaseError> {
        let id = bytes.get(..2).map(<[u8]>::to_vec);
        let is_answer = bytes.get(2).is_some_and(|flags| flags & 0x80 != 0);
        let length = bytes.len();
        let Some(answer) = responder().reply_to(bytes, ([127, 0, 0, 1], 9).into()) else { return Ok(()) };
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
