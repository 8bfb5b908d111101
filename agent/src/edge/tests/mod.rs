//! Edge and client in one process, over a real control socket.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentd_protocol::edge::{self, Absent, FromEdge, Snapshot, ToEdge};
use agentd_protocol::ids::{Generation, Incarnation, InstanceId, ServiceName};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::edge::frame::{Link, decode};
use crate::edge::run::serve;
use crate::edge::{BackendKey, EdgeClient, EdgeOptions, Error, Idleness};
use crate::lifecycle;
use crate::proxy::Limits;

mod process;

const CAP: Duration = Duration::from_secs(20);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(CAP, future).await.unwrap_or_else(|_| panic!("{what}: still waiting after {CAP:?}"))
}

/// The sockets and files that outlive an edge, as the shim and the disk keep them.
struct Host {
    external: TcpListener,
    internal: TcpListener,
    dns_udp: UdpSocket,
    dns_tcp: TcpListener,
    control: UnixListener,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

struct Running {
    terminate: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), Error>>,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [external, internal, dns_tcp] = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let dns_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = external.local_addr().unwrap();
        let control = UnixListener::bind(dir.path().join("edge.sock")).unwrap();
        Self { external, internal, dns_udp, dns_tcp, control, address, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start_edge(&self) -> Running {
        let options = EdgeOptions {
            external: vec![self.external.try_clone().unwrap()],
            internal: self.internal.try_clone().unwrap(),
            dns_udp: self.dns_udp.try_clone().unwrap(),
            dns_tcp: self.dns_tcp.try_clone().unwrap(),
            control: self.control.try_clone().unwrap(),
            snapshot_file: Some(self.path("snapshot.json")),
            limits: Limits::default(),
        };
        let (terminate, terminated) = oneshot::channel();
        let ended = lifecycle::spawn("test edge", serve(options, async move { terminated.await.ok() }));
        Running { terminate, ended }
    }

    fn start_client(&self) -> EdgeClient {
        EdgeClient::start(self.path("edge.sock"), self.path("snapshot.json"), CancellationToken::new())
    }

    /// The answer's code and number of records for `<name>.svc.internal`.
    async fn resolve(&self, name: &str) -> (u8, u8) {
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut query = vec![0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len()).unwrap()];
        query.extend([name.as_bytes(), b"\x03svc\x08internal\x00\x00\x01\x00\x01"].concat());
        client.send_to(&query, self.dns_udp.local_addr().unwrap()).await.unwrap();
        let mut answer = [0; 512];
        let count = within("an answer of DNS", client.recv(&mut answer)).await.unwrap();
        assert!(count > query.len() - 1 && answer[1] == 9);
        (answer[3] & 15, answer[7])
    }

    async fn manager(&self) -> Link {
        let mut link = Link::new(UnixStream::connect(self.path("edge.sock")).await.unwrap());
        link.send(&ToEdge::Hello { protocol: edge::PROTOCOL }).await.unwrap();
        link
    }

