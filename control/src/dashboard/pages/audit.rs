//! Who did what here.

use askama::Template;
use serde_json::Value;

use super::super::frame::{Frame, Live, Section};
use super::super::text::{self, Moment};
use crate::model::AuditPage;

#[derive(Debug, Template)]
#[template(path = "audit.html")]
pub(crate) struct Page {
    pub(crate) frame: Frame,
    pub(crate) rows: Vec<Line>,
    pub(crate) older: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) id: u64,
    pub(crate) at: Moment,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) target: String,
    pub(crate) detail: String,
    pub(crate) alarm: bool,
}

impl Page {
    pub(crate) fn of(frame: Frame, page: &AuditPage) -> Self {
        let line = |row: &crate::model::AuditRow| Line {
            id: row.id,
            at: Moment::clock(row.at_unix_ms, frame.now_ms),
            actor: text::word(&row.actor),
            action: text::word(&row.action),
            target: text::word(&row.target),
            detail: detail(&row.detail),
            alarm: row.alarm,
        };
        let rows: Vec<Line> = page.rows.iter().map(line).collect();
        let older = rows.last().map(|row| row.id).filter(|_| page.more);
        Self { rows, older, frame }
    }
}

/// `key value, key value`
fn detail(detail: &Value) -> String {
    let words = match detail {
        Value::Null => String::new(),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| match value {
                Value::String(value) => format!("{key} {value}"),
                other => format!("{key} {other}"),
            };
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    text::sentence(&words)
}
