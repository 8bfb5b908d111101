//! Who did what, append-only: each row is written in the transaction of the act itself. What strangers cause is written
//! the first time at once, and then counted, so that nobody fills the audit by knocking.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use serde_json::{Value, json};

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

/// Of one action and one stranger, so long is one row and, at its end, one more with their number.
const COUNTED_MS: u64 = 3_600 * 1_000;
/// Strangers told apart at once; beyond it they are `others` together.
const STRANGERS_MAX: usize = 1_000;
const OTHERS: &str = "others";

/// What strangers did since their first row. In memory: a kill loses a number, never a first time.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally(Arc<Mutex<Counts>>);

type Counts = HashMap<(&'static str, String), Counted>;

#[derive(Debug)]
struct Counted {
    first_at: u64,
    last_at: u64,
    count: u64,
    /// As it was written the first time.
    entry: Entry,
}

impl Counted {
    fn is_over(&self, now: u64) -> bool {
        now.saturating_sub(self.first_at) >= COUNTED_MS || now < self.first_at
    }

    /// `None`: the first row has said it all.
    fn row(self, now: u64) -> Option<Entry> {
        let Self { first_at, last_at, count, mut entry } = self;
        if count < 2 {
            return None;
        }
        if let Some(detail) = entry.detail.as_object_mut() {
            detail.extend([
                ("count".to_owned(), json!(count)),
                ("first_unix_ms".to_owned(), json!(first_at)),
                ("last_unix_ms".to_owned(), json!(last_at)),
            ]);
        }
        Some(Entry { at_unix_ms: now, ..entry })
    }
}

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A panic while it was held left whole counts.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows to write now: none for what was only counted.
    fn note(&self, entry: Entry, stranger: &str) -> Vec<Entry> {
        let (mut counts, now) = (self.counts(), entry.at_unix_ms);
        let own = (entry.action, stranger.to_owned());
        let is_full = counts.len() >= STRANGERS_MAX && !counts.contains_key(&own);
        let key = if is_full { (entry.action, OTHERS.to_owned()) } else { own };
        let over =
            if counts.get(&key).is_some_and(|counted| counted.is_over(now)) { counts.remove(&key) } else { None };
        if let Some(counted) = counts.get_mut(&key) {
            (counted.count, counted.last_at) = (counted.count + 1, now);
            return Vec::new();
        }
        counts.insert(key, Counted { first_at: now, last_at: now, count: 1, entry: entry.clone() });
        over.and_then(|counted| counted.row(now)).into_iter().chain([entry]).collect()
    }

    fn take(&self, now: u64, which: impl Fn(&Counted) -> bool) -> Vec<Entry> {
        let over: Vec<Counted> =
            self.counts().extract_if(|_, counted| which(counted)).map(|(_, counted)| counted).collect();
        over.into_iter().filter_map(|counted| counted.row(now)).collect()
    }
}

impl Store {
    /// For what a stranger causes, who can cause it as often as he likes.
    pub async fn append_counted(&self, entry: Entry, stranger: &str) -> Result<(), Error> {
        self.append_all(self.tally.note(entry, stranger)).await
    }

    /// Writes the numbers of those hours that are over; at the end, of all.
    pub async fn flush_counted(&self, now: u64, is_end: bool) -> Result<(), Error> {
        self.append_all(self.tally.take(now, |counted| is_end || counted.is_over(now))).await
    }

    async fn append_all(&self, entries: Vec<Entry>) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let change = move |connection: &Connection| entries.iter().try_for_each(|entry| append(connection, entry));
        self.control.write("append to the audit", change).await
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(at_unix_ms: u64) -> Entry {
        let detail = json!({"from": "192.0.2.1"});
        Entry { at_unix_ms, actor: "a".into(), action: "refused", target: "t".into(), detail, alarm: true }
    }

    #[test]
    fn a_flood_is_a_row_and_a_number() {
        let tally = Tally::default();
        let rows: Vec<Entry> = (0..5_000).flat_map(|turn| tally.note(refused(turn), "192.0.2.1")).collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(tally.note(refused(6_000), "192.0.2.2").len(), 1, "another stranger is told of at once");
        assert!(tally.take(COUNTED_MS - 1, |counted| counted.is_over(COUNTED_MS - 1)).is_empty());
        let rows = tally.take(COUNTED_MS, |counted| counted.is_over(COUNTED_MS));
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        let expected = json!({"from": "192.0.2.1", "count": 5_000, "first_unix_ms": 0, "last_unix_ms": 4_999});
        assert_eq!((&row.detail, row.alarm), (&expected, true));
        assert_eq!(tally.note(refused(COUNTED_MS + 1), "192.0.2.1").len(), 1, "a new hour begins with a row");
    }

    #[test]
    fn strangers_without_number_are_a_few_rows() {
        let tally = Tally::default();
        let rows = (0..50_000).flat_map(|number| tally.note(refused(1_000), &format!("{number}"))).count();
        assert_eq!(rows, STRANGERS_MAX + 1);
        let rows = tally.take(2_000, |_| true);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].detail["count"], 49_000);
    }

    #[test]
    fn an_hour_that_nobody_ended_is_ended_by_the_next_try() {
        let tally = Tally::default();
        tally.note(refused(0), "a");
        tally.note(refused(1), "a");
        let rows = tally.note(refused(COUNTED_MS), "a");
        assert_eq!(rows.iter().map(|row| row.detail.get("count").cloned()).collect::<Vec<_>>(), [Some(json!(2)), None]);
    }
}
