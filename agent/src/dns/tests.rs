//! The responder on real sockets: questions and answers are bytes written and read by hand.

use std::net::SocketAddr;
use std::time::Duration;

use agentd_protocol::ids::{Generation, ServiceName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{Responder, Zone};
use crate::lifecycle;

/// Far more than anything here takes on a busy machine.
const CAP: Duration = Duration::from_secs(20);
const ID: [u8; 2] = [0x5a, 0x17];
const QUESTION: &[u8] = b"\x03api\x03svc\x08internal\x00\x00\x01\x00\x01";
const OPT: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
/// Without EDNS no answer may be longer (RFC 1035 §2.3.4), and ours never are.
const ANSWER_BYTES_MAX: usize = 512;

const NOERROR: u8 = 0;
const FORMERR: u8 = 1;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

struct Served {
    responder: Responder,
    udp: SocketAddr,
    tcp: SocketAddr,
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(CAP, future).await.unwrap_or_else(|_| panic!("{what}: still waiting after {CAP:?}"))
}

fn zone(services: &[&str], generation: u64) -> Zone {
    let names: Vec<ServiceName> = services.iter().map(|name| ServiceName::new(*name).unwrap()).collect();
    Zone::new("svc.internal", &names, Generation(generation)).unwrap()
}

async fn served() -> Served {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (udp_at, tcp_at) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let responder = Responder::default();
    lifecycle::spawn("test dns udp", responder.clone().serve_udp(udp.into_std().unwrap()));
    lifecycle::spawn("test dns tcp", responder.clone().serve_tcp(tcp));
    Served { responder, udp: udp_at, tcp: tcp_at }
}

async fn with_api() -> Served {
    let served = served().await;
    served.responder.install(zone(&["api"], 1));
    served
}

/// Header with these flags and counts, then the rest.
fn message(flags: u16, counts: [u16; 4], rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = ID.to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    bytes.extend(rest.concat());
    bytes
}

fn query(name: &[u8], kind: u16) -> Vec<u8> {
    message(0x0100, [1, 0, 0, 0], &[name, &kind.to_be_bytes(), &[0, 1]])
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    rcode: u8,
    authoritative: bool,
    /// Questions, answers, authorities, additionals.
    counts: [u16; 4],
    bytes: Vec<u8>,
}

fn said(bytes: &[u8]) -> Said {
    assert_eq!(bytes[..2], ID, "the id comes back");
    assert_eq!(bytes[2] & 0x82, 0x80, "an answer, not cut");
    assert_eq!(bytes[3] & 0xe0, 0, "no recursion, nothing verified");
    assert!(bytes.len() <= ANSWER_BYTES_MAX, "{} bytes", bytes.len());
    let counts = [4, 6, 8, 10].map(|at| u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    Said { rcode: bytes[3] & 0x0f, authoritative: bytes[2] & 4 != 0, counts, bytes: bytes.to_vec() }
}

impl Served {
    async fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.udp).await.unwrap();
        socket
    }

    async fn udp(&self, bytes: &[u8]) -> Said {
        let client = self.client().await;
        client.send(bytes).await.unwrap();
        said(&receive(&client).await)
    }

    async fn tcp(&self, bytes: &[u8]) -> Said {
        let mut stream = TcpStream::connect(self.tcp).await.unwrap();
        stream.write_all(&framed(bytes)).await.unwrap();
        said(&next(&mut stream).await.expect("an answer"))
    }

    async fn both(&self, bytes: &[u8]) -> Said {
        let (udp, tcp) = (self.udp(bytes).await, self.tcp(bytes).await);
        assert_eq!(udp, tcp, "both transports say the same");
        udp
    }
}

async fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let count = within("an answer", client.recv(&mut bytes)).await.unwrap();
    bytes.truncate(count);
    bytes
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// The next message, or `None` when the connection ends.
async fn next(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    within("an answer", stream.read_exact(&mut length)).await.ok()?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    within("the rest of it", stream.read_exact(&mut bytes)).await.unwrap();
    Some(bytes)
}

