//! What happened, in order, for people and later for the control server; and how far each shim's own account of it was
//! taken over, so that a restarted manager asks for the rest alone.

use std::collections::BTreeMap;

use agentd_protocol::api::{Event, What};
use agentd_protocol::ids::{EventId, InstanceId, ReleaseNumber, ServiceName};
use rusqlite::{Row, Transaction, params};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::convert::{plain, release_or_null, service_or_null};
use super::{Error, Store, outbox};
use agentd_sqlite::{Fault, parsed, rows, signed, unsigned};

/// Older ones go. About 2 MB, and weeks of a quiet host.
pub const EVENTS_KEPT: u32 = 10_000;
/// Keys of the stored cause that are no details of the kind.
const INSTANCE_KEY: &str = "instance";
const SUPPRESSED_KEY: &str = "suppressed";
/// Keys of `meta` that hold the sequence number of the last event taken over from an instance's shim.
const MARK_PREFIX: &str = "events.";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub at_unix_ms: u64,
    pub service: Option<ServiceName>,
    pub release: Option<ReleaseNumber>,
    pub instance: Option<InstanceId>,
    /// Events of this service that were left out since its last one.
    pub suppressed: u64,
    /// Sequence number at the instance's shim, of what it told.
    pub shim_seq: Option<u64>,
    /// Never an env value.
    pub what: What,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// The first `limit` later than this one; without it the newest `limit`.
    pub after: Option<EventId>,
    /// That happened at this Unix time or later.
    pub since_unix_ms: Option<u64>,
    pub service: Option<ServiceName>,
    pub limit: u32,
}

impl Store {
    /// In one transaction, in this order.
    pub async fn record_events(&self, events: Vec<NewEvent>) -> Result<(), Error> {
        let newest = self
            .write("record events", move |transaction| {
                let mut newest = 0;
                for event in &events {
                    newest = insert(transaction, event)?;
                    outbox::enqueue(transaction, event)?;
                }
                transaction.execute("DELETE FROM events WHERE id <= ?1", [newest - i64::from(EVENTS_KEPT)])?;
                outbox::keep_bounds(transaction, outbox::OUTBOX_BYTES_MAX)?;
                Ok(u64::try_from(newest)?)
            })
            .await?;
        self.newest_event.send_replace(EventId(newest));
        Ok(())
    }

    /// By instance, the last event of its shim that was recorded.
    pub async fn shim_events_recorded(&self) -> Result<BTreeMap<InstanceId, u64>, Error> {
        self.read("read how far events were recorded", |connection| {
            let query = "SELECT substr(key, length(?1) + 1) AS id, value FROM meta WHERE key LIKE ?1 || '%'";
            let read = |row: &Row<'_>| Ok((parsed(row, "id")?, unsigned(row, "value")?));
            Ok(rows(connection, query, [MARK_PREFIX], read)?.into_iter().collect())
        })
        .await
    }

    /// Of instances that are gone.
    pub async fn forget_shim_events(&self, gone: Vec<InstanceId>) -> Result<(), Error> {
        self.write("forget how far events were recorded", move |transaction| {
            for id in &gone {
                transaction.execute("DELETE FROM meta WHERE key = ?1", [format!("{MARK_PREFIX}{id}")])?;
            }
            Ok(())
        })
        .await
    }

    /// Changes whenever events were recorded.
    pub fn newest_event(&self) -> watch::Receiver<EventId> {
        self.newest_event.subscribe()
    }

    /// Oldest first.
    pub async fn events(&self, query: EventQuery) -> Result<Vec<Event>, Error> {
        self.read("read events", move |connection| {
            let order = if query.after.is_some() { "ASC" } else { "DESC" };
            let text = format!(
                "SELECT * FROM (SELECT * FROM events WHERE id > ?1 AND at >= ?2 AND (?3 IS NULL OR service = ?3) \
                 ORDER BY id {order} LIMIT ?4) ORDER BY id"
            );
            let after = query.after.map_or(0, |after| signed(after.0));
            let since = query.since_unix_ms.map_or(0, signed);
            let service = query.service.as_ref().map(ServiceName::as_str);
            rows(connection, &text, params![after, since, service, query.limit], read)
        })
        .await
    }
}

fn insert(transaction: &Transaction<'_>, event: &NewEvent) -> Result<i64, Fault> {
    let mut cause = Map::new();
    if let Value::Object(mut whole) = serde_json::to_value(&event.what)?
        && let Some(Value::Object(details)) = whole.remove("details")
    {
        cause = details;
    }
    if let Some(instance) = &event.instance {
        cause.insert(INSTANCE_KEY.to_owned(), json!(instance));
    }
    if event.suppressed > 0 {
        cause.insert(SUPPRESSED_KEY.to_owned(), json!(event.suppressed));
    }
    transaction.execute(
        "INSERT INTO events (at, service, release, kind, cause) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            signed(event.at_unix_ms),
            event.service.as_ref().map(ServiceName::as_str),
            event.release.map(|release| signed(release.0)),
            event.what.word(),
            Value::Object(cause).to_string()
        ],
    )?;
    let id = transaction.last_insert_rowid();
    if let (Some(instance), Some(seq)) = (&event.instance, event.shim_seq) {
        transaction.execute(
            "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = max(value, ?2)",
            params![format!("{MARK_PREFIX}{instance}"), signed(seq)],
        )?;
    }
    Ok(id)
}

/// What another version wrote is shown as it stands: a history that cannot be read in full is still one.
fn read(row: &Row<'_>) -> Result<Event, Fault> {
    let (kind, cause): (String, String) = (plain(row, "kind")?, plain(row, "cause")?);
    let mut details = serde_json::from_str(&cause).unwrap_or(Value::String(cause));
    let mut taken = |key: &str| details.as_object_mut().and_then(|details| details.shift_remove(key));
    let instance = taken(INSTANCE_KEY).and_then(|id| serde_json::from_value(id).ok());
    let suppressed = taken(SUPPRESSED_KEY).and_then(|count| count.as_u64()).unwrap_or(0);
    let what: What = serde_json::from_value(json!({ "kind": kind, "details": details }))?;
    Ok(Event {
        id: EventId(unsigned(row, "id")?),
        at_unix_ms: unsigned(row, "at")?,
        severity: what.severity(),
        service: service_or_null(row, "service")?,
        release: release_or_null(row, "release")?,
        instance,
        suppressed,
        text: what.text(),
        what,
    })
}
