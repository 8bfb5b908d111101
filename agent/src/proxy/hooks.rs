//! What happens to one request, hook by hook in the order they run. Decisions live in the pure files beside this one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentd_protocol::edge::{Absent, ForwardedBy};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error as PingoraError, ErrorSource, ErrorType, Result as PingoraResult};
use tokio::sync::mpsc;

use super::backends::{Backend, BackendKey, Lease, Suspicion, pick};
use super::entrance::Entrance;
use super::errors::{Fault, Form, Page, REASON_HEADER, form, page};
use super::headers;
use super::hold::{HoldLimits, Place};
use super::request::Refusal;
use super::routes::Match;
use super::table::{Service, Table};

/// A request is offered to at most this many backends.
const TRIES_MAX: usize = 3;
/// Each miss means that a snapshot was swapped while we picked; more in a row than this do not happen.
const PICKS_MAX: usize = 8;
/// Longest silence of a client within a body it is sending.
const CLIENT_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// One write to a client that does not read.
const CLIENT_WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// For the rest of a body whose answer is already out.
const DRAIN_BODY_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Hooks {
    /// Which listener the requests came in by.
    pub(super) entrance: Entrance,
    pub(super) table: Arc<ArcSwap<Table>>,
    pub(super) unreachable: mpsc::Sender<BackendKey>,
    /// Longest silence of a backend, first byte included; streams and upgrades have none.
    pub(super) backend_timeout: Duration,
    pub(super) hold: HoldLimits,
}

/// One request on its way; dropping it gives the backend back, whatever happened.
#[derive(Default)]
pub(super) struct Exchange {
    lease: Option<Lease>,
    tried: Vec<BackendKey>,
    strip_bytes: usize,
    quiet: Quiet,
    fault: Option<Fault>,
}

/// Whether long silence is part of the conversation (WebSocket, SSE).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Quiet {
    Allowed,
    #[default]
    Limited,
}

impl Hooks {
    /// Finds the service and takes one of its backends.
    fn place(&self, session: &Session, exchange: &mut Exchange) -> Result<(), Fault> {
        for _ in 0..PICKS_MAX {
            let table = self.table.load();
            let Match { service, strip_bytes } = match (self.matched(session, &table), &table.snapshot) {
                (Some(found), _) => found,
                (None, Some(_)) => return Err(self.entrance.unknown()),
                (None, None) => return Err(Fault::NotReady),
            };
            let service = &table.services[service];
            if service.backends.is_empty() {
                return Err(Fault::Absent(service.absent));
            }
            let Some(backend) =
                pick(&service.backends, &exchange.tried, Instant::now(), |below| fastrand::usize(..below))
            else {
                return Err(Fault::Unreachable);
            };
            if let Some(lease) = backend.acquire() {
                exchange.lease = Some(lease);
                exchange.strip_bytes = strip_bytes;
                return Ok(());
            }
        }
        Err(Fault::Internal)
    }

    fn matched(&self, session: &Session, table: &Table) -> Option<Match> {
        let head = session.req_header();
        table.find(self.entrance, host(head), head.uri.path())
    }