    async fn get(&self) -> String {
        let mut client = TcpStream::connect(self.address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        within("an answer", client.read_to_string(&mut answer)).await.unwrap();
        answer.lines().chain([""]).next().unwrap().to_owned() + " " + answer.lines().last().unwrap_or_default()
    }
}

async fn hear(link: &mut Link) -> Option<FromEdge> {
    let frame = within("a message of the edge", link.next()).await.ok()??;
    Some(decode(frame).await.unwrap())
}

async fn connected(client: &EdgeClient) -> u32 {
    let mut view = client.view();
    let view = within("the connection", view.wait_for(|view| view.edge.is_some())).await.unwrap();
    view.edge.as_ref().unwrap().pid
}

struct Gate {
    /// One permit for every request that arrived.
    asked: Semaphore,
    /// Each answer takes one.
    allowed: Semaphore,
}

impl Gate {
    const fn new(allowed: usize) -> Self {
        Self { asked: Semaphore::const_new(0), allowed: Semaphore::const_new(allowed) }
    }
}

/// Answers with its name, one request a connection.
async fn backend(name: &'static str, gate: &'static Gate) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    lifecycle::spawn("test backend", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            lifecycle::spawn("test backend connection", async move {
                let mut bytes = [0; 4096];
                // What was asked does not matter here.
                let _ = stream.read(&mut bytes).await;
                gate.asked.add_permits(1);
                gate.allowed.acquire().await.unwrap().forget();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                // The client may have left.
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

fn open() -> &'static Gate {
    static OPEN: Gate = Gate::new(10_000);
    &OPEN
}

fn key(instance: u32) -> BackendKey {
    (InstanceId::new(format!("{instance:012}")).unwrap(), Incarnation(1))
}

fn snapshot(generation: u64, backends: &[(u32, SocketAddr)]) -> Snapshot {
    let name = ServiceName::new("web").unwrap();
    let backends = backends.iter().map(|(instance, address)| {
        let (instance, incarnation) = key(*instance);
        edge::Backend { instance, incarnation, address: *address }
    });
    Snapshot {
        generation: Generation(generation),
        health_path: None,
        routes: vec![edge::Route { host: None, path: "/".into(), strip_prefix: false, service: name.clone() }],
        services: vec![edge::Service { name, backends: backends.collect(), absent: Absent::Starting }],
        suffix: "svc.internal".into(),
        client_address: edge::ForwardedBy::Nobody,
    }
}

#[tokio::test]
async fn a_published_snapshot_is_in_force_and_on_disk() {
    let host = Host::new();
    let (_edge, client) = (host.start_edge(), host.start_client());
    assert_eq!(connected(&client).await, std::process::id());
    client.publish(snapshot(1, &[(1, backend("one", open()).await)])).await.unwrap();
    assert_eq!(host.get().await, "HTTP/1.1 200 OK one");
    let written = std::fs::read(host.path("snapshot.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Snapshot>(&written).unwrap().generation, Generation(1));
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(host.path("snapshot.json")).unwrap());
    assert_eq!(mode & 0o777, 0o644);
    assert!(matches!(client.publish(snapshot(1, &[])).await, Err(Error::Rejected { .. })));
    assert_eq!(client.view().borrow().generation, Some(Generation(1)));
}

#[tokio::test]
async fn a_removed_backend_is_idle_after_its_last_request() {
    let host = Host::new();
    let (_edge, client) = (host.start_edge(), host.start_client());
    connected(&client).await;
    static GATE: Gate = Gate::new(0);
    client.publish(snapshot(1, &[(1, backend("old", &GATE).await)])).await.unwrap();
    let mut slow = TcpStream::connect(host.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    within("the request to arrive", GATE.asked.acquire()).await.unwrap().forget();
    client.publish(snapshot(2, &[])).await.unwrap();
    assert!(host.get().await.starts_with("HTTP/1.1 503"));
    assert_eq!(client.wait_idle(&key(1), Duration::from_millis(200)).await, Idleness::Deadline);
    GATE.allowed.add_permits(1);
    assert_eq!(within("idle", client.wait_idle(&key(1), CAP)).await, Idleness::Idle);
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("old"), "{answer}");
}

#[tokio::test]
async fn an_edge_that_restarts_serves_from_disk_before_the_manager_is_back() {
    let host = Host::new();
    let edge = host.start_edge();
    let cancel = CancellationToken::new();
    let client = EdgeClient::start(host.path("edge.sock"), host.path("snapshot.json"), cancel.clone());
    connected(&client).await;
    client.publish(snapshot(1, &[(1, backend("one", open()).await)])).await.unwrap();
    cancel.cancel();
    edge.ended.abort();
    let _edge = host.start_edge();
    assert_eq!(host.get().await, "HTTP/1.1 200 OK one");
    let mut link = host.manager().await;
    assert!(matches!(hear(&mut link).await, Some(FromEdge::Hello { generation: Some(Generation(1)), .. })));
}

#[tokio::test]
async fn what_was_published_while_the_edge_was_away_is_applied_when_it_is_back() {
    let host = Host::new();
    let client = host.start_client();
    let address = backend("later", open()).await;
    // The listener exists, so the client connects; but nobody answers there yet.
    let publish = client.publish(snapshot(1, &[(1, address)]));
    let early = tokio::time::timeout(Duration::from_millis(100), publish).await;
    assert!(matches!(early, Err(_) | Ok(Err(Error::NotConnected { .. }))), "{early:?}");
    assert!(host.path("snapshot.json").exists());
    std::fs::remove_file(host.path("snapshot.json")).unwrap();
    let _edge = host.start_edge();
    let mut view = client.view();
    within("the snapshot", view.wait_for(|view| view.generation == Some(Generation(1)))).await.unwrap();
    assert_eq!(host.get().await, "HTTP/1.1 200 OK later");
}

#[tokio::test]
async fn names_come_and_go_with_the_snapshot_and_outlive_the_edge() {
    let host = Host::new();
    let (edge, client) = (host.start_edge(), host.start_client());
    connected(&client).await;
    assert_eq!(host.resolve("web").await, (2, 0), "SERVFAIL while nothing is known");
    client.publish(snapshot(1, &[])).await.unwrap();
    assert_eq!((host.resolve("web").await, host.resolve("api").await), ((0, 1), (3, 0)), "before any backend");
    client.publish(Snapshot { routes: vec![], services: vec![], ..snapshot(2, &[]) }).await.unwrap();
    assert_eq!(host.resolve("web").await, (3, 0));
    client.publish(snapshot(3, &[])).await.unwrap();
    edge.terminate.send(()).unwrap();
    within("the end", edge.ended).await.unwrap().unwrap();
    let queued = host.resolve("web");
    let restarted = async { host.start_edge() };
    let (answer, _edge) = tokio::join!(queued, restarted);
    assert_eq!(answer, (0, 1), "the question waited in the socket");
}

#[tokio::test]
async fn a_broken_copy_does_not_keep_the_edge_from_starting() {
    let host = Host::new();
    std::fs::write(host.path("snapshot.json"), b"{ half a snap").unwrap();
    let _edge = host.start_edge();
    assert!(host.get().await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn a_publisher_without_edge_is_told_and_the_copy_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let client = EdgeClient::start(deep.join("edge.sock"), deep.join("snapshot.json"), CancellationToken::new());
    let outcome = within("the answer", client.publish(snapshot(4, &[]))).await;
    assert!(matches!(outcome, Err(Error::NotConnected { generation: Generation(4) })), "{outcome:?}");
    assert!(deep.join("snapshot.json").exists());
    let dir_file = std::fs::File::open(&deep).unwrap();
    let through = format!("/proc/self/fd/{}/edge.sock", std::os::fd::AsRawFd::as_raw_fd(&dir_file));
    let listener = tokio::net::UnixListener::bind(through).unwrap();
    within("a connection over a long path", listener.accept()).await.unwrap();
}

#[tokio::test]
async fn the_newest_manager_wins_and_learns_who_is_idle() {
    let host = Host::new();
    let _edge = host.start_edge();
    let address = backend("one", open()).await;
    let mut first = host.manager().await;
    assert!(matches!(hear(&mut first).await, Some(FromEdge::Hello { generation: None, .. })));
    for (generation, backends) in [(1, &[(1, address)][..]), (2, &[])] {
        first.send(&ToEdge::Snapshot { snapshot: snapshot(generation, backends) }).await.unwrap();
        assert_eq!(hear(&mut first).await, Some(FromEdge::Applied { generation: Generation(generation) }));
    }
    let idle = FromEdge::Idle { instance: key(1).0, incarnation: key(1).1 };
    assert_eq!(hear(&mut first).await, Some(idle.clone()));
    let mut second = host.manager().await;
    assert!(matches!(hear(&mut second).await, Some(FromEdge::Hello { generation: Some(Generation(2)), .. })));
    assert_eq!(hear(&mut second).await, Some(idle), "told again to the new one");
    assert_eq!(hear(&mut first).await, None, "the first is cut off");
    second.send(&ToEdge::Snapshot { snapshot: snapshot(1, &[]) }).await.unwrap();
    assert!(matches!(hear(&mut second).await, Some(FromEdge::Rejected { generation: Generation(1), .. })));
}

#[tokio::test]
async fn orders_without_hello_are_not_taken() {
    let host = Host::new();
    let _edge = host.start_edge();
    let mut link = Link::new(UnixStream::connect(host.path("edge.sock")).await.unwrap());
    assert!(matches!(hear(&mut link).await, Some(FromEdge::Hello { .. })));
    link.send(&ToEdge::Snapshot { snapshot: snapshot(1, &[]) }).await.unwrap();
    assert_eq!(hear(&mut link).await, None);
}

#[tokio::test]
async fn a_refused_backend_is_reported() {
    let host = Host::new();
    let (_edge, client) = (host.start_edge(), host.start_client());
    connected(&client).await;
    let mut unreachable = client.unreachable();
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    client.publish(snapshot(1, &[(5, refusing)])).await.unwrap();
    assert!(host.get().await.starts_with("HTTP/1.1 502"));
    assert_eq!(within("the report", unreachable.recv()).await.unwrap(), key(5));
}

#[tokio::test]
async fn a_drain_is_reported_and_ends_the_process() {
    let host = Host::new();
    let edge = host.start_edge();
    let mut link = host.manager().await;
    hear(&mut link).await;
    link.send(&ToEdge::Drain { soft_ms: 50, deadline_ms: 5_000 }).await.unwrap();
    assert_eq!(hear(&mut link).await, Some(FromEdge::Drained { connections_left: 0 }));
    within("the end", edge.ended).await.unwrap().unwrap();
    let _next = host.start_edge();
    assert!(host.get().await.starts_with("HTTP/1.1 503"), "the next edge serves the same sockets");
}

#[tokio::test]
async fn a_terminated_edge_ends_when_nothing_is_left() {
    let host = Host::new();
    let edge = host.start_edge();
    assert!(host.get().await.starts_with("HTTP/1.1 503"));
    edge.terminate.send(()).unwrap();
    within("the end", edge.ended).await.unwrap().unwrap();
}

/// One client after another request, fresh or kept, without any retry; it connects anew when told to close.
async fn keep_asking(address: SocketAddr, fresh: bool, stop: CancellationToken, answered: Arc<AtomicUsize>) {
    let mut kept: Option<BufReader<TcpStream>> = None;
    while !stop.is_cancelled() {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => BufReader::new(TcpStream::connect(address).await.expect("the queue is never closed")),
        };
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("the connection is open");
        let (mut head, mut line) = (String::new(), String::new());
        while line != "\r\n" {
            line.clear();
            assert_ne!(within("a line", stream.read_line(&mut line)).await.unwrap(), 0, "cut off after {head:?}");
            head.push_str(&line);
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut body = [0; 3];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"one");
        answered.fetch_add(1, Ordering::Relaxed);
        kept = (!fresh && !head.to_lowercase().contains("connection: close")).then_some(stream);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_edges_replace_each_other() {
    let host = Host::new();
    let mut edge = host.start_edge();
    let client = host.start_client();
    connected(&client).await;
    client.publish(snapshot(1, &[(1, backend("one", open()).await)])).await.unwrap();
    let stop = CancellationToken::new();
    let answered = Arc::new(AtomicUsize::new(0));
    let asking = [false, true, false, true].map(|fresh| {
        let asking = keep_asking(host.address, fresh, stop.clone(), Arc::clone(&answered));
        lifecycle::spawn("test client", asking)
    });
    for round in 1..=4 {
        within("more answers", async {
            while answered.load(Ordering::Relaxed) < round * 100 {
                tokio::time::sleep(Duration::from_millis(2)).await; // poll: capped by `within`
            }
        })
        .await;
        let next = host.start_edge();
        let mut manager = host.manager().await;
        hear(&mut manager).await;
        edge.terminate.send(()).unwrap();
        within("the end of the old edge", edge.ended).await.unwrap().unwrap();
        edge = next;
    }
    stop.cancel();
    for client in asking {
        client.await.unwrap();
    }
}
