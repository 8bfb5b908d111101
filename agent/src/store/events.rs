//! What happened, in order, for people and later for the control server.

use agentd_protocol::ids::{ReleaseNumber, ServiceName};
use rusqlite::{Row, params};
use serde_json::Value;

use super::convert::{Fault, now_unix_ms, plain, release_or_null, rows, service_or_null, signed, unsigned};
use super::{Error, Store};

/// Older ones go. About 2 MB, and weeks of a quiet host.
pub const EVENTS_KEPT: u32 = 10_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub service: Option<ServiceName>,
    pub release: Option<ReleaseNumber>,
    /// Dotted word, `deploy.failed`.
    pub kind: String,
    /// Never an env value.
    pub cause: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Grows; never used twice.
    pub id: u64,
    pub at_unix_ms: u64,
    pub service: Option<ServiceName>,
    pub release: Option<ReleaseNumber>,
    pub kind: String,
    pub cause: Value,
}

impl Store {
    /// The event's id.
    pub async fn record_event(&self, event: NewEvent) -> Result<u64, Error> {
        self.write("record an event", move |transaction| {
            transaction.execute(
                "INSERT INTO events (at, service, release, kind, cause) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    now_unix_ms(),
                    event.service.as_ref().map(ServiceName::as_str),
                    event.release.map(|release| signed(release.0)),
                    event.kind,
                    event.cause.to_string()
                ],
            )?;
            let id = transaction.last_insert_rowid();
            transaction.execute("DELETE FROM events WHERE id <= ?1", [id - i64::from(EVENTS_KEPT)])?;
            Ok(u64::try_from(id)?)
        })
        .await
    }

    /// The newest `limit`, oldest first.
    pub async fn events(&self, limit: u32) -> Result<Vec<StoredEvent>, Error> {
        self.read("read events", move |connection| {
            let query = "SELECT * FROM (SELECT * FROM events ORDER BY id DESC LIMIT ?1) ORDER BY id";
            rows(connection, query, [limit], read)
        })
        .await
    }
}

fn read(row: &Row<'_>) -> Result<StoredEvent, Fault> {
    Ok(StoredEvent {
        id: unsigned(row, "id")?,
        at_unix_ms: unsigned(row, "at")?,
        service: service_or_null(row, "service")?,
        release: release_or_null(row, "release")?,
        kind: plain(row, "kind")?,
        cause: serde_json::from_str(&plain::<String>(row, "cause")?)?,
    })
}