    fn found<'a>(&self, session: &Session, table: &'a Table) -> Option<&'a Service> {
        self.matched(session, table).map(|found| &table.services[found.service])
    }

    /// Waits for a snapshot in which the service has a backend again; the route may lead elsewhere by then.
    async fn hold(&self, session: &mut Session, exchange: &mut Exchange) -> PingoraResult<Result<(), Fault>> {
        let until = tokio::time::Instant::now() + self.hold.timeout;
        let mut waits: Option<Place> = None;
        loop {
            let table = self.table.load_full();
            match self.place(session, exchange) {
                Err(Fault::Absent(Absent::Replacing)) => {}
                placed => return Ok(placed),
            }
            if waits.is_none() {
                waits = self.found(session, &table).and_then(|service| service.held.wait(self.hold.requests_max));
            }
            if waits.is_none() && !table.replaced.is_cancelled() {
                return Ok(Err(Fault::Absent(Absent::Replacing)));
            }
            tokio::select! {
                biased;
                () = table.replaced.cancelled() => {}
                gone = client_gone(session) => return Err(gone),
                () = tokio::time::sleep_until(until) => return Ok(Err(Fault::Absent(Absent::Replacing))),
            }
        }
    }

    /// The table in force now has a backend for this request that was not tried.
    fn another_is_left(&self, session: &Session, exchange: &Exchange) -> bool {
        let untried = |backend: &Arc<Backend>| !exchange.tried.contains(backend.key());
        self.found(session, &self.table.load()).is_some_and(|service| service.backends.iter().any(untried))
    }

    fn note_unreachable(&self, backend: &Backend) {
        if backend.suspect(Instant::now()) == Suspicion::New {
            let (instance, incarnation) = backend.key();
            tracing::warn!(%instance, %incarnation, "a backend refused a connection; others are preferred for a while");
            // The queue is full only when the manager was told a lot already; it probes on its own, too.
            let _ = self.unreachable.try_send(backend.key().clone());
        }
    }

    /// A tunnel's program knows the external listener alone.
    fn forwarded_by(&self) -> ForwardedBy {
        match (self.entrance, &self.table.load().snapshot) {
            (Entrance::External, Some(snapshot)) => snapshot.client_address,
            (Entrance::External, None) | (Entrance::Internal, _) => ForwardedBy::Nobody,
        }
    }

    /// For load balancers, which stand outside; from within every path belongs to the service.
    fn is_health_check(&self, session: &Session) -> bool {
        if self.entrance == Entrance::Internal {
            return false;
        }
        let table = self.table.load();
        table.health_path() == Some(session.req_header().uri.path())
    }
}

