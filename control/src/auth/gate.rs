//! The middleware in front of pages and of the operator's API: under which name we were called, whether another site is
//! behind it, and who asks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use agentd_protocol::control::problem::Slug;
use agentd_protocol::digest::Digest;
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{Extensions, HeaderMap, Method, header};

use super::accounts::{Accounts, Scope, User};
use super::secret::Secret;
use super::session::Transport;
use super::streams::{self, Credential, Streams};
use super::{Error, headers, origin};
use crate::core::{Actor, problem_response};

/// Sent by pages that look again by themselves: such a look keeps no session alive.
const BY_ITSELF_HEADER: &str = "hx-request";
/// Asked for by pages that stay open, for ever and by themselves.
const STREAM_MEDIA: &str = "text/event-stream";

/// How people reach this server.
#[derive(Debug, Clone)]
pub struct Listener {
    pub transport: Transport,
    /// Names it goes by, without port. Over plain HTTP requests under any other are refused, numeric addresses and
    /// `localhost` excepted.
    pub names: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Gate {
    accounts: Accounts,
    listener: Listener,
    streams: Streams,
}

/// Whoever has a session, in the extensions of a request; handlers of pages take it as an argument.
#[derive(Debug, Clone)]
pub struct Viewer {
    pub user: User,
    pub(crate) session: Digest,
}

impl Viewer {
    pub(crate) fn actor(&self) -> Actor {
        Actor::User { id: self.user.id.clone(), name: self.user.name.clone() }
    }
}

impl Gate {
    pub fn new(accounts: Accounts, listener: Listener) -> Self {
        Self { accounts, listener, streams: Streams::default() }
    }

    /// Puts [`Actor`] and [`Viewer`] into the requests that have a credential. Those without one pass, and each route
    /// says itself whether it needs one. The address of the caller is taken from `ConnectInfo<SocketAddr>`.
    pub fn guard(self, router: Router) -> Router {
        router.layer(from_fn_with_state(self, pass))
    }

    /// By what the request was let in; `None`: by nothing that ends.
    async fn admit(&self, request: &mut Request) -> Result<Option<Credential>, Turned> {
        // Over the Unix socket the kernel has said who it is; no browser speaks there.
        if request.extensions().get::<Actor>().is_some() {
            return Ok(None);
        }
        self.check_call(request)?;
        let peer = peer(request.extensions());
        if let Some(authorization) = request.headers().get(header::AUTHORIZATION) {
            let token = authorization.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
            let (actor, credential) = self.program(token.trim(), request.method(), peer).await?;
            request.extensions_mut().insert(actor);
            return Ok(Some(credential));
        }
        let Some(secret) = cookies(request.headers()).and_then(|cookies| self.listener.transport.read(cookies)) else {
            return Ok(None);
        };
        let session = secret.hash();
        let touch = !is_by_itself(request.headers());
        match self.accounts.who(session, touch).await? {
            Some(user) => {
                let credential = Credential::Session { hash: session, user: user.id.clone() };
                let viewer = Viewer { user, session };
                request.extensions_mut().insert(viewer.actor());
                request.extensions_mut().insert(viewer);
                Ok(Some(credential))
            }
            // A cookie of a session that is over is everyday; many that never were are somebody trying.
            None => {
                self.accounts.spend_bad_credential(peer)?;
                Ok(None)
            }
        }
    }

    fn check_call(&self, request: &Request) -> Result<(), Turned> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        if self.listener.transport == Transport::Plain && !origin::is_ours(host, &self.listener.names) {
            return Err(Turned::Name);
        }
        origin::check(request.method(), request.headers()).map_err(|_| Turned::Site)
    }

    async fn program(&self, token: &str, method: &Method, peer: IpAddr) -> Result<(Actor, Credential), Turned> {
        let hash = Secret::read_api_token(token).map(|secret| secret.hash());
        let (Some(row), Some(hash)) = (self.accounts.api_token(token).await?, hash) else {
            self.accounts.spend_bad_credential(peer)?;
            return Err(Turned::Token);
        };
        if row.scope == Scope::Read && ![Method::GET, Method::HEAD].contains(method) {
            return Err(Turned::ReadOnly);
        }
        let credential = Credential::ApiToken { hash, id: row.id.clone() };
        Ok((Actor::ApiToken { id: row.id, name: row.name }, credential))
    }