#[tokio::test]
async fn records_as_they_stand_on_the_wire() {
    let served = with_api().await;
    let address = served.both(&query(b"\x03api\x03svc\x08internal\x00", 1)).await;
    assert_eq!((address.rcode, address.authoritative, address.counts), (NOERROR, true, [1, 1, 0, 0]));
    // hickory's server copies the question unread, so the owner has nothing to point at; A, IN, 5 s, 4 bytes.
    let owner = b"\x03api\x03svc\x08internal\x00";
    let record = [&owner[..], &[0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 127, 0, 0, 1]].concat();
    assert_eq!(address.bytes[12 + QUESTION.len()..], record);
    let mixed = served.both(&query(b"\x03aPi\x03SvC\x08iNTERNAL\x00", 1)).await;
    assert!(mixed.bytes[12..].starts_with(b"\x03aPi\x03SvC\x08iNTERNAL\x00"), "the question letter by letter");
    assert_eq!(mixed.counts[1], 1);

    let nothing = served.both(&query(b"\x03api\x03svc\x08internal\x00", 28)).await;
    assert_eq!((nothing.rcode, nothing.authoritative, nothing.counts), (NOERROR, true, [1, 0, 1, 0]), "NODATA");
    let gone = served.both(&query(b"\x04gone\x03svc\x08internal\x00", 1)).await;
    assert_eq!((gone.rcode, gone.authoritative, gone.counts), (NXDOMAIN, true, [1, 0, 1, 0]));
    for negative in [nothing, gone] {
        // Serial 1, then the four times; the last, as the record's own TTL, bounds how long "nothing" is remembered.
        assert!(negative.bytes.ends_with(&[0, 0, 0, 1, 0, 0, 14, 16, 0, 0, 2, 88, 0, 1, 81, 128, 0, 0, 0, 2]));
        assert!(negative.bytes.windows(8).any(|window| window == [0, 6, 0, 1, 0, 0, 0, 2]), "SOA, IN, 2 s");
    }
    let apex = b"\x03svc\x08internal\x00";
    assert_eq!(served.both(&query(apex, 6)).await.counts, [1, 1, 0, 0], "SOA");
    assert_eq!(served.both(&query(apex, 2)).await.counts, [1, 1, 0, 1], "NS with its address");
    assert_eq!(served.both(&query(apex, 1)).await.counts, [1, 0, 1, 0]);
    let outside = served.both(&query(b"\x07example\x03com\x00", 1)).await;
    assert_eq!((outside.rcode, outside.authoritative, outside.counts), (REFUSED, false, [1, 0, 0, 0]));
    assert_eq!(served.both(&query(apex, 252)).await.rcode, REFUSED, "AXFR");
}

#[tokio::test]
async fn a_new_zone_is_in_force_at_once() {
    let served = served().await;
    let (api, new) = (query(b"\x03api\x03svc\x08internal\x00", 1), query(b"\x03new\x03svc\x08internal\x00", 1));
    assert_eq!(served.both(&api).await.rcode, SERVFAIL, "nothing is known yet, which is not the same as no such name");
    served.responder.install(zone(&["api"], 1));
    assert_eq!((served.both(&api).await.rcode, served.both(&new).await.rcode), (NOERROR, NXDOMAIN));
    served.responder.install(zone(&["new"], 2));
    assert_eq!((served.both(&api).await.rcode, served.both(&new).await.rcode), (NXDOMAIN, NOERROR));
}

#[tokio::test]
async fn edns_is_answered_only_when_asked() {
    let served = with_api().await;
    assert_eq!(served.both(&message(0, [1, 0, 0, 0], &[QUESTION])).await.counts[3], 0);
    let with_opt = |opt: &[u8]| message(0, [1, 0, 0, 1], &[QUESTION, opt]);
    let plain = served.both(&with_opt(&OPT)).await;
    assert_eq!(plain.bytes[plain.bytes.len() - 11..], OPT, "our size, which is theirs here, no flag, no option");
    for (asked, size) in [([0, 0, 41, 0, 0, 0, 0, 0, 0, 0, 0], 0), ([0, 0, 41, 255, 255, 0, 0, 0, 0, 0, 0], 65_535)] {
        let answer = served.both(&with_opt(&asked)).await;
        assert_eq!(answer.bytes[answer.bytes.len() - 11..], OPT, "our size when theirs is {size}");
    }
    let verified = served.both(&with_opt(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0])).await;
    assert_eq!(verified.bytes[verified.bytes.len() - 4], 0x80, "DO comes back (RFC 3225)");
    let reserved = served.both(&with_opt(&[0, 0, 41, 4, 208, 0, 0, 0x40, 0x80, 0, 0])).await;
    assert_eq!(reserved.bytes[reserved.bytes.len() - 11..], OPT, "unknown flags do not");
    let option = served.both(&with_opt(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 8, 0, 100, 0, 4, 1, 2, 3, 4])).await;
    assert_eq!(option.bytes[option.bytes.len() - 11..], OPT, "nor unknown options");
    let newer = served.both(&with_opt(&[0, 0, 41, 4, 208, 0, 1, 0, 0, 0, 0])).await;
    assert_eq!((newer.rcode, newer.counts), (0, [1, 0, 0, 1]));
    assert_eq!(newer.bytes[newer.bytes.len() - 11..], [0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0], "BADVERS, and ours is 0");
}

