//! Who did what, append-only: each row is written in the transaction of the act itself.

use rusqlite::Connection;
use serde_json::Value;

use super::{Error, Store};
use crate::model::AuditRow;
use agentd_sqlite::{Fault, json, rows, signed, text, to_json, unsigned};

/// A row to be. `detail` never holds a secret.
#[derive(Debug, Clone)]
pub struct Entry {
    pub at_unix_ms: u64,
    pub actor: String,
    pub action: &'static str,
    pub target: String,
    pub detail: Value,
    pub alarm: bool,
}

pub(super) fn append(connection: &Connection, entry: &Entry) -> Result<(), Fault> {
    let Entry { at_unix_ms, actor, action, target, detail, alarm } = entry;
    let sql = "INSERT INTO audit (at, actor, action, target, detail, alarm) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let params = (signed(*at_unix_ms), actor, action, target, to_json(detail), alarm);
    connection.prepare_cached(sql)?.execute(params)?;
    Ok(())
}

impl Store {
    pub async fn append_audit(&self, entry: Entry) -> Result<(), Error> {
        self.control.write("append to the audit", move |connection| append(connection, &entry)).await
    }

    /// Newest first, below `before`.
    pub async fn audit(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditRow>, Error> {
        let query = move |connection: &Connection| {
            let sql = "SELECT * FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
            rows(connection, sql, (before.map_or(i64::MAX, signed), limit), |row| {
                Ok(AuditRow {
                    id: unsigned(row, "id")?,
                    at_unix_ms: unsigned(row, "at")?,
                    actor: text(row, "actor")?,
                    action: text(row, "action")?,
                    target: text(row, "target")?,
                    detail: json(row, "detail")?,
                    alarm: row.get("alarm")?,
                })
            })
        };
        self.control_reads.read("read the audit", query).await
    }
}
