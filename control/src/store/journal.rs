//! What hosts said: their last report, and their events.
//!
//! An answer acknowledges the records of its own request and no others, so each is inserted, whatever the cursor says: a
//! host whose memory was set back sends some numbers twice, with other events under them.

use agentd_protocol::api::Severity;
use agentd_protocol::control::ids::{HostId, StackId};
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::Version;
use rusqlite::types::Value as Column;
use rusqlite::{Connection, params_from_iter};

use super::volumes::{self, Old};
use super::{Error, Store};
use crate::model::{EventFilter, EventRow};
use agentd_sqlite::{Fault, json, parsed, row, rows, signed, text, unsigned};

/// Plain events are kept so long, ms; those of severity warn and worse six times as long.
const EVENTS_KEPT_MS: u64 = 30 * DAY_MS;
const LOUD_EVENTS_KEPT_MS: u64 = 180 * DAY_MS;
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// However young: about 2 GiB.
const EVENTS_MAX: u64 = 2_000_000;
/// Of one host, whose ids it makes up. It has one at a time; a few more are those from before its state was set back.
const STREAMS_PER_HOST_MAX: u32 = 8;
/// Removed in one transaction: others wait for it.
const REMOVED_AT_ONCE: u32 = 5_000;

/// The last report of a host; overwritten.
#[derive(Debug, Clone)]
pub struct Live {
    pub host: HostId,
    pub last_seen: u64,
    pub boot: u64,
    pub seq: u64,
    pub rid: String,
    pub epoch: u64,
    pub seen: Version,
    pub applied: Version,
    pub digest: Digest,
}

#[derive(Debug, Clone)]
pub struct StoredSnapshot {
    pub host: HostId,
    pub digest: Digest,
    pub received_at: u64,
    /// JSON of `report::Snapshot`.
    pub body: String,
}

/// One event as it came.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub eid: String,
    pub severity: Severity,
    pub kind: String,
    pub service: Option<String>,
    /// JSON of `report::EventRecord`.
    pub body: String,
}

/// What one report brings.
#[derive(Debug, Clone)]
pub struct Batch {
    pub stack: StackId,
    pub live: Live,
    pub snapshot: Option<StoredSnapshot>,
    pub stream: String,
    /// Of the first event and of the last, holes that gap records tell of left out.
    pub seqs: Option<(u64, u64)>,
    pub events: Vec<Arrival>,
    pub received_at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingested {
    Done {
        added: u64,
        newest: u64,
    },
    /// Events before these are missing; nothing was taken.
    Gap {
        expected: u64,
    },
}

impl Store {
    /// All of it or nothing.
    pub async fn ingest(&self, batch: Batch) -> Result<Ingested, Error> {
        self.journal.write("take a report in", move |connection| ingest(connection, &batch)).await
    }

    /// Reports that brought no news, of many hosts.
    pub async fn touch(&self, lives: Vec<Live>) -> Result<(), Error> {
        let change = move |connection: &Connection| lives.iter().try_for_each(|live| put_live(connection, live));
        self.journal.write("note who reported", change).await
    }

    pub async fn lives(&self) -> Result<Vec<Live>, Error> {
        let query = |connection: &Connection| {
            rows(connection, "SELECT * FROM live", [], |row| {
                Ok(Live {
                    host: parsed(row, "host")?,
                    last_seen: unsigned(row, "last_seen")?,
                    boot: unsigned(row, "boot")?,
                    seq: unsigned(row, "seq")?,
                    rid: text(row, "rid")?,
                    epoch: unsigned(row, "epoch")?,
                    seen: Version(unsigned(row, "seen")?),
                    applied: Version(unsigned(row, "applied")?),
                    digest: parsed(row, "digest")?,
                })
            })
        };
        self.journal_reads.read("read who reported", query).await
    }