#[tokio::test]
async fn other_orders_than_queries_are_not_implemented() {
    let served = with_api().await;
    for opcode in (1..16_u16).filter(|opcode| *opcode != 5) {
        for (counts, rest) in [([0; 4], &b""[..]), ([1, 0, 0, 0], QUESTION)] {
            let answer = served.both(&message(opcode << 11, counts, &[rest])).await;
            assert_eq!(answer.rcode, NOTIMP, "opcode {opcode} with {counts:?}");
        }
    }
    // The zone of an update (RFC 2136 §2.3) stands where a question does.
    let update = message(5 << 11, [1, 0, 0, 0], &[b"\x03svc\x08internal\x00\x00\x06\x00\x01"]);
    assert_eq!(served.both(&update).await.rcode, NOTIMP);
}

#[tokio::test]
async fn flags_of_a_query_do_not_leak_into_the_answer() {
    let served = with_api().await;
    for (flags, kept) in
        [(0x0100, 0x0100), (0x0010, 0x0010), (0x0200, 0), (0x0400, 0), (0x0020, 0), (0x0040, 0), (0x000f, 0)]
    {
        let answer = served.both(&message(flags, [1, 0, 0, 0], &[QUESTION])).await;
        assert_eq!((answer.rcode, answer.counts[1]), (NOERROR, 1), "{flags:#06x}");
        let said = u16::from_be_bytes([answer.bytes[2], answer.bytes[3]]);
        assert_eq!(said, 0x8400 | kept, "{flags:#06x}");
    }
}

/// What no honest client sends, and what becomes of it.
fn malformed() -> Vec<(&'static str, Vec<u8>, Option<u8>)> {
    let opt = |rest: &[u8]| [&OPT[..9], rest].concat();
    let label = |length: usize| [&[u8::try_from(length).unwrap()][..], &vec![b'a'; length]].concat();
    let name =
        |labels: &[usize]| [labels.iter().flat_map(|length| label(*length)).collect(), vec![0, 0, 1, 0, 1]].concat();
    let asked = |question: &[u8]| message(0, [1, 0, 0, 0], &[question]);
    let record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x7f\x00\x00\x01";
    vec![
        ("empty", vec![], None),
        ("eleven bytes", message(0, [0; 4], &[])[..11].to_vec(), None),
        ("an answer", message(0x8000, [1, 0, 0, 0], &[QUESTION]), None),
        ("no question", message(0, [0; 4], &[]), Some(FORMERR)),
        ("a question that is not there", asked(b""), Some(FORMERR)),
        ("two questions", message(0, [2, 0, 0, 0], &[QUESTION, QUESTION]), Some(FORMERR)),
        ("65535 questions", message(0, [65_535, 0, 0, 0], &[QUESTION]), Some(FORMERR)),
        ("65535 of everything", message(0, [65_535; 4], &[QUESTION]), Some(FORMERR)),
        ("trailing bytes", message(0, [1, 0, 0, 0], &[QUESTION, &[0xff; 20]]), Some(NOERROR)),
        ("an answer in the query", message(0, [1, 1, 0, 0], &[QUESTION, record]), Some(NOERROR)),
        ("two OPT", message(0, [1, 0, 0, 2], &[QUESTION, &OPT, &OPT]), Some(FORMERR)),
        ("OPT of another owner", message(0, [1, 0, 0, 1], &[QUESTION, b"\x01a", &OPT]), Some(FORMERR)),
        ("OPT as an answer", message(0, [1, 1, 0, 0], &[QUESTION, &OPT]), Some(FORMERR)),
        ("OPT too short", message(0, [1, 0, 0, 1], &[QUESTION, &opt(&[0, 50])]), Some(FORMERR)),
        ("an option too long", message(0, [1, 0, 0, 1], &[QUESTION, &opt(&[0, 4, 0, 10, 0, 100])]), Some(FORMERR)),
        ("label type 01", asked(&[&[0x40][..], &[b'a'; 64], &[0, 0, 1, 0, 1]].concat()), Some(FORMERR)),
        ("label type 10", asked(b"\x80abc\x00\x00\x01\x00\x01"), Some(FORMERR)),
        ("pointer to itself", asked(b"\xc0\x0c\x00\x01\x00\x01"), Some(FORMERR)),
        ("pointer forward", asked(b"\xc0\xff\x00\x01\x00\x01"), Some(FORMERR)),
        ("pointer into the header", asked(b"\xc0\x00\x00\x01\x00\x01"), Some(FORMERR)),
        ("a name of 255 bytes", asked(&name(&[63, 63, 63, 61])), Some(REFUSED)),
        ("a name of 321 bytes", asked(&name(&[63; 5])), Some(FORMERR)),
        ("NUL in a label", asked(b"\x04a\x00pi\x03svc\x08internal\x00\x00\x01\x00\x01"), Some(NXDOMAIN)),
        ("a dot in a label", asked(b"\x07api.svc\x08internal\x00\x00\x01\x00\x01"), Some(REFUSED)),
        ("no text in a label", asked(b"\x04a\xffpi\x03svc\x08internal\x00\x00\x01\x00\x01"), Some(NXDOMAIN)),
        ("the root", asked(b"\x00\x00\x01\x00\x01"), Some(REFUSED)),
        ("half a type", asked(b"\x03api\x03svc\x08internal\x00\x00"), Some(FORMERR)),
        ("class CH", asked(b"\x03api\x03svc\x08internal\x00\x00\x01\x00\x03"), Some(REFUSED)),
        ("class ANY", asked(b"\x03api\x03svc\x08internal\x00\x00\x01\x00\xff"), Some(REFUSED)),
    ]
}

