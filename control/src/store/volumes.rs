//! How much of the journal one host has. Beyond its share its oldest events are folded into one record that says how many
//! they were: a host that floods loses its own past, and nobody else's.

use std::collections::BTreeMap;

use agentd_protocol::api::Severity;
use agentd_protocol::control::report::{EventRecord, GAP_KIND};
use rusqlite::Connection;
use serde_json::json;

use super::journal::Batch;
use agentd_sqlite::{Fault, row, rows, signed, to_json, unsigned};

/// Of one host: a twentieth of all. A host that says something every minute fills it in seventy days.
const EVENTS_PER_HOST_MAX: u64 = 100_000;
/// Bodies, of one host: as much as its outbox holds.
const BYTES_PER_HOST_MAX: u64 = 64 * 1024 * 1024;
/// One part in so many is folded at once, and not a few events with each report.
const FOLDED_PART: u64 = 10;
/// `eid` of the record that stands for what was folded: hosts cannot send it, for its sign.
const FOLD_EID: &str = "@folded";

/// A row that is to go.
#[derive(Debug)]
pub(super) struct Old {
    pub id: i64,
    pub host: String,
    pub bytes: i64,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    rows: u64,
    bytes: u64,
}

const BOUNDS: Bounds = Bounds { rows: EVENTS_PER_HOST_MAX, bytes: BYTES_PER_HOST_MAX };

/// In the transaction that has added the events of `batch`.
pub(super) fn grow(connection: &Connection, batch: &Batch, rows: u64, bytes: u64) -> Result<(), Fault> {
    let sql = "INSERT INTO volumes (host, rows, bytes) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET
               rows = rows + excluded.rows, bytes = bytes + excluded.bytes";
    let host = batch.live.host.as_str();
    connection.prepare_cached(sql)?.execute((host, signed(rows), signed(bytes)))?;
    fold(connection, host, BOUNDS, batch.received_at)
}

pub(super) fn remove(connection: &Connection, old: &[Old]) -> Result<(), Fault> {
    let mut by_host: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    let mut delete = connection.prepare_cached("DELETE FROM events WHERE id = ?1")?;
    for row in old {
        delete.execute([row.id])?;
        let sums = by_host.entry(&row.host).or_default();
        *sums = (sums.0 + 1, sums.1 + row.bytes);
    }
    for (host, (rows, bytes)) in by_host {
        let sql = "UPDATE volumes SET rows = max(0, rows - ?2), bytes = max(0, bytes - ?3) WHERE host = ?1";
        connection.prepare_cached(sql)?.execute((host, rows, bytes))?;
    }
    Ok(())
}

fn fold(connection: &Connection, host: &str, bounds: Bounds, now: u64) -> Result<(), Fault> {
    let sql = "SELECT rows, bytes, lost FROM volumes WHERE host = ?1";
    let volume = row(connection, sql, [host], |row| {
        Ok((unsigned(row, "rows")?, unsigned(row, "bytes")?, unsigned(row, "lost")?))
    })?;
    let Some((rows, bytes, lost)) = volume else { return Ok(()) };
    if rows <= bounds.rows && bytes <= bounds.bytes {
        return Ok(());
    }
    let goal =
        Bounds { rows: bounds.rows - bounds.rows / FOLDED_PART, bytes: bounds.bytes - bounds.bytes / FOLDED_PART };
    let excess = Bounds { rows: rows.saturating_sub(goal.rows), bytes: bytes.saturating_sub(goal.bytes) };
    let mut old = oldest(connection, host, excess)?;
    let Some(last) = old.iter().map(|row| row.id).max() else { return Ok(()) };
    let lost = lost + u64::try_from(old.len())?;
    old.extend(earlier_fold(connection, host)?);
    remove(connection, &old)?;
    put_fold(connection, host, last, lost, now)?;
    tracing::warn!(host, lost, "a host fills its share of the journal; its oldest events are folded");
    Ok(())
}

/// Those that say little first, and of each kind the oldest.
fn oldest(connection: &Connection, host: &str, excess: Bounds) -> Result<Vec<Old>, Fault> {
    let (mut old, mut bytes) = (Vec::new(), 0);
    for severities in ["severity = 0", "severity > 0"] {
        let sql = format!(
            "SELECT id, length(CAST(body AS BLOB)) AS bytes FROM events
             WHERE host = ?1 AND {severities} AND eid <> ?2 ORDER BY id"
        );
        let mut select = connection.prepare_cached(&sql)?;
        let mut found = select.query((host, FOLD_EID))?;
        while u64::try_from(old.len())? < excess.rows || bytes < excess.bytes {
            let Some(row) = found.next()? else { break };
            bytes += unsigned(row, "bytes")?;
            old.push(Old { id: row.get("id")?, host: host.to_owned(), bytes: row.get("bytes")? });
        }
    }
    Ok(old)
}

fn earlier_fold(connection: &Connection, host: &str) -> Result<Vec<Old>, Fault> {
    let sql = "SELECT id, length(CAST(body AS BLOB)) AS bytes FROM events WHERE host = ?1 AND eid = ?2";
    rows(connection, sql, (host, FOLD_EID), |row| {
        Ok(Old { id: row.get("id")?, host: host.to_owned(), bytes: row.get("bytes")? })
    })
}