    pub async fn snapshots(&self) -> Result<Vec<StoredSnapshot>, Error> {
        let query = |connection: &Connection| {
            rows(connection, "SELECT * FROM snapshots", [], |row| {
                Ok(StoredSnapshot {
                    host: parsed(row, "host")?,
                    digest: parsed(row, "digest")?,
                    received_at: unsigned(row, "received_at")?,
                    body: text(row, "body")?,
                })
            })
        };
        self.journal_reads.read("read snapshots", query).await
    }

    pub async fn newest_event(&self) -> Result<u64, Error> {
        let query = |connection: &Connection| {
            let newest: i64 = connection.query_row("SELECT coalesce(max(id), 0) FROM events", [], |row| row.get(0))?;
            Ok(u64::try_from(newest)?)
        };
        self.journal_reads.read("find the newest event", query).await
    }

    /// At most `limit`, oldest first after `after`, else newest first. Names of hosts are the caller's to fill in.
    pub async fn events(&self, filter: EventFilter, limit: u32) -> Result<Vec<EventRow>, Error> {
        let query = move |connection: &Connection| {
            let (sql, params) = select(&filter, limit);
            rows(connection, &sql, params_from_iter(params), |row| {
                Ok(EventRow {
                    id: unsigned(row, "id")?,
                    stack: parsed(row, "stack")?,
                    host: parsed(row, "host")?,
                    host_name: String::new(),
                    received_unix_ms: unsigned(row, "received")?,
                    event: json(row, "body")?,
                })
            })
        };
        self.journal_reads.read("read events", query).await
    }

    /// Removes some of what is too old or too much; whether there may be more of it.
    pub async fn prune_events(&self, now: u64) -> Result<bool, Error> {
        let change = move |connection: &Connection| {
            let plain = signed(now.saturating_sub(EVENTS_KEPT_MS));
            let sql = "SELECT id, host, length(CAST(body AS BLOB)) AS bytes FROM events
                       WHERE received < ?1 AND (severity = 0 OR received < ?2)
                          OR id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?3)
                       ORDER BY id LIMIT ?4";
            let loud = signed(now.saturating_sub(LOUD_EVENTS_KEPT_MS));
            let params = (plain, loud, signed(EVENTS_MAX), REMOVED_AT_ONCE);
            let old = rows(connection, sql, params, |row| {
                Ok(Old { id: row.get("id")?, host: text(row, "host")?, bytes: row.get("bytes")? })
            })?;
            volumes::remove(connection, &old)?;
            let has_more = u32::try_from(old.len())? == REMOVED_AT_ONCE;
            if !has_more {
                prune_streams(connection, plain)?;
            }
            Ok(has_more)
        };
        self.journal.write("remove old events", change).await
    }
}

fn ingest(connection: &Connection, batch: &Batch) -> Result<Ingested, Fault> {
    let host = batch.live.host.as_str();
    if let Some((first, last)) = batch.seqs {
        let sql = "SELECT seq FROM cursors WHERE host = ?1 AND stream = ?2";
        let known = row(connection, sql, (host, &batch.stream), |row| unsigned(row, "seq"))?;
        let expected = known.unwrap_or(0).saturating_add(1);
        if first > expected {
            return Ok(Ingested::Gap { expected });
        }
        let sql = "INSERT INTO cursors VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT DO UPDATE SET seq = excluded.seq, at = excluded.at WHERE excluded.seq > seq";
        connection.prepare_cached(sql)?.execute((host, &batch.stream, signed(last), signed(batch.received_at)))?;
        if known.is_none() {
            forget_streams(connection, host, &batch.stream)?;
        }
    }
    let (mut added, mut bytes) = (0, 0);
    for event in &batch.events {
        if put_event(connection, batch, event)? {
            added += 1;
            bytes += u64::try_from(event.body.len())?;
        }
    }
    if added > 0 {
        volumes::grow(connection, batch, added, bytes)?;
    }
    put_live(connection, &batch.live)?;
    if let Some(snapshot) = &batch.snapshot {
        let sql = "INSERT INTO snapshots VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET
                   digest = excluded.digest, received_at = excluded.received_at, body = excluded.body
                   WHERE excluded.digest <> digest";
        let StoredSnapshot { digest, received_at, body, .. } = snapshot;
        connection.prepare_cached(sql)?.execute((host, digest.to_string(), signed(*received_at), body))?;
    }
    let newest: i64 = connection.query_row("SELECT coalesce(max(id), 0) FROM events", [], |row| row.get(0))?;
    Ok(Ingested::Done { added, newest: u64::try_from(newest)? })
}

