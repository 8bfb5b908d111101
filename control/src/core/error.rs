//! Why a call is not answered as asked, and the one table to problems.

use agentd_protocol::control::problem::{MEDIA_TYPE, Problem, Slug};
use agentd_protocol::control::request::BadSignature;
use agentd_protocol::control::time::Time;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::model::{DraftProblem, Moved};
use crate::{seal, store};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("log in, or send an API token")]
    Unauthenticated,
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("{what} is not known here")]
    NotFound { what: String },
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Conflict(String),
    #[error("somebody saved it meanwhile: revision {found} is the newest; look at it, then try again")]
    Revision { found: u64 },
    #[error("send If-Match with the revision you have seen")]
    RevisionMissing,
    #[error("the document has {} problems", .0.len())]
    Document(Vec<DraftProblem>),
    /// Each names the service and why its branch or tag has no commit.
    #[error("what {} services follow could not be found out; nothing was published", .0.len())]
    Unresolved(Vec<DraftProblem>),
    #[error("moved since you looked: {}; nothing was published", moves(.0))]
    Moved(Vec<Moved>),
    #[error("this Idempotency-Key was used for another request")]
    IdempotencyMismatch,
    #[error("too many at once; try again in {retry_s} s")]
    RateLimited { retry_s: u64 },
    #[error("the server is busy; try again in a moment")]
    Overloaded,
    #[error("the token is not accepted")]
    TokenInvalid,
    #[error("the token has expired: ask for a new one")]
    TokenExpired,
    #[error("the token was used by another host; the operators of the server were told")]
    TokenUsed,
    #[error("{0}")]
    Signature(#[source] BadSignature),
    #[error("the request was signed at a time that is too far from the server's")]
    ClockSkew { server: Time },
    #[error("this server does not know the host")]
    HostUnknown,
    #[error("the host was revoked here")]
    HostRevoked,
    #[error("another machine reports with the same identity: let one of them join anew")]
    IdentityConflict,
    #[error("a later report of this host is known")]
    StateRegressed { boot: u64 },
    #[error("events before these are missing")]
    OutboxGap { expected: u64 },
    #[error("the body is over {bytes_max} bytes")]
    BodyTooLarge { bytes_max: usize },
    #[error("at most {events_max} events and {bytes_max} bytes of them at once")]
    TooManyEvents { events_max: usize, bytes_max: usize },
    #[error("that path is not called so")]
    MethodNotAllowed,
    #[error("send {0}")]
    UnsupportedMedia(&'static str),
    #[error("this agent is too old for the server: update it")]
    AgentTooOld,
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Seal(#[from] seal::Error),
}

impl Error {
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::NotFound { what: what.to_string() }
    }

    pub fn slug(&self) -> Slug {
        match self {
            Self::Unauthenticated => Slug::Unauthenticated,
            Self::Forbidden(_) => Slug::Forbidden,
            Self::NotFound { .. } => Slug::NotFound,
            Self::BadRequest(_) => Slug::BadRequest,
            Self::Conflict(_) | Self::Moved(_) => Slug::Conflict,
            Self::Revision { .. } => Slug::VersionConflict,
            Self::RevisionMissing => Slug::PreconditionRequired,
            Self::Document(_) => Slug::InvalidDocument,
            Self::IdempotencyMismatch => Slug::IdempotencyMismatch,
            Self::Unresolved(_) => Slug::Upstream,
            Self::RateLimited { .. } => Slug::RateLimited,
            Self::Overloaded => Slug::Overloaded,
            Self::TokenInvalid => Slug::TokenInvalid,
            Self::TokenExpired => Slug::TokenExpired,
            Self::TokenUsed => Slug::TokenUsed,
            Self::Signature(_) => Slug::SignatureInvalid,
            Self::ClockSkew { .. } => Slug::ClockSkew,
            Self::HostUnknown => Slug::HostUnknown,
            Self::HostRevoked => Slug::HostRevoked,
            Self::IdentityConflict => Slug::IdentityConflict,
            Self::StateRegressed { .. } => Slug::StateRegressed,
            Self::OutboxGap { .. } => Slug::OutboxGap,
            Self::BodyTooLarge { .. } => Slug::BodyTooLarge,
            Self::TooManyEvents { .. } => Slug::TooManyEvents,
            Self::UnsupportedMedia(_) => Slug::UnsupportedMedia,
            Self::MethodNotAllowed => Slug::MethodNotAllowed,
            Self::AgentTooOld => Slug::AgentTooOld,
            Self::Store(error) if error.is_busy() => Slug::Overloaded,
            Self::Store(error) if error.is_full() => Slug::DiskFull,
            Self::Store(_) | Self::Seal(_) => Slug::Internal,
        }
    }

    /// What the caller is told: of our own failures only that there was one, the log has the rest.
    pub fn problem(&self) -> Problem {
        let slug = self.slug();
        let problem = match self {
            Self::Store(error) => slug.problem(error.said()),
            Self::Seal(_) => slug.problem("a secret cannot be opened or made: the server's log says why"),
            Self::Document(problems) | Self::Unresolved(problems) => {
                let problems = serde_json::to_value(problems).expect("texts and numbers are JSON");
                slug.problem(self.to_string()).with("problems", problems)
            }
            Self::Moved(moved) => {
                let moved = serde_json::to_value(moved).expect("texts are JSON");
                slug.problem(self.to_string()).with("moved", moved)
            }
            other => slug.problem(other.to_string()),
        };
        match self {
            Self::Revision { found } => problem.with("revision", *found),
            Self::ClockSkew { server } => problem.with("time", server.to_string()),
            Self::StateRegressed { boot } => problem.with("boot", *boot),
            Self::OutboxGap { expected } => problem.with("expected", *expected),
            _ => problem,
        }
    }

    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::RateLimited { retry_s } => Some(*retry_s),
            Self::Overloaded => Some(RETRY_BUSY_SECS),
            Self::Store(error) if error.is_busy() => Some(RETRY_BUSY_SECS),
            Self::Store(error) if error.is_full() => Some(RETRY_FULL_SECS),
            _ => None,
        }
    }
}

/// `api from 1111111 to 2222222`.
fn moves(all: &[Moved]) -> String {
    let one = |moved: &Moved| match &moved.found {
        Some(found) => format!("{} from {} to {}", moved.service, moved.saw.short(), found.short()),
        None => format!("{} from {} out of the document", moved.service, moved.saw.short()),
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Said to those who came while queues were full, seconds.
const RETRY_BUSY_SECS: u64 = 2;
/// Until somebody has made room, seconds.
const RETRY_FULL_SECS: u64 = 60;

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if let Self::Store(_) | Self::Seal(_) = &self {
            tracing::error!(error = agentd_sys::causes::chain(&self), "a request failed");
        }
        problem_response(&self.problem(), self.retry_after_s())
    }
}

pub fn problem_response(problem: &Problem, retry_after_s: Option<u64>) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(problem).expect("texts are JSON");
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