    /// A stream lives as long as its credential.
    fn hold(&self, response: Response, credential: Option<Credential>) -> Response {
        match credential {
            Some(credential) if streams::is_one(&response) => {
                streams::bound(response, &self.accounts, &self.streams, credential)
                    .unwrap_or_else(|| Turned::Streams.into_response())
            }
            Some(_) | None => response,
        }
    }
}

fn is_by_itself(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    headers.contains_key(BY_ITSELF_HEADER) || accepts.is_some_and(|accepts| accepts.contains(STREAM_MEDIA))
}

/// Why a request goes no further.
enum Turned {
    Name,
    Site,
    Token,
    ReadOnly,
    Streams,
    Account(Error),
}

impl From<Error> for Turned {
    fn from(error: Error) -> Self {
        Self::Account(error)
    }
}

impl IntoResponse for Turned {
    fn into_response(self) -> Response {
        let (slug, why) = match self {
            Self::Account(error) => return error.into_response(),
            Self::Name => {
                let why = "this server does not go by that name: call it by its address, or make that its public URL";
                (Slug::Forbidden, why)
            }
            Self::Site => (Slug::Forbidden, "the request comes from another site; nothing was done"),
            Self::Token => (Slug::Unauthenticated, "this API token opens nothing, or nothing any more"),
            Self::ReadOnly => (Slug::Forbidden, "this API token may only read"),
            Self::Streams => {
                let why = "as many streams are open as an account may have: close one, then try again";
                return problem_response(&Slug::RateLimited.problem(why), Some(streams::RETRY_SECS));
            }
        };
        problem_response(&slug.problem(why), None)
    }
}

async fn pass(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let transport = gate.listener.transport;
    let mut response = match gate.admit(&mut request).await {
        Ok(credential) => {
            let response = next.run(request).await;
            gate.hold(response, credential)
        }
        Err(turned) => turned.into_response(),
    };
    headers::secure(response.headers_mut(), transport);
    response
}

/// Of a request that came in by no socket, as in tests: this host.
pub(crate) fn peer(extensions: &Extensions) -> IpAddr {
    extensions.get::<ConnectInfo<SocketAddr>>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |info| info.0.ip())
}

/// HTTP/1.1 allows one header of cookies; more are somebody's trick.
pub(crate) fn cookies(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::COOKIE).iter();
    match (all.next(), all.next()) {
        (Some(one), None) => one.to_str().ok(),
        _ => None,
    }
}

impl Error {
    pub(crate) fn slug(&self) -> Slug {
        match self {
            Self::Wrong => Slug::Unauthenticated,
            Self::Limited { .. } => Slug::RateLimited,
            Self::Busy => Slug::Overloaded,
            Self::Link => Slug::TokenInvalid,
            Self::Weak(_) | Self::Name | Self::Lifetime { .. } => Slug::BadRequest,
            Self::OnlyHere | Self::OnlyPeople => Slug::Forbidden,
            Self::Missing { .. } => Slug::NotFound,
            Self::Store(error) if error.is_busy() => Slug::Overloaded,
            Self::Store(error) if error.is_full() => Slug::DiskFull,
            Self::Store(_) => Slug::Internal,
        }
    }

    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Limited { retry_s } => Some(*retry_s),
            Self::Busy => Some(1),
            Self::Store(error) if error.is_busy() => Some(2),
            Self::Wrong | Self::Link | Self::Weak(_) | Self::Name | Self::Lifetime { .. } => None,
            Self::OnlyHere | Self::OnlyPeople | Self::Missing { .. } => None,
            Self::Store(_) => None,
        }
    }

    /// In words for whoever asked: of our own failures only that there was one.
    pub(crate) fn said(&self) -> String {
        match self {
            Self::Store(error) => {
                tracing::error!(error = agentd_sys::causes::chain(error), "an account could not be looked at");
                error.said().to_owned()
            }
            other => other.to_string(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        problem_response(&self.slug().problem(self.said()), self.retry_after_s())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_looks_by_itself_keeps_nobody_logged_in() {
        let with = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(header::HeaderName::from_static(name), header::HeaderValue::from_static(value))])
        };
        assert!(is_by_itself(&with("hx-request", "true")));
        assert!(is_by_itself(&with("accept", "text/event-stream")), "a stream is opened anew for ever");
        assert!(!is_by_itself(&with("accept", "text/html,application/xhtml+xml")) && !is_by_itself(&HeaderMap::new()));
    }
}
