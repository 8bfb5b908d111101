//! From an accepted connection to requests one after the other, and the end of it all in two phases: first every answer
//! says `Connection: close`, then idle connections are closed, then the deadline ends the rest.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
use pingora::apps::{HttpPersistentSettings, HttpServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::backends::BackendKey;
use super::entrance::Entrance;
use super::hold::HoldLimits;
use super::hooks::Hooks;
use super::io::{ClientIo, HeadLimits};
use super::table::Table;
use crate::lifecycle;

/// The proxy's own loop over backends; more than our hooks ever ask for.
const PROXY_TRIES_MAX: usize = 6;
/// Silence between two requests of one client. More than the 90 s for which a tunnel's program or a load balancer keeps
/// an idle connection: who sends a POST on one that we close at the same moment cannot send it again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Idle connections to all backends together, of each entrance.
const POOL_CONNECTIONS_MAX: usize = 256;
/// Unreachable backends not yet reported.
const UNREACHABLE_QUEUE: usize = 64;
/// Pause after an accept that failed for want of descriptors or memory: they come back when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two looks at a listener that is shut. Connections wait in the kernel's queue meanwhile.
const OPEN_PAUSE: Duration = Duration::from_millis(500);
/// Above this share of the connections, idle ones are kept for a second only.
const CROWDED_NUMERATOR: usize = 7;
const CROWDED_DENOMINATOR: usize = 8;
const CROWDED_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a client may take of us.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// About 26 kB each while idle; more wait in the listener's queue.
    pub connections_max: usize,
    pub head: HeadLimits,
    /// Longest silence of a backend on a request that is neither an upgrade nor asks for events.
    pub backend_timeout: Duration,
    pub hold: HoldLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            head: HeadLimits {
                idle_timeout: IDLE_TIMEOUT,
                head_timeout: Duration::from_secs(10),
                head_bytes_max: 64 * 1024,
            },
            backend_timeout: Duration::from_secs(120),
            hold: HoldLimits { timeout: Duration::from_secs(30), requests_max: 1024 },
        }
    }
}

/// Serves any number of listeners by one table.
#[derive(Clone)]
pub struct Proxy {
    external: Arc<HttpProxy<Hooks>>,
    internal: Arc<HttpProxy<Hooks>>,
    limits: Limits,
    connections: Arc<Semaphore>,
    draining: watch::Sender<bool>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("limits", &self.limits)
            .field("draining", &*self.draining.borrow())
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// The receiver names backends that refused a connection.
    pub fn new(table: Arc<ArcSwap<Table>>, limits: Limits) -> (Self, mpsc::Receiver<BackendKey>) {
        let (unreachable, reports) = mpsc::channel(UNREACHABLE_QUEUE);
        let conf = Arc::new(ServerConf {
            threads: 1,
            max_retries: PROXY_TRIES_MAX,
            upstream_keepalive_pool_size: POOL_CONNECTIONS_MAX,
            ..ServerConf::default()
        });
        let by = |entrance| {
            let (table, unreachable) = (Arc::clone(&table), unreachable.clone());
            let (backend_timeout, hold) = (limits.backend_timeout, limits.hold);
            Arc::new(http_proxy(&conf, Hooks { entrance, table, unreachable, backend_timeout, hold }))
        };
        let proxy = Self {
            external: by(Entrance::External),
            internal: by(Entrance::Internal),
            limits,
            connections: Arc::new(Semaphore::new(limits.connections_max)),
            draining: watch::Sender::new(false),
        };
        (proxy, reports)
    }

    /// Accepts, while somebody has the socket listening, until [`Self::drain`] begins; then it is closed in this process.
    pub async fn accept(self, socket: std::net::TcpListener, entrance: Entrance) {
        let mut draining = self.draining.subscribe();
        tokio::select! {
            biased;
            // An error means that the proxy itself is gone.
            _ = draining.wait_for(|draining| *draining) => {}
            () = self.accept_while_open(&socket, entrance) => {}
        }
    }

