//! Connections: accepted within a bound, served with deadlines, and drained at the end.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::lifecycle;

/// Each held report is one; beyond it a connection waits in the kernel until another ends.
const CONNECTIONS_MAX: u32 = 20_000;
/// For the body of a request, the whole of it: who sends a byte now and then holds no place for ever.
const BODY_DEADLINE: Duration = Duration::from_secs(60);
/// Headers of a request, bytes.
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// After the end was asked for: answers that are being written.
pub(super) const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// What a slow caller may take.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    /// From the connection's begin to the end of the first request's headers: nobody has a reason to connect early.
    first_headers: Duration,
    /// For the headers of a later request, the idle time before it included: longer than hosts pause between two.
    headers: Duration,
    body: Duration,
}

const DEADLINES: Deadlines =
    Deadlines { first_headers: Duration::from_secs(15), headers: Duration::from_secs(75), body: BODY_DEADLINE };

/// Breaks when the deadline has passed.
fn timed(body: Body, deadline: Duration) -> Body {
    let by = Instant::now() + deadline;
    let chunks = futures_util::stream::unfold(body.into_data_stream(), move |mut chunks| async move {
        let next = timeout_at(by, chunks.next()).await;
        let chunk = next.unwrap_or_else(|_| Some(Err(axum::Error::new(std::io::Error::from(ErrorKind::TimedOut)))))?;
        Some((chunk, chunks))
    });
    Body::from_stream(chunks)
}

/// Returns when the deadline passes before the first request.
async fn none_within(mut has_begun: tokio::sync::watch::Receiver<bool>, deadline: Duration) {
    if tokio::time::timeout(deadline, has_begun.wait_for(|begun| *begun)).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

#[derive(Debug, Clone)]
pub(super) struct Connections {
    places: Arc<Semaphore>,
    router: Router,
    draining: CancellationToken,
    deadlines: Deadlines,
}

impl Connections {
    pub(super) fn new(router: Router, draining: CancellationToken) -> Self {
        let places = usize::try_from(CONNECTIONS_MAX).unwrap_or(usize::MAX);
        Self { places: Arc::new(Semaphore::new(places)), router, draining, deadlines: DEADLINES }
    }

    /// A place for one more; waits for it.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Serves one connection to its end. `facts`: what is known of the caller, put into each request's extensions.
    pub(super) async fn serve<S, F>(&self, stream: S, facts: F, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Fn(&mut hyper::Request<Incoming>) + Send + 'static,
    {
        let inner = TowerToHyperService::new(self.router.clone());
        let Deadlines { first_headers, headers, body: body_deadline } = self.deadlines;
        let (begun, has_begun) = tokio::sync::watch::channel(false);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            begun.send_replace(true);
            facts(&mut request);
            // What was begun is done to its end, whether the caller stays or not: memory follows what the database has.
            let request = request.map(|body| timed(Body::new(body), body_deadline));
            let answering = lifecycle::spawn("request", inner.call(request));
            async move {
                match answering.await {
                    Ok(Ok(response)) => Ok(response),
                    // It panicked; the caller sees the connection break.
                    Err(error) => Err(std::io::Error::other(error)),
                }
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(headers)
            .max_buf_size(HEADERS_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = none_within(has_begun, first_headers) => return,
            () = self.draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Callers break off as they like.
            tracing::debug!(%error, "a connection broke");
        }
        drop(place);
    }

    /// Waits for the connections to end, or for the deadline.
    pub(super) async fn drained(&self) {
        let all = self.places.acquire_many(CONNECTIONS_MAX);
        if tokio::time::timeout(DRAIN_DEADLINE, all).await.is_err() {
            tracing::warn!("some connections did not end in time; they are cut");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::serve::progress::Progress;

    const SHORT: Deadlines = Deadlines {
        first_headers: Duration::from_millis(300),
        headers: Duration::from_millis(600),
        body: Duration::from_millis(300),
    };
    const STALL: Duration = Duration::from_millis(300);
    /// Longer than a loaded machine takes.
    const CAP: Duration = Duration::from_secs(20);
    const BIG_BYTES: usize = 64 * 1024 * 1024;
    /// The place for the connection that is waited for.
    const LISTENER: u32 = 1;

    /// Where it listens, and how many places are taken.
    async fn served() -> (SocketAddr, Connections) {
        let router = Router::new()
            .route("/", post(|body: axum::body::Bytes| async move { body.len().to_string() }))
            .route("/big", get(|| async { vec![b'x'; BIG_BYTES] }));
        let connections = Connections { deadlines: SHORT, ..Connections::new(router, CancellationToken::new()) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, serving) = (listener.local_addr().unwrap(), connections.clone());
        lifecycle::spawn("listener", async move {
            while let Some(place) = serving.place().await {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = serving.clone();
                let stream = Progress::within(stream, STALL);
                lifecycle::spawn("connection", async move { serving.serve(stream, |_| {}, place).await });
            }
        });
        (address, connections)
    }

    /// Sends a byte now and then until nobody listens; what was answered.
    async fn drip(stream: TcpStream, bytes: &'static [u8]) -> String {
        let (mut read, mut write) = stream.into_split();
        let dripping = lifecycle::spawn("drip", async move {
            for byte in bytes.iter().cycle() {
                if write.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await; // poll: the pace of the drip
            }
        });
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(CAP, read.read_to_end(&mut answer)).await;
        dripping.abort();
        // A connection that is reset was cut too.
        drop(ended.expect("it is cut"));
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn post_one(stream: &mut TcpStream) {
        stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n3") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_drips_is_cut_and_others_are_served() {
        let (address, connections) = served().await;
        let connect = || async { TcpStream::connect(address).await.unwrap() };
        let headers = drip(connect().await, b"GET / HTTP/1.1\r\nx: ");
        let body = async {
            let mut stream = connect().await;
            stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n").await.unwrap();
            drip(stream, b"x").await
        };
        let later = async {
            let mut stream = connect().await;
            post_one(&mut stream).await;
            drip(stream, b"x").await
        };
        let silent = async {
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(CAP, connect().await.read_to_end(&mut rest)).await;
            drop(ended.expect("it is cut"));
        };
        let others = async {
            for _ in 0..20 {
                let mut stream = connect().await;
                post_one(&mut stream).await;
            }
        };
        let (headers, body, later, (), ()) = tokio::join!(headers, body, later, silent, others);
        assert_eq!(headers, "");
        assert!(body.is_empty() || body.starts_with("HTTP/1.1 4"), "{body}");
        assert!(later.is_empty() || later.starts_with("HTTP/1.1 408"), "{later}");
        let all = connections.places.acquire_many(CONNECTIONS_MAX - LISTENER);
        assert!(tokio::time::timeout(CAP, all).await.is_ok(), "every place is free again");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_does_not_read_his_answer_is_cut() {
        let (address, connections) = served().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        stream.read_u8().await.unwrap();
        let all = connections.places.acquire_many(CONNECTIONS_MAX - LISTENER);
        assert!(tokio::time::timeout(CAP, all).await.is_ok(), "its place is free again");
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest).await);
        assert!(rest.len() < BIG_BYTES, "it was not all sent");
    }
}