/// Those before the newest few; never `own`, whatever the clock says.
fn forget_streams(connection: &Connection, host: &str, own: &str) -> Result<(), Fault> {
    let sql = "DELETE FROM cursors WHERE host = ?1 AND stream <> ?2 AND stream NOT IN
               (SELECT stream FROM cursors WHERE host = ?1 AND stream <> ?2 ORDER BY at DESC, stream LIMIT ?3)";
    connection.prepare_cached(sql)?.execute((host, own, STREAMS_PER_HOST_MAX - 1))?;
    Ok(())
}

/// The newest of a host stays: without it the host's next event would look like one after a hole. Each row is compared
/// with the few of its host.
fn prune_streams(connection: &Connection, before: i64) -> Result<(), Fault> {
    let sql = "DELETE FROM cursors WHERE at < ?1 AND EXISTS
               (SELECT 1 FROM cursors newer WHERE newer.host = cursors.host AND newer.at > cursors.at)";
    connection.execute(sql, [before])?;
    Ok(())
}

fn put_event(connection: &Connection, batch: &Batch, event: &Arrival) -> Result<bool, Fault> {
    let sql = "INSERT INTO events (stack, host, eid, received, severity, kind, service, body)
               SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
               WHERE NOT EXISTS (SELECT 1 FROM events WHERE host = ?2 AND eid = ?3)";
    let (stack, host) = (batch.stack.as_str(), batch.live.host.as_str());
    let severity = rank(event.severity);
    let Arrival { eid, kind, service, body, .. } = event;
    let params = (stack, host, eid, signed(batch.received_at), severity, kind, service, body);
    Ok(connection.prepare_cached(sql)?.execute(params)? == 1)
}

fn put_live(connection: &Connection, live: &Live) -> Result<(), Fault> {
    let sql = "INSERT INTO live VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO UPDATE SET
               last_seen = excluded.last_seen, boot = excluded.boot, seq = excluded.seq, rid = excluded.rid,
               epoch = excluded.epoch, seen = excluded.seen, applied = excluded.applied, digest = excluded.digest
               WHERE (excluded.boot, excluded.seq) >= (boot, seq)";
    connection.prepare_cached(sql)?.execute(rusqlite::params![
        live.host.as_str(),
        signed(live.last_seen),
        signed(live.boot),
        signed(live.seq),
        live.rid,
        signed(live.epoch),
        signed(live.seen.0),
        signed(live.applied.0),
        live.digest.to_string(),
    ])?;
    Ok(())
}

fn rank(severity: Severity) -> i64 {
    match severity {
        Severity::Info => 0,
        Severity::Warn => 1,
        Severity::Error => 2,
    }
}

