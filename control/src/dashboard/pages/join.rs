//! How a host joins a stack: the one command, the tokens there are, and who is asking.

use agentd_protocol::control::ids::HostId;
use askama::Template;

use super::super::frame::{Frame, Live, Section};
use super::super::status::{self, Status};
use super::super::text::{self, Moment};
use super::parts::HostLine;
use super::stack::{StackHead, Tab};
use crate::model::{Approval, HostRow, StackOverview, Standing, TokenMade, TokenRow, TokenState};

#[derive(Debug, Template)]
#[template(path = "join.html")]
pub(crate) struct Page {
    pub(crate) frame: Frame,
    pub(crate) head: StackHead,
    pub(crate) made: Option<Made>,
    pub(crate) pending: Vec<HostLine>,
    pub(crate) tokens: Vec<TokenLine>,
    pub(crate) idempotency_key: String,
    pub(crate) failed: Option<String>,
}

/// Shown by the one answer that made it, and by no other. No `Debug`: it holds the join string.
pub(crate) struct Made {
    pub(crate) command: String,
    pub(crate) warning: Option<String>,
    pub(crate) join: String,
    pub(crate) id: String,
    pub(crate) expires: Moment,
    pub(crate) approval: bool,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct TokenLine {
    pub(crate) id: String,
    pub(crate) note: String,
    pub(crate) labels: Vec<String>,
    pub(crate) status: Status,
    pub(crate) open: bool,
    /// Id and name.
    pub(crate) used_by: Option<(String, String)>,
    pub(crate) approval: bool,
    pub(crate) by: String,
    pub(crate) created: Moment,
    pub(crate) expires: Moment,
}

impl Page {
    pub(crate) fn of(
        frame: Frame,
        stack: &StackOverview,
        hosts: &[HostRow],
        tokens: &[TokenRow],
        made: Option<&TokenMade>,
        idempotency_key: String,
    ) -> Self {
        let now_ms = frame.now_ms;
        let pending = hosts.iter().filter(|row| matches!(row.standing, Standing::Pending { .. }));
        Self {
            head: StackHead::of(stack, Tab::Join, now_ms),
            made: made.map(|made| Made {
                command: made.command.clone(),
                warning: made.warning.clone(),
                join: made.join.clone(),
                id: made.token.id.to_string(),
                expires: Moment::relative(made.token.expires_unix_ms, now_ms),
                approval: made.token.approval == Approval::Person,
            }),
            pending: pending.map(|row| HostLine::of(row, now_ms)).collect(),
            tokens: tokens.iter().map(|row| TokenLine::of(row, hosts, now_ms)).collect(),
            idempotency_key,
            failed: None,
            frame,
        }
    }
}

impl TokenLine {
    fn of(row: &TokenRow, hosts: &[HostRow], now_ms: u64) -> Self {
        let named = |id: &HostId| {
            let name = hosts.iter().find(|host| host.id == *id).map(|host| text::word(&host.name));
            (id.to_string(), name.unwrap_or_else(|| id.to_string()))
        };
        Self {
            id: row.id.to_string(),
            note: text::word(&row.note),
            labels: row.labels.iter().map(|(key, value)| text::word(&format!("{key}={value}"))).collect(),
            status: status::token(&row.state),
            open: row.state == TokenState::Open,
            used_by: match &row.state {
                TokenState::Used { by, .. } => Some(named(by)),
                TokenState::Open | TokenState::Expired | TokenState::Revoked { .. } => None,
            },
            approval: row.approval == Approval::Person,
            by: super::parts::person(&row.by),
            created: Moment::relative(row.created_unix_ms, now_ms),
            expires: Moment::relative(row.expires_unix_ms, now_ms),
        }
    }
}
