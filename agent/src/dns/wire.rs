//! Answers on the wire: hickory reads and writes the messages, the zone decides. The one file that names hickory.
//!
//! Over UDP its server does the work. Over TCP the connections are ours, counted and timed: its listener ends with the
//! first connection that was aborted, spins when descriptors run out, and takes any number of connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{A, NS, SOA};
use hickory_server::proto::rr::{Name, RData, Record};
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder, Queries};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::zone::{self, Answer, Found, NAMESERVER, NEGATIVE_TTL_S, Question, TTL_S, Zone};
use crate::lifecycle;

/// UDP payload we offer in EDNS, bytes: 1280 (smallest IPv6 MTU, RFC 8200 §5) - 40 (IPv6) - 8 (UDP).
const EDNS_UDP_BYTES_MAX: u16 = 1232;
/// Each takes one descriptor of the edge; resolvers ask over UDP and come here only after a truncated answer.
pub(super) const TCP_CONNECTIONS_MAX: usize = 64;
/// For one whole message, and for the pause before it (RFC 7766 §6.2.3: a few seconds).
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// A query with every option there is stays far below it.
const TCP_QUERY_BYTES_MAX: usize = 4096;
/// DNS header (RFC 1035 §4.1.1), and the bit of its third byte that marks answers.
const HEADER_BYTES: usize = 12;
const QR: u8 = 0x80;
/// A socket that fails is used again after this, doubled up to the second while it goes on failing.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Served so long, a socket has recovered.
const STEADY: Duration = Duration::from_secs(60);

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
    pub async fn serve_udp(self, socket: std::net::UdpSocket) {
        let mut pause = PAUSE_MIN;
        loop {
            let started = Instant::now();
            let served = async {
                let mut server = Server::new(self.clone());
                server.register_socket(UdpSocket::from_std(socket.try_clone()?)?);
                server.block_until_done().await.map_err(io::Error::other)
            };
            let ended = served.await;
            pause = if started.elapsed() > STEADY { PAUSE_MIN } else { pause };
            tracing::error!(?ended, ?pause, "answering names over UDP ended; it starts again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
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
        stream.set_nodelay(true)?;
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
        let header: [u8; HEADER_BYTES] = *query.first_chunk()?;
        if header[2] & QR != 0 {
            return None;
        }
        let Ok(request) = Request::from_bytes(query, peer, Protocol::Tcp) else { return Some(malformed(&header)) };
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

#[async_trait::async_trait]
impl RequestHandler for Responder {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut to: R) -> ResponseInfo {
        let reply = self.reply(request);
        match to.send_response(reply.message(&request.queries)).await {
            Ok(sent) => sent,
            Err(error) => {
                tracing::debug!(%error, "a DNS answer was not sent");
                Header { metadata: reply.metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
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
    if !(HEADER_BYTES..=TCP_QUERY_BYTES_MAX).contains(&length) {
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

    const PEER: &str = "127.0.0.1:5353";

    /// Neither panics nor amplifies; an answer is one, to this question.
    fn hold(bytes: Vec<u8>) -> Result<(), TestCaseError> {
        let id = bytes.get(..2).map(<[u8]>::to_vec);
        let is_answer = bytes.get(2).is_some_and(|flags| flags & 0x80 != 0);
        let length = bytes.len();
        let Some(answer) = responder().reply_to(bytes, PEER.parse().unwrap()) else { return Ok(()) };
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