fn select(filter: &EventFilter, limit: u32) -> (String, Vec<Column>) {
    let mut params: Vec<Column> = Vec::new();
    let mut wheres: Vec<String> = Vec::new();
    let mut add = |condition: &str, value: Column| {
        params.push(value);
        wheres.push(condition.replace('?', &format!("?{}", params.len())));
    };
    if let Some(stack) = &filter.stack {
        add("stack = ?", Column::Text(stack.to_string()));
    }
    if let Some(host) = &filter.host {
        add("host = ?", Column::Text(host.to_string()));
    }
    if let Some(service) = &filter.service {
        add("service = ?", Column::Text(service.to_string()));
    }
    if let Some(severity) = filter.severity {
        add("severity >= ?", Column::Integer(rank(severity)));
    }
    if let Some(kind) = &filter.kind {
        // A family ends before its dot; `substr` and not LIKE, whose wildcards a caller could send.
        add("(kind = ? OR substr(kind, 1, length(?) + 1) = ? || '.')", Column::Text(kind.clone()));
    }
    if let Some(after) = filter.after {
        add("id > ?", Column::Integer(signed(after)));
    }
    if let Some(before) = filter.before {
        add("id < ?", Column::Integer(signed(before)));
    }
    if let Some(since) = filter.since_unix_ms {
        add("received >= ?", Column::Integer(signed(since)));
    }
    let wheres = if wheres.is_empty() { "1".to_owned() } else { wheres.join(" AND ") };
    let order = if filter.after.is_some() { "ASC" } else { "DESC" };
    (format!("SELECT * FROM events WHERE {wheres} ORDER BY id {order} LIMIT {limit}"), params)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u8) -> HostId {
        HostId::of(&[number; 16])
    }

    fn batch(number: u8, stream: &str, at: u64) -> Batch {
        let live = Live {
            host: host(number),
            last_seen: at,
            boot: 1,
            seq: at,
            rid: "r".to_owned(),
            epoch: 1,
            seen: Version(0),
            applied: Version(0),
            digest: Digest::of(b"snapshot"),
        };
        let event = Arrival {
            eid: "one".to_owned(),
            severity: Severity::Info,
            kind: "run.started".to_owned(),
            service: None,
            body: "{}".to_owned(),
        };
        let (stream, events) = (stream.to_owned(), vec![event]);
        let stack = StackId::of(&[1; 16]);
        Batch { stack, live, snapshot: None, stream, seqs: Some((1, 1)), events, received_at: at }
    }

    /// Of one host, oldest first.
    fn streams(connection: &Connection, number: u8) -> Vec<String> {
        let sql = "SELECT stream FROM cursors WHERE host = ?1 ORDER BY at";
        rows(connection, sql, [host(number).as_str()], |row| text(row, "stream")).unwrap()
    }

    #[test]
    fn who_makes_up_streams_has_a_few() {
        let dir = tempfile::tempdir().unwrap();
        let connection = super::super::open::open(&dir.path().join("journal.db"), super::super::open::JOURNAL).unwrap();
        ingest(&connection, &batch(2, "quiet", 1)).unwrap();
        for number in 0..100_u64 {
            ingest(&connection, &batch(1, &format!("s{number}"), 10 + number)).unwrap();
        }
        let newest: Vec<String> = (92..100).map(|number| format!("s{number}")).collect();
        assert_eq!(streams(&connection, 1), newest);
        // A clock that was set back.
        ingest(&connection, &batch(1, "back", 2)).unwrap();
        assert_eq!((streams(&connection, 1).len(), streams(&connection, 1)[0].as_str()), (8, "back"));
        prune_streams(&connection, i64::MAX).unwrap();
        assert_eq!((streams(&connection, 1), streams(&connection, 2)), (vec!["s99".into()], vec!["quiet".into()]));
    }

    #[test]
    fn a_journal_that_was_filled_with_streams_is_emptied_and_pruned_in_no_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let connection = super::super::open::open(&path, &super::super::open::JOURNAL[..2]).unwrap();
        let sql = "INSERT INTO cursors WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
                   SELECT ?1, 's' || i, 1, i FROM n";
        connection.execute(sql, (host(1).as_str(), 200_000)).unwrap();
        connection.execute(sql, (host(2).as_str(), 3)).unwrap();
        drop(connection);
        let connection = super::super::open::open(&path, super::super::open::JOURNAL).unwrap();
        assert_eq!((streams(&connection, 1).len(), streams(&connection, 2).len()), (8, 3));
        assert_eq!(streams(&connection, 1).last().unwrap(), "s200000");
    }
}
