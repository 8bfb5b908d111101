//! What an answer that is no success says (RFC 9457), and what a host does about it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub const MEDIA_TYPE: &str = "application/problem+json";
/// Before the slug, in `type`.
pub const TYPE_PREFIX: &str = "https://agentd.dev/p/";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// `time`, `boot`, `expected`, `problems`: what the slug's row says.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

macro_rules! slugs {
    ($( $(#[$doc:meta])* $variant:ident $word:literal $status:literal $title:literal; )+) => {
        /// Why a call was not answered as asked.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Slug {
            $( $(#[$doc])* $variant, )+
        }

        impl Slug {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub fn word(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }

            pub fn status(self) -> u16 {
                match self { $( Self::$variant => $status, )+ }
            }

            pub fn title(self) -> &'static str {
                match self { $( Self::$variant => $title, )+ }
            }
        }
    };
}

slugs! {
    BadRequest "bad-request" 400 "The request cannot be read";
    /// Also for a token that is not known: the difference is nobody's business.
    TokenInvalid "token-invalid" 401 "Token not accepted";
    TokenExpired "token-expired" 410 "Token expired";
    TokenUsed "token-used" 410 "Token already used";
    SignatureInvalid "signature-invalid" 401 "Signature not accepted";
    HostUnknown "host-unknown" 401 "Host not known";
    /// `time`: the server's clock.
    ClockSkew "clock-skew" 401 "Clocks differ too much";
    HostRevoked "host-revoked" 403 "Host revoked";
    Unauthenticated "unauthenticated" 401 "Log in first";
    Forbidden "forbidden" 403 "Not allowed";
    NotFound "not-found" 404 "Nothing here";
    MethodNotAllowed "method-not-allowed" 405 "Method not allowed";
    /// Two machines share one identity.
    IdentityConflict "identity-conflict" 409 "Two hosts with one identity";
    /// `boot`: the newest known; the host goes on above it.
    StateRegressed "state-regressed" 409 "Host state went back in time";
    /// `expected`: the sequence number that comes next.
    OutboxGap "outbox-gap" 409 "Events are missing before these";
    Conflict "conflict" 409 "It is not in that state";
    VersionConflict "version-conflict" 412 "Somebody changed it meanwhile";
    PreconditionRequired "precondition-required" 428 "If-Match is missing";
    BodyTooLarge "body-too-large" 413 "Body too large";
    TooManyEvents "too-many-events" 413 "Too many events at once";
    UnsupportedMedia "unsupported-media" 415 "Content type not supported";
    /// `problems`: each with its JSON pointer.
    InvalidDocument "invalid-document" 422 "The document is not valid";
    IdempotencyMismatch "idempotency-mismatch" 422 "Idempotency key used for another request";
    AgentTooOld "agent-too-old" 426 "Agent too old";
    RateLimited "rate-limited" 429 "Too many requests";
    Internal "internal" 500 "The server failed";
    Upstream "upstream" 502 "A repository could not be asked";
    Overloaded "overloaded" 503 "The server is busy";
    DiskFull "disk-full" 507 "The server's disk is full";
}

impl Slug {
    pub fn problem(self, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("{TYPE_PREFIX}{}", self.word()),
            title: self.title().to_owned(),
            status: self.status(),
            detail: detail.into(),
            extra: Map::new(),
        }
    }
}

impl Problem {
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(key.to_owned(), value.into());
        self
    }

    /// `None`: a type of another server; its status says the class.
    pub fn slug(&self) -> Option<Slug> {
        let word = self.kind.strip_prefix(TYPE_PREFIX)?;
        Slug::ALL.iter().copied().find(|slug| slug.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn problems_come_back_as_they_were() {
        let words: BTreeSet<&str> = Slug::ALL.iter().map(|slug| slug.word()).collect();
        assert_eq!(words.len(), Slug::ALL.len());
        for slug in Slug::ALL {
            let sent = slug.problem("why").with("boot", 7);
            let json = serde_json::to_string(&sent).unwrap();
            let read: Problem = serde_json::from_str(&json).unwrap();
            assert_eq!((read.slug(), &read), (Some(*slug), &sent));
        }
        let foreign: Problem = serde_json::from_str(r#"{"type":"about:blank","title":"Teapot","status":418}"#).unwrap();
        assert_eq!(foreign.slug(), None);
    }
}