#[async_trait]
impl ProxyHttp for Hooks {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::default()
    }

    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> PingoraResult<()> {
        let upgrade = session.is_upgrade_req();
        exchange.quiet =
            if upgrade || headers::wants_events(session.req_header()) { Quiet::Allowed } else { Quiet::Limited };
        session.set_read_timeout((!upgrade).then_some(CLIENT_READ_TIMEOUT));
        session.set_write_timeout(Some(CLIENT_WRITE_TIMEOUT));
        session.set_total_drain_timeout(Some(DRAIN_BODY_TIMEOUT));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> PingoraResult<bool> {
        if self.is_health_check(session) {
            write_healthy(session).await?;
            return Ok(true);
        }
        let placed = match self.place(session, exchange) {
            Err(Fault::Absent(Absent::Replacing)) => self.hold(session, exchange).await?,
            placed => placed,
        };
        match placed {
            Ok(()) => Ok(false),
            Err(fault) => {
                write_page(session, fault).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Exchange) -> PingoraResult<Box<HttpPeer>> {
        // Of an earlier try.
        exchange.fault = None;
        if exchange.lease.is_none()
            && let Err(fault) = self.place(session, exchange)
        {
            exchange.fault = Some(fault);
            return Err(PingoraError::new(ErrorType::HTTPStatus(page(fault).status)));
        }
        let lease = exchange.lease.as_ref().expect("place() leaves a lease behind");
        let mut peer = Box::new(lease.backend().peer.clone());
        peer.options.read_timeout = match exchange.quiet {
            Quiet::Allowed => None,
            Quiet::Limited => Some(self.backend_timeout),
        };
        Ok(peer)
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        #[cfg(unix)] _: std::os::unix::io::RawFd,
        _: Option<&Digest>,
        exchange: &mut Exchange,
    ) -> PingoraResult<()> {
        if let Some(lease) = &exchange.lease
            && !reused
        {
            lease.backend().trust();
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> PingoraResult<()> {
        let peer = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
        let origin = headers::origin(upstream, peer, self.forwarded_by());
        headers::forward(upstream, origin)?;
        if upstream.headers.get(header::HOST).is_none()
            && let Some(lease) = &exchange.lease
        {
            upstream.insert_header(header::HOST, lease.backend().address().to_string())?;
        }
        if exchange.strip_bytes > 0 {
            headers::strip_prefix(upstream, exchange.strip_bytes)?;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        _: &mut Exchange,
    ) -> PingoraResult<()> {
        headers::clean_response(response);
        Ok(())
    }

    /// Nothing was sent yet, so any method may go to another backend.
    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<PingoraError>,
    ) -> Box<PingoraError> {
        if let Some(lease) = exchange.lease.take() {
            self.note_unreachable(lease.backend());
            exchange.tried.push(lease.backend().key().clone());
        }
        let again = exchange.tried.len() < TRIES_MAX && self.another_is_left(session, exchange);
        error.set_retry(again);
        exchange.fault = Some(match error.etype() {
            ErrorType::ConnectTimedout => Fault::Timeout,
            _ => Fault::Unreachable,
        });
        error
    }

    /// Part of the request may have been sent: only what is safe to repeat, and only when the backend may have closed
    /// the pooled connection before it saw anything.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<PingoraError>,
        _: &mut Exchange,
        reused: bool,
    ) -> Box<PingoraError> {
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none();
        let stale = reused
            && matches!(error.esource(), ErrorSource::Upstream)
            && matches!(error.etype(), ErrorType::WriteError);
        if repeatable && stale {
            error.set_retry(true);
        } else if repeatable {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &PingoraError, exchange: &mut Exchange) -> FailToProxy {
        let fault = match exchange.fault.take().map_or_else(|| fault_of(error), Some) {
            Some(fault) if session.response_written().is_none_or(|response| response.status.is_informational()) => {
                fault
            }
            Some(_) | None => return FailToProxy { error_code: 0, can_reuse_downstream: false },
        };
        tracing::debug!(?fault, %error, "a request failed");
        session.set_keepalive(None);
        if let Err(error) = write_page(session, fault).await {
            tracing::debug!(%error, "the client left before our answer");
        }
        FailToProxy { error_code: page(fault).status, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _: &Session, _: &Exchange, _: &PingoraError) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Exchange, _: &PingoraError, _: ProxyWarnLogContext) -> bool {
        true
    }
}

fn host(head: &RequestHeader) -> Option<&str> {
    head.headers.get(header::HOST).and_then(|host| host.to_str().ok())
}

/// Resolves when the client closes its connection while it should only wait. One that is still to send its body is not
/// watched: reading it would take it out of the socket.
async fn client_gone(session: &mut Session) -> Box<PingoraError> {
    if !session.as_mut().is_body_empty() {
        return std::future::pending().await;
    }
    let mut ended = match session.as_mut().read_body_or_idle(true).await {
        Ok(_) => PingoraError::new(ErrorType::ConnectionClosed),
        Err(error) => error,
    };
    ended.as_down();
    ended
}

/// `None`: the client is gone, which is nobody's fault.
fn fault_of(error: &PingoraError) -> Option<Fault> {
    let dead = matches!(
        error.etype(),
        ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed | ErrorType::WriteTimedout
    );
    match error.esource() {
        ErrorSource::Downstream if dead => None,
        ErrorSource::Downstream if matches!(error.etype(), ErrorType::ReadTimedout) => {
            Some(Fault::Refused(Refusal::TooSlow))
        }
        ErrorSource::Downstream => Some(Fault::Refused(Refusal::Malformed)),
        ErrorSource::Upstream => Some(match error.etype() {
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => Fault::Timeout,
            ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError => Fault::Unreachable,
            _ => Fault::BadAnswer,
        }),
        ErrorSource::Internal | ErrorSource::Unset => match error.etype() {
            ErrorType::InvalidHTTPHeader => Some(Fault::Refused(Refusal::Malformed)),
            _ => Some(Fault::Internal),
        },
    }
}

async fn write_healthy(session: &mut Session) -> PingoraResult<()> {
    let mut head = ResponseHeader::build(200, Some(3))?;
    head.insert_header(header::CONTENT_TYPE, Page::content_type(Form::Text))?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    write_own(session, head, Bytes::from_static(b"ok\n")).await
}

async fn write_page(session: &mut Session, fault: Fault) -> PingoraResult<()> {
    let page = page(fault);
    let accept = session.req_header().headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let form = form(accept);
    let body = page.body(form, host(session.req_header()));
    let mut head = ResponseHeader::build(page.status, Some(6))?;
    head.insert_header(header::CONTENT_TYPE, Page::content_type(form))?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    head.insert_header(REASON_HEADER, page.reason)?;
    if let Some(seconds) = page.retry_after_s {
        head.insert_header(header::RETRY_AFTER, HeaderValue::from(seconds))?;
    }
    write_own(session, head, Bytes::from(body)).await
}

async fn write_own(session: &mut Session, mut head: ResponseHeader, body: Bytes) -> PingoraResult<()> {
    let has_body = session.req_header().method != Method::HEAD;
    if session.req_header().version == Version::HTTP_10 {
        head.set_version(Version::HTTP_10);
    }
    head.set_content_length(body.len())?;
    session.write_response_header(Box::new(head), !has_body).await?;
    if has_body {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}
