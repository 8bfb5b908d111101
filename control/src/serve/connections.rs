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
/// For the headers of a request, also of the next one on an idle connection: longer than hosts pause between two.
const HEADERS_DEADLINE: Duration = Duration::from_secs(75);
/// Headers of a request, bytes.
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// For the body of a request, the whole of it: who sends a byte now and then holds no place for ever.
const BODY_DEADLINE: Duration = Duration::from_secs(60);
/// After the end was asked for: answers that are being written.
pub(super) const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Breaks when the deadline has passed.
fn timed(body: Body) -> Body {
    let by = Instant::now() + BODY_DEADLINE;
    let chunks = futures_util::stream::unfold(body.into_data_stream(), move |mut chunks| async move {
        let next = timeout_at(by, chunks.next()).await;
        let chunk = next.unwrap_or_else(|_| Some(Err(axum::Error::new(std::io::Error::from(ErrorKind::TimedOut)))))?;
        Some((chunk, chunks))
    });
    Body::from_stream(chunks)
}

#[derive(Debug, Clone)]
pub(super) struct Connections {
    places: Arc<Semaphore>,
    router: Router,
    draining: CancellationToken,
}

impl Connections {
    pub(super) fn new(router: Router, draining: CancellationToken) -> Self {
        let places = usize::try_from(CONNECTIONS_MAX).unwrap_or(usize::MAX);
        Self { places: Arc::new(Semaphore::new(places)), router, draining }
    }

    /// A place for one more; waits for it.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Serves one connection to its end. `facts`: what is known of the caller, put into each request's extensions.
    pub(super) async fn serve<S, F>(&self, stream: S, facts: F, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Fn(&mut http::Extensions) + Send + 'static,
    {
        let inner = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            facts(request.extensions_mut());
            // What was begun is done to its end, whether the caller stays or not: memory follows what the database has.
            let request = request.map(|body| timed(Body::new(body)));
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
            .header_read_timeout(HEADERS_DEADLINE)
            .max_buf_size(HEADERS_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
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