/// In the place of the newest that went, whose id is free again: pages and streams come past it once.
fn put_fold(connection: &Connection, host: &str, id: i64, lost: u64, now: u64) -> Result<(), Fault> {
    let record = EventRecord {
        eid: FOLD_EID.to_owned(),
        seq: 0,
        at_unix_ms: now,
        kind: GAP_KIND.to_owned(),
        severity: Severity::Warn,
        service: None,
        release: None,
        instance: None,
        suppressed: 0,
        data: [("count".to_owned(), json!(lost)), ("reason".to_owned(), json!("journal full"))].into(),
        text: format!(
            "{lost} earlier events of this host were removed: it has filled its share of the server's journal"
        ),
    };
    let body = to_json(&record);
    let sql = "INSERT INTO events (id, stack, host, eid, received, severity, kind, service, body)
               SELECT ?1, stack, host, ?3, ?4, 1, ?5, NULL, ?6 FROM events WHERE host = ?2 ORDER BY id DESC LIMIT 1";
    connection.execute(sql, (id, host, FOLD_EID, signed(now), GAP_KIND, &body))?;
    let sql = "UPDATE volumes SET rows = rows + 1, bytes = bytes + ?2, lost = ?3 WHERE host = ?1";
    connection.execute(sql, (host, i64::try_from(body.len())?, signed(lost)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::open;
    use super::*;

    const SMALL: Bounds = Bounds { rows: 100, bytes: 20_000 };

    struct Journal {
        connection: Connection,
        _dir: tempfile::TempDir,
    }

    impl Journal {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let connection = open::open(&dir.path().join("journal.db"), open::JOURNAL).unwrap();
            Self { connection, _dir: dir }
        }

        fn add(&self, host: &str, eid: u32, severity: i64, bytes: usize) {
            let sql = "INSERT INTO events (stack, host, eid, received, severity, kind, service, body)
                       VALUES ('stk_a', ?1, ?2, 7, ?3, 'run.started', NULL, ?4)";
            self.connection.execute(sql, (host, format!("e{eid}"), severity, "x".repeat(bytes))).unwrap();
            let sql = "INSERT INTO volumes (host, rows, bytes) VALUES (?1, 1, ?2) ON CONFLICT DO UPDATE SET
                       rows = rows + 1, bytes = bytes + ?2";
            self.connection.execute(sql, (host, i64::try_from(bytes).unwrap())).unwrap();
            fold(&self.connection, host, SMALL, 1_000).unwrap();
        }

        fn eids(&self, host: &str) -> Vec<String> {
            let sql = "SELECT eid FROM events WHERE host = ?1 ORDER BY id";
            rows(&self.connection, sql, [host], |row| Ok(row.get(0)?)).unwrap()
        }

        /// Rows, bytes and lost, once they were found to be true.
        fn volume(&self, host: &str) -> (u64, u64, u64) {
            let sql = "SELECT v.rows, v.bytes, v.lost, count(*) AS n, sum(length(CAST(e.body AS BLOB))) AS size
                       FROM volumes v JOIN events e USING (host) WHERE host = ?1";
            let read = row(&self.connection, sql, [host], |row| {
                let of = |column: &str| unsigned(row, column);
                Ok((of("rows")?, of("bytes")?, of("lost")?, of("n")?, of("size")?))
            });
            let (rows, bytes, lost, counted, size) = read.unwrap().unwrap();
            assert_eq!((rows, bytes), (counted, size), "what is noted is what there is");
            (rows, bytes, lost)
        }
    }

    #[test]
    fn who_floods_loses_his_own_past_and_it_is_seen() {
        let journal = Journal::new();
        journal.add("hst_b", 0, 0, 100);
        for number in 0..1_000 {
            // Every tenth is loud.
            journal.add("hst_a", number, i64::from(number % 10 == 0), 100);
            assert!(journal.volume("hst_a").0 <= SMALL.rows);
        }
        let (rows, _, lost) = journal.volume("hst_a");
        assert_eq!(rows - 1 + lost, 1_000, "each is there, or counted");
        let eids = journal.eids("hst_a");
        assert_eq!(eids.iter().filter(|eid| *eid == FOLD_EID).count(), 1);
        assert_eq!(eids.last().unwrap(), "e999");
        let loud = eids.iter().filter(|eid| eid.ends_with('0')).count();
        assert!(loud > 80, "what is loud stays longest: {loud}");
        assert_eq!(journal.eids("hst_b"), ["e0"], "nobody else's");
        let sql = "SELECT body FROM events WHERE eid = ?1";
        let body: String = journal.connection.query_row(sql, [FOLD_EID], |row| row.get(0)).unwrap();
        let record: EventRecord = serde_json::from_str(&body).unwrap();
        assert_eq!((record.kind.as_str(), &record.data["count"]), (GAP_KIND, &json!(lost)));
    }

    #[test]
    fn bytes_are_bounded_as_rows_are() {
        let journal = Journal::new();
        for number in 0..200 {
            journal.add("hst_a", number, 2, 4_000);
            assert!(journal.volume("hst_a").1 <= SMALL.bytes);
        }
        let (rows, _, lost) = journal.volume("hst_a");
        assert_eq!(rows - 1 + lost, 200);
    }

    #[test]
    fn a_journal_of_before_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let connection = open::open(&path, &open::JOURNAL[..1]).unwrap();
        let sql = "INSERT INTO events (stack, host, eid, received, severity, kind, service, body)
                   VALUES ('stk_a', 'hst_a', ?1, 7, 0, 'run.started', NULL, 'bödy')";
        for eid in ["a", "b"] {
            connection.execute(sql, [eid]).unwrap();
        }
        drop(connection);
        let journal = Journal { connection: open::open(&path, open::JOURNAL).unwrap(), _dir: dir };
        assert_eq!(journal.volume("hst_a"), (2, 10, 0));
    }
}