#[tokio::test]
async fn hostile_queries_over_udp() {
    let served = with_api().await;
    for (what, bytes, rcode) in malformed() {
        let client = served.client().await;
        client.send(&bytes).await.unwrap();
        if let Some(rcode) = rcode {
            assert_eq!(said(&receive(&client).await).rcode, rcode, "{what}");
        }
        // Nothing more comes: the next answer is that of the next question.
        let mut after = message(0, [1, 0, 0, 0], &[QUESTION]);
        after[0] ^= 0xff;
        client.send(&after).await.unwrap();
        assert_eq!(receive(&client).await[0], ID[0] ^ 0xff, "{what}: one answer at most");
    }
    let long = message(0, [1, 0, 0, 0], &[QUESTION, &[0; 5000]]);
    assert_eq!(served.udp(&long).await.rcode, NOERROR);
}

#[tokio::test]
async fn hostile_queries_over_tcp() {
    let served = with_api().await;
    for (what, bytes, rcode) in malformed() {
        let mut stream = TcpStream::connect(served.tcp).await.unwrap();
        stream.write_all(&framed(&bytes)).await.unwrap();
        let answer = next(&mut stream).await;
        assert_eq!(answer.map(|bytes| said(&bytes).rcode), rcode, "{what}");
    }
    let question = message(0, [1, 0, 0, 0], &[QUESTION]);
    for (what, start) in
        [("a frame of 65535", vec![0xff, 0xff]), ("a frame that is cut", framed(&question)[..20].to_vec())]
    {
        let mut stream = TcpStream::connect(served.tcp).await.unwrap();
        stream.write_all(&start).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(next(&mut stream).await.is_none(), "{what} ends the connection");
    }
    assert_eq!(served.tcp(&question).await.rcode, NOERROR, "others are served all the same");
}

#[tokio::test]
async fn tcp_takes_queries_in_any_pieces() {
    let served = with_api().await;
    let question = framed(&message(0, [1, 0, 0, 0], &[QUESTION]));
    let mut stream = TcpStream::connect(served.tcp).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in &question {
        stream.write_all(&[*byte]).await.unwrap();
    }
    assert_eq!(said(&next(&mut stream).await.unwrap()).rcode, NOERROR);
    stream.write_all(&question.repeat(3)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(said(&next(&mut stream).await.unwrap()).counts, [1, 1, 0, 0]);
    }
}

#[tokio::test]
async fn connections_are_limited_and_idle_ones_end() {
    let served = with_api().await;
    let question = message(0, [1, 0, 0, 0], &[QUESTION]);
    let mut idle = Vec::new();
    for _ in 0..super::wire::TCP_CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(served.tcp).await.unwrap();
        stream.write_all(&framed(&question)).await.unwrap();
        assert!(next(&mut stream).await.is_some());
        idle.push(stream);
    }
    let mut waiting = TcpStream::connect(served.tcp).await.unwrap();
    waiting.write_all(&framed(&question)).await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(200), waiting.peek(&mut byte)).await;
    assert!(early.is_err(), "it waits in the queue");
    drop(idle.pop());
    assert_eq!(said(&next(&mut waiting).await.unwrap()).rcode, NOERROR);
    assert!(next(&mut idle[0]).await.is_none(), "closed after a while without a query");
    assert_eq!(served.udp(&question).await.rcode, NOERROR, "UDP never waits for them");
}
