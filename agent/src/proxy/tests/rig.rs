//! A running proxy, backends that record what reached them, and a client that speaks raw HTTP/1.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentd_protocol::edge::{self, Absent, ForwardedBy, Snapshot};
use agentd_protocol::ids::{Generation, Incarnation, InstanceId, ServiceName};
use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::lifecycle;
use crate::proxy::{BackendKey, Entrance, HeadLimits, HoldLimits, Limits, Proxy, Registry, Table};

/// Far more than anything here takes on a busy machine.
const CAP: Duration = Duration::from_secs(20);

pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(CAP, future).await.unwrap_or_else(|_| panic!("{what}: still waiting after {CAP:?}"))
}

pub(super) fn limits() -> Limits {
    Limits {
        connections_max: 64,
        head: HeadLimits {
            idle_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(5),
            head_bytes_max: 64 * 1024,
        },
        backend_timeout: Duration::from_secs(10),
        hold: HoldLimits { timeout: Duration::from_secs(15), requests_max: 2 },
    }
}

pub(super) struct Rig {
    pub(super) address: SocketAddr,
    /// Of the internal listener.
    pub(super) internal: SocketAddr,
    pub(super) registry: Registry,
    pub(super) proxy: Proxy,
    pub(super) unreachable: mpsc::Receiver<BackendKey>,
    /// Of the snapshots to come.
    pub(super) client_address: ForwardedBy,
    generation: u64,
}

impl Rig {
    pub(super) async fn start(limits: Limits) -> Self {
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (outside, within) = (bind().await, bind().await);
        let (address, internal) = (outside.local_addr().unwrap(), within.local_addr().unwrap());
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let (proxy, unreachable) = Proxy::new(Arc::clone(&table), limits);
        for (listener, entrance) in [(outside, Entrance::External), (within, Entrance::Internal)] {
            let listener = listener.into_std().unwrap();
            lifecycle::spawn("test accept", proxy.clone().accept(listener, entrance));
        }
        Self {
            address,
            internal,
            registry: Registry::new(table),
            proxy,
            unreachable,
            client_address: ForwardedBy::Nobody,
            generation: 0,
        }
    }

    /// A rig whose `/` goes to the given backends, of which each is an instance named by its position.
    pub(super) async fn to(backends: &[SocketAddr]) -> Self {
        let mut rig = Self::start(limits()).await;
        rig.publish(backends);
        rig
    }

    pub(super) fn publish(&mut self, backends: &[SocketAddr]) {
        let named: Vec<_> = backends.iter().enumerate().map(|(position, address)| (position, *address)).collect();
        self.apply(vec![route(None, "/", "web")], vec![service("web", &named, Absent::Starting)]);
    }

    pub(super) fn apply(&mut self, routes: Vec<edge::Route>, services: Vec<edge::Service>) {
        self.generation += 1;
        let generation = Generation(self.generation);
        let (health_path, suffix) = (Some("/-/healthy".into()), "svc.internal".into());
        let client_address = self.client_address;
        self.registry.apply(Snapshot { generation, health_path, routes, services, suffix, client_address }).unwrap();
    }

    /// Waits until the instance was reported idle.
    pub(super) async fn idle(&mut self, instance: usize) {
        let changed = self.registry.idle_changed();
        while !self.registry.take_idle().contains(&key(instance)) {
            changed.notified().await;
        }
    }

    /// Waits until the first backend has that many requests in flight.
    pub(super) async fn leases(&self, count: u64) {
        let table = self.registry.table().load_full();
        while table.services[0].backends[0].leases() != count {
            tokio::time::sleep(Duration::from_millis(2)).await; // poll: capped by the caller's `within`
        }
    }

    pub(super) async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), unread: Vec::new() }
    }

    pub(super) async fn connect_within(&self) -> Client {
        Client { stream: TcpStream::connect(self.internal).await.unwrap(), unread: Vec::new() }
    }

    /// One request on a fresh connection.
    pub(super) async fn ask(&self, request: impl AsRef<str>) -> Response {
        self.connect().await.ask(request).await
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.ask(get(path)).await
    }
}

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

