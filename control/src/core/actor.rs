//! Who asks.

use std::fmt;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::Error;

/// Whoever checks credentials puts one into the request's extensions (`request.extensions_mut().insert(actor)`); a handler
/// takes it as an argument and is not reached without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Over the Unix socket: root or the server's own user.
    Local { uid: u32 },
    /// A person with a session.
    User { id: String, name: String },
    /// A program with an API token.
    ApiToken { id: String, name: String },
    /// The server itself.
    Server,
}

/// As the audit has it.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid } => write!(f, "local uid {uid}"),
            Self::User { name, .. } => write!(f, "user {name}"),
            Self::ApiToken { id, name } => write!(f, "api token {id} {name}"),
            Self::Server => f.write_str("controld"),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Error> {
        parts.extensions.get::<Self>().cloned().ok_or(Error::Unauthenticated)
    }
}
