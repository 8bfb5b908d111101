//! One's own account: password, sessions, API tokens.

use askama::Template;

use super::super::frame::{Frame, Live, Section};
use super::super::text::{self, Moment};
use crate::auth::{ApiTokenRow, SessionRow};

#[derive(Debug, Template)]
#[template(path = "account.html")]
pub(crate) struct Page {
    pub(crate) frame: Frame,
    pub(crate) sessions: Vec<SessionLine>,
    pub(crate) tokens: Vec<TokenLine>,
    /// Shown once.
    pub(crate) made: Option<Made>,
    pub(crate) failed: Option<String>,
    pub(crate) password_faults: Vec<String>,
    pub(crate) chars_min: usize,
}

/// No `Debug`: it holds a token.
pub(crate) struct Made {
    pub(crate) name: String,
    pub(crate) token: String,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct SessionLine {
    pub(crate) source: String,
    pub(crate) agent: String,
    pub(crate) created: Moment,
    pub(crate) seen: Moment,
    pub(crate) own: bool,
}

#[derive(Debug)]
pub(crate) struct TokenLine {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) scope: &'static str,
    pub(crate) created: Moment,
    pub(crate) expires: Moment,
    pub(crate) seen: Option<Moment>,
    /// Why it opens nothing any more.
    pub(crate) over: Option<&'static str>,
}

impl Page {
    pub(crate) fn of(frame: Frame, sessions: &[SessionRow], tokens: &[ApiTokenRow]) -> Self {
        let now_ms = frame.now_ms;
        let session = |row: &SessionRow| SessionLine {
            source: text::word(&row.source),
            agent: text::word(&row.agent),
            created: Moment::relative(row.created_ms, now_ms),
            seen: Moment::relative(row.seen_ms, now_ms),
            own: row.own,
        };
        let token = |row: &ApiTokenRow| TokenLine {
            id: row.id.clone(),
            name: text::word(&row.name),
            scope: row.scope.word(),
            created: Moment::relative(row.created_unix_ms, now_ms),
            expires: Moment::relative(row.expires_unix_ms, now_ms),
            seen: row.seen_unix_ms.map(|at_ms| Moment::relative(at_ms, now_ms)),
            over: row.over(now_ms),
        };
        Self {
            sessions: sessions.iter().map(session).collect(),
            tokens: tokens.iter().map(token).collect(),
            made: None,
            failed: None,
            password_faults: Vec::new(),
            chars_min: crate::auth::PASSWORD_CHARS_MIN,
            frame,
        }
    }
}