pub(super) fn route(host: Option<&str>, path: &str, service: &str) -> edge::Route {
    let service = ServiceName::new(service).unwrap();
    edge::Route { host: host.map(Into::into), path: path.into(), strip_prefix: false, service }
}

pub(super) fn key(instance: usize) -> BackendKey {
    (InstanceId::new(format!("{instance:012}")).unwrap(), Incarnation(1))
}

pub(super) fn service(name: &str, backends: &[(usize, SocketAddr)], absent: Absent) -> edge::Service {
    let backends = backends.iter().map(|(instance, address)| {
        let (instance, incarnation) = key(*instance);
        edge::Backend { instance, incarnation, address: *address }
    });
    edge::Service { name: ServiceName::new(name).unwrap(), backends: backends.collect(), absent }
}

#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Response {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Either end of a connection, reading HTTP/1 messages.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    pub(super) fn over(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    pub(super) async fn ask(&mut self, request: impl AsRef<str>) -> Response {
        self.send(request.as_ref()).await;
        self.response().await
    }

    pub(super) async fn response(&mut self) -> Response {
        self.try_response().await.expect("the connection ended before an answer")
    }

    /// `None` when the connection ends first.
    pub(super) async fn try_response(&mut self) -> Option<Response> {
        let head = self.head().await?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if status == 101 || status < 200 { Some(Vec::new()) } else { self.body(&head).await };
        Some(Response { status, head, body: body? })
    }

    /// Up to the blank line, which is left out.
    pub(super) async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return Some(String::from_utf8(head[..end].to_vec()).unwrap());
            }
            self.more().await?;
        }
    }

    /// As framed by the head; without framing there is none.
    pub(super) async fn body(&mut self, head: &str) -> Option<Vec<u8>> {
        if header(head, "transfer-encoding").is_some() {
            let mut body = Vec::new();
            loop {
                match self.chunk().await? {
                    chunk if chunk.is_empty() => return Some(body),
                    chunk => body.extend(chunk),
                }
            }
        }
        let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        self.exactly(length).await
    }

    /// The last one is empty.
    pub(super) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let end = loop {
            match self.unread.windows(2).position(|window| window == b"\r\n") {
                Some(end) => break end,
                None => self.more().await?,
            }
        };
        let line: Vec<u8> = self.unread.drain(..end + 2).collect();
        let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
        let chunk = self.exactly(size + 2).await?;
        Some(chunk[..size].to_vec())
    }

    pub(super) async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.unread.len() < count {
            self.more().await?;
        }
        Some(self.unread.drain(..count).collect())
    }

    async fn more(&mut self) -> Option<()> {
        let mut bytes = [0; 16 * 1024];
        // A reset ends a connection as well as a FIN does.
        let count = within("bytes of the peer", self.stream.read(&mut bytes)).await.unwrap_or(0);
        self.unread.extend_from_slice(&bytes[..count]);
        (count > 0).then_some(())
    }

    /// Everything until the peer closes.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await.is_some() {}
        std::mem::take(&mut self.unread)
    }
}

/// Requests in the order they came, head and body as they stood on the wire.
pub(super) type Received = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A backend that runs `talk` on every connection.
pub(super) async fn backend<F>(talk: impl Fn(Client) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    lifecycle::spawn("test backend", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            lifecycle::spawn("test backend connection", talk(Client::over(stream)));
        }
    });
    address
}

/// Answers every request with `name`, and keeps what it received.
pub(super) async fn recording(name: &'static str) -> (SocketAddr, Received) {
    let received = Received::default();
    let kept = Arc::clone(&received);
    let address = backend(move |client| record(client, name, Arc::clone(&kept))).await;
    (address, received)
}

async fn record(mut client: Client, name: &'static str, received: Received) {
    while let Some(head) = client.head().await {
        let Some(body) = client.body(&head).await else { return };
        let is_head = head.starts_with("HEAD ");
        received.lock().unwrap().push((head, body));
        let content = if is_head { "" } else { name };
        client.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{content}", name.len())).await;
    }
}

pub(super) async fn named(name: &'static str) -> SocketAddr {
    recording(name).await.0
}

/// A port nobody listens on; the listener's drop frees it.
pub(super) async fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