    async fn accept_while_open(&self, socket: &std::net::TcpListener, entrance: Entrance) {
        loop {
            // A registration made while nobody listens would report the end of the socket for ever.
            while !is_open(socket) {
                tokio::time::sleep(OPEN_PAUSE).await;
            }
            match socket.try_clone().and_then(register) {
                Ok(listener) => self.accept_until_shut(&listener, entrance).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot listen for now; look at the edge's descriptor limit");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept_until_shut(&self, listener: &AsyncFd<std::net::TcpListener>, entrance: Entrance) {
        loop {
            match self.next(listener).await {
                Ok(Next::Shut) => return,
                Ok(Next::Client(stream, peer, permit)) if entrance.admits(peer) => {
                    set_no_delay(&stream);
                    let client = ClientIo::new(stream, peer, self.limits.head);
                    lifecycle::spawn("proxy connection", self.clone().serve(client, entrance, permit));
                }
                Ok(Next::Client(_, peer, _)) => {
                    tracing::warn!(%peer, "closed a connection from outside to the internal listener");
                }
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(%error, "cannot accept connections for now; look at the edge's descriptor limit");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
                // That one connection broke before we had it.
                Err(error) => tracing::debug!(%error, "accept failed"),
            }
        }
    }

    async fn next(&self, listener: &AsyncFd<std::net::TcpListener>) -> io::Result<Next> {
        let permit = Arc::clone(&self.connections).acquire_owned().await.map_err(io::Error::other)?;
        loop {
            let mut ready = listener.readable().await?;
            let was_shut = ready.ready().is_read_closed();
            match ready.try_io(|listener| listener.get_ref().accept()) {
                Ok(accepted) => {
                    let (stream, peer) = accepted?;
                    stream.set_nonblocking(true)?;
                    return Ok(Next::Client(TcpStream::from_std(stream)?, peer, permit));
                }
                // Also when it is open again by now: a registration never forgets that its socket was shut, and would
                // call it ready for ever. That is why tokio's own listener will not do.
                Err(_) if was_shut => return Ok(Next::Shut),
                Err(_) => {}
            }
        }
    }

    async fn serve(self, client: ClientIo, entrance: Entrance, _permit: OwnedSemaphorePermit) {
        let app = match entrance {
            Entrance::External => &self.external,
            Entrance::Internal => &self.internal,
        };
        let draining = self.draining.subscribe();
        let mut stream: Stream = Box::new(client);
        let mut settings: Option<HttpPersistentSettings> = None;
        loop {
            let mut session = ServerSession::new_http1(stream);
            if let Some(settings) = settings.take() {
                settings.apply_to_session(&mut session);
            }
            // 0: no timer of its own between requests; `ClientIo` has it.
            session.set_keepalive(Some(0));
            let Some(reusable) = app.process_new_http(session, &draining).await else { return };
            let (returned, kept) = reusable.consume();
            let Ok(mut client) = returned.into_any().downcast::<ClientIo>() else { return };
            client.next_request(self.idle_timeout());
            stream = client;
            settings = kept;
        }
    }

    fn idle_timeout(&self) -> Duration {
        let used = self.limits.connections_max.saturating_sub(self.connections.available_permits());
        let crowded = used * CROWDED_DENOMINATOR >= self.limits.connections_max * CROWDED_NUMERATOR;
        if crowded { self.limits.head.idle_timeout.min(CROWDED_IDLE_TIMEOUT) } else { self.limits.head.idle_timeout }
    }

    pub fn connections(&self) -> usize {
        self.limits.connections_max.saturating_sub(self.connections.available_permits())
    }

    /// Returns when no connection is left, at the latest after `deadline`, with the number of those cut off.
    /// Idle connections are closed after `soft`, which should exceed the time clients think between two requests.
    pub async fn drain(&self, soft: Duration, deadline: Duration) -> usize {
        self.draining.send_replace(true);
        let started = tokio::time::Instant::now();
        if tokio::time::timeout(soft.min(deadline), self.all_gone()).await.is_ok() {
            return 0;
        }
        self.external.http_cleanup().await;
        self.internal.http_cleanup().await;
        match tokio::time::timeout_at(started + deadline, self.all_gone()).await {
            Ok(()) => 0,
            Err(_) => self.connections(),
        }
    }

    async fn all_gone(&self) {
        let all = u32::try_from(self.limits.connections_max).unwrap_or(u32::MAX);
        // Closed is never: we hold the semaphore.
        let _ = self.connections.acquire_many(all).await;
    }
}

/// What a listener has for us.
enum Next {
    Client(TcpStream, SocketAddr, OwnedSemaphorePermit),
    /// It was, if only for a moment, and is to be registered anew.
    Shut,
}

#[expect(unsafe_code, reason = "AsyncFd asks for a promise about the descriptor")]
fn register(listener: std::net::TcpListener) -> io::Result<AsyncFd<std::net::TcpListener>> {
    // SAFETY: a TcpListener owns one open descriptor, and closes it when it is dropped, which AsyncFd does last.
    Ok(unsafe { AsyncFd::register(listener)? })
}

fn set_no_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the connection is already broken; reading from it will tell");
    }
}

/// Whether the kernel takes connections on it, by whomever it was opened or shut.
fn is_open(socket: &std::net::TcpListener) -> bool {
    // What cannot be asked is a socket no more, and accepting from it says so.
    getsockopt(socket, AcceptConn).unwrap_or(true)
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
