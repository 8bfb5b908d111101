//! Events on their way to the control server: each has a row here, written with the event itself, until the server has
//! acknowledged it. What does not fit is told by a record in its place.

use std::collections::BTreeMap;
use std::time::Duration;

use agentd_protocol::api::Severity;
use agentd_protocol::control::report::{EventRecord, GAP_KIND};
use agentd_protocol::control::{EVENT_DATA_BYTES_MAX, EVENTS_PER_REPORT_MAX};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde_json::{Value, json};
use uuid::Builder;

use agentd_sqlite::{Fault, rows, signed, unsigned};

use super::convert::plain;
use super::events::NewEvent;
use super::{Error, Store, outbox_clock};

/// Of a host that is offline, bytes on its disk; some 200,000 events.
pub const OUTBOX_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What has waited longer helps nobody any more.
pub const OUTBOX_MS_MAX: u64 = 7 * 24 * 3_600 * 1_000;
/// A text for people, bytes.
const TEXT_BYTES_MAX: usize = 2 * 1024;
/// When it is full a tenth is folded away at once: one record for many, not one for each.
const ROOM_PARTS: u64 = 10;
/// Severity of a row that stands for others: never folded away for want of room.
const GAP: u8 = 3;
const CUT: &str = " [cut]";

/// An event that waits; its number is given when it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub row: i64,
    pub record: EventRecord,
}

/// Events that are gone, as people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub count: u64,
    pub from_unix_ms: u64,
    pub to_unix_ms: u64,
    pub reason: &'static str,
}

impl Store {
    /// The oldest, as many as fit one report.
    pub async fn outbox_batch(&self, records_max: usize, bytes_max: usize) -> Result<Vec<Waiting>, Error> {
        self.read("read what waits for the control server", move |connection| {
            let limit = i64::try_from(records_max.min(EVENTS_PER_REPORT_MAX)).unwrap_or(1);
            let read = |row: &Row<'_>| {
                let text: String = plain(row, "record")?;
                Ok((Waiting { row: plain(row, "id")?, record: serde_json::from_str(&text)? }, text.len()))
            };
            let found = rows(connection, "SELECT id, record FROM outbox ORDER BY id LIMIT ?1", [limit], read)?;
            let mut bytes = 0;
            // One that is too large by itself goes alone.
            let fits = |(index, (_, length)): &(usize, (Waiting, usize))| {
                bytes += length + ROW_SLACK_BYTES;
                bytes <= bytes_max || *index == 0
            };
            Ok(found.into_iter().enumerate().take_while(fits).map(|(_, (waiting, _))| waiting).collect())
        })
        .await
    }

    /// They are on the server's disk.
    pub async fn outbox_acknowledged(&self, rows: Vec<i64>) -> Result<(), Error> {
        self.write("drop what the control server has", move |transaction| {
            let mut statement = transaction.prepare_cached("DELETE FROM outbox WHERE id = ?1")?;
            for row in rows {
                statement.execute([row])?;
            }
            Ok(())
        })
        .await
    }

    /// Before everything that waits: the server has lost what was acknowledged.
    pub async fn outbox_prepend_gap(&self, gap: Gap) -> Result<(), Error> {
        self.write("note a gap", move |transaction| {
            let first: Option<i64> = transaction.query_row("SELECT min(id) FROM outbox", [], |row| row.get(0))?;
            put_gap(transaction, first.map(|first| first - 1), &gap)
        })
        .await
    }

    /// A record that the server will never take; it is told by one in its place.
    pub async fn outbox_give_up(&self, row: i64, reason: &'static str) -> Result<(), Error> {
        self.write("give a record up", move |transaction| {
            let at: Option<i64> = transaction
                .query_row("DELETE FROM outbox WHERE id = ?1 RETURNING at", [row], |row| row.get(0))
                .optional()?;
            let Some(at) = at else { return Ok(()) };
            let at = u64::try_from(at)?;
            transaction.execute("UPDATE control SET lost = lost + 1", [])?;
            put_gap(transaction, Some(row), &Gap { count: 1, from_unix_ms: at, to_unix_ms: at, reason })
        })
        .await
    }
}

/// `seq` of a record is at most this much longer than the zero it is kept with.
const ROW_SLACK_BYTES: usize = 20;

/// In the transaction of the event; nothing where the host is not joined.
pub(super) fn enqueue(transaction: &Transaction<'_>, event: &NewEvent) -> Result<(), Fault> {
    if is_joined(transaction)? {
        let record = record(event);
        let severity = match record.severity {
            Severity::Info => 0,
            Severity::Warn => 1,
            Severity::Error => 2,
        };
        put(transaction, None, severity, &record)?;
    }
    Ok(())
}

/// After a batch of events: folds away what is too old, or too much.
pub(super) fn keep_bounds(transaction: &Transaction<'_>, bytes_max: u64) -> Result<(), Fault> {
    let Some(bytes) = outbox_bytes(transaction)? else { return Ok(()) };
    let old = match outbox_clock::waited(transaction, OUTBOX_MS_MAX)? {
        // Few at a time: the event that has come waits for this.
        Some(last) => rows(
            transaction,
            "SELECT id, at, bytes FROM outbox WHERE severity < 3 AND id <= ?1 ORDER BY id LIMIT 4096",
            [last],
            folded,
        )?,
        None => Vec::new(),
    };
    fold(transaction, &old, "waited for 7 days")?;
    if bytes <= bytes_max {
        return Ok(());
    }
    let mut excess = bytes - (bytes_max - bytes_max / ROOM_PARTS);
    for severity in 0..GAP {
        let found =
            rows(transaction, "SELECT id, at, bytes FROM outbox WHERE severity = ?1 ORDER BY id", [severity], folded)?;
        let needed = found.iter().take_while(|row| {
            let is_needed = excess > 0;
            excess = excess.saturating_sub(row.bytes);
            is_needed
        });
        let needed: Vec<Folded> = needed.copied().collect();
        fold(transaction, &needed, "outbox full")?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Folded {
    id: i64,
    at: u64,
    bytes: u64,
}

fn folded(row: &Row<'_>) -> Result<Folded, Fault> {
    Ok(Folded { id: plain(row, "id")?, at: unsigned(row, "at")?, bytes: unsigned(row, "bytes")? })
}

fn fold(transaction: &Transaction<'_>, gone: &[Folded], reason: &'static str) -> Result<(), Fault> {
    let Some(last) = gone.last() else { return Ok(()) };
    let mut statement = transaction.prepare_cached("DELETE FROM outbox WHERE id = ?1")?;
    for row in gone {
        statement.execute([row.id])?;
    }
    let count = u64::try_from(gone.len())?;
    transaction.execute("UPDATE control SET lost = lost + ?1", [signed(count)])?;
    let times = || gone.iter().map(|row| row.at);
    let (from, to) = (times().min().unwrap_or(last.at), times().max().unwrap_or(last.at));
    put_gap(transaction, Some(last.id), &Gap { count, from_unix_ms: from, to_unix_ms: to, reason })
}

fn put_gap(transaction: &Transaction<'_>, row: Option<i64>, gap: &Gap) -> Result<(), Fault> {
    let Gap { count, from_unix_ms, to_unix_ms, reason } = gap;
    let plural = if *count == 1 { "" } else { "s" };
    let data = BTreeMap::from([
        ("count".to_owned(), json!(count)),
        ("from_unix_ms".to_owned(), json!(from_unix_ms)),
        ("to_unix_ms".to_owned(), json!(to_unix_ms)),
        ("reason".to_owned(), json!(reason)),
    ]);
    let record = EventRecord {
        eid: eid(*to_unix_ms),
        seq: 0,
        at_unix_ms: *to_unix_ms,
        kind: GAP_KIND.to_owned(),
        severity: Severity::Warn,
        service: None,
        release: None,
        instance: None,
        suppressed: 0,
        data,
        text: format!("{count} event{plural} lost ({reason})"),
    };
    put(transaction, row, GAP, &record)
}

fn put(transaction: &Transaction<'_>, row: Option<i64>, severity: u8, record: &EventRecord) -> Result<(), Fault> {
    let text = serde_json::to_string(record)?;
    transaction.execute(
        "INSERT INTO outbox (id, at, severity, record, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![row, signed(record.at_unix_ms), severity, text, i64::try_from(text.len())?],
    )?;
    Ok(())
}

fn is_joined(connection: &Connection) -> Result<bool, Fault> {
    Ok(outbox_bytes(connection)?.is_some())
}

/// `None` where the host is not joined.
fn outbox_bytes(connection: &Connection) -> Result<Option<u64>, Fault> {
    let mut statement = connection.prepare_cached("SELECT outbox_bytes FROM control")?;
    let found: Option<i64> = statement.query_row([], |row| row.get(0)).optional()?;
    Ok(found.map(u64::try_from).transpose()?)
}

fn record(event: &NewEvent) -> EventRecord {
    let what = &event.what;
    let details = serde_json::to_value(what).ok().and_then(|mut whole| whole.as_object_mut()?.remove("details"));
    let data: BTreeMap<String, Value> = match details {
        Some(Value::Object(details)) => details.into_iter().collect(),
        Some(_) | None => BTreeMap::new(),
    };
    EventRecord {
        eid: eid(event.at_unix_ms),
        seq: 0,
        at_unix_ms: event.at_unix_ms,
        kind: what.word().to_owned(),
        severity: what.severity(),
        service: event.service.clone(),
        release: event.release,
        instance: event.instance.clone(),
        suppressed: event.suppressed,
        data: bounded(data),
        text: cut(what.text(), TEXT_BYTES_MAX),
    }
}

/// Long texts are cut; where that is not enough nothing but that is said.
fn bounded(data: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let size = |data: &BTreeMap<String, Value>| serde_json::to_string(data).map_or(usize::MAX, |text| text.len());
    if size(&data) <= EVENT_DATA_BYTES_MAX {
        return data;
    }
    let shorter: BTreeMap<String, Value> = data
        .into_iter()
        .map(|(key, value)| match value {
            Value::String(text) => (key, Value::String(cut(text, TEXT_BYTES_MAX / 2))),
            other => (key, other),
        })
        .collect();
    if size(&shorter) <= EVENT_DATA_BYTES_MAX { shorter } else { BTreeMap::from([("cut".to_owned(), json!(true))]) }
}

fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max - CUT.len()));
        text.push_str(CUT);
    }
    text
}

/// UUID version 7 (RFC 9562 §5.7) with bits of the kernel's: a machine that was resumed from a snapshot of its memory
/// would draw the same again from a generator of its own.
fn eid(at_unix_ms: u64) -> String {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the kernel has random bytes once it has started");
    Builder::from_unix_timestamp_millis(Duration::from_millis(at_unix_ms).as_millis().try_into().unwrap_or(0), &random)
        .into_uuid()
        .to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use agentd_protocol::api::What;

    use super::super::convert::now_unix_ms;
    use super::super::testing::{joined_store, name, open_store};
    use super::*;

    fn event(what: What, at_unix_ms: u64) -> NewEvent {
        NewEvent {
            at_unix_ms,
            service: Some(name("api")),
            release: None,
            instance: None,
            suppressed: 0,
            shim_seq: None,
            what,
        }
    }

    fn now() -> u64 {
        u64::try_from(now_unix_ms()).unwrap()
    }

    fn info(text: &str) -> NewEvent {
        event(What::ConfigUnresolved { cause: text.to_owned() }, now())
    }

    async fn all(store: &Store) -> Vec<Waiting> {
        store.outbox_batch(usize::MAX, usize::MAX).await.unwrap()
    }

    #[tokio::test]
    async fn only_a_joined_host_keeps_events_for_a_server() {
        let (_dir, store) = open_store();
        store.record_events(vec![info("x")]).await.unwrap();
        assert_eq!(all(&store).await, []);
        let (_dir, store) = joined_store().await;
        store.record_events(vec![info("x"), event(What::ServiceStopped {}, 7)]).await.unwrap();
        let found = all(&store).await;
        // The second says that it happened in 1970: whatever clocks say, it has not waited yet.
        let kinds: Vec<&str> = found.iter().map(|one| one.record.kind.as_str()).collect();
        assert_eq!(kinds, ["config.unresolved", "service.stopped"]);
        let report = store.outbox_report().await.unwrap();
        assert_eq!((report.records, report.lost), (2, 0));
        store.outbox_acknowledged(found.iter().map(|one| one.row).collect()).await.unwrap();
        let report = store.outbox_report().await.unwrap();
        assert_eq!((report.records, report.bytes, report.lost), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_batch_is_bounded_and_goes_on_where_it_ended() {
        let (_dir, store) = joined_store().await;
        store.record_events((0..1_200).map(|n| info(&format!("{n}"))).collect()).await.unwrap();
        let mut seen = Vec::new();
        loop {
            let batch = store.outbox_batch(EVENTS_PER_REPORT_MAX, 64 * 1024).await.unwrap();
            if batch.is_empty() {
                break;
            }
            assert!(batch.len() <= EVENTS_PER_REPORT_MAX);
            seen.extend(batch.iter().map(|one| one.record.text.clone()));
            store.outbox_acknowledged(batch.iter().map(|one| one.row).collect()).await.unwrap();
        }
        assert_eq!(seen, (0..1_200).map(|n| n.to_string()).collect::<Vec<_>>());
        let huge = What::ConfigUnresolved { cause: "x".repeat(100_000) };
        store.record_events(vec![event(huge, now())]).await.unwrap();
        let batch = store.outbox_batch(EVENTS_PER_REPORT_MAX, 10).await.unwrap();
        let bytes = serde_json::to_string(&batch[0].record.data).unwrap().len();
        assert!(bytes <= EVENT_DATA_BYTES_MAX && batch[0].record.text.ends_with(CUT), "{bytes}");
    }

    #[tokio::test]
    async fn a_full_outbox_folds_what_matters_least_and_says_so() {
        let (_dir, store) = joined_store().await;
        let error = |n: u64| event(What::HostKeeperReplaced { pid: 1, before: 2 }, now() + n);
        let mut events: Vec<NewEvent> = (0..100).map(|n| event(What::ServiceStopped {}, now() + n)).collect();
        events.insert(3, error(1));
        store.record_events(events).await.unwrap();
        store.write("fold", |transaction| keep_bounds(transaction, 10_000)).await.unwrap();
        let found = all(&store).await;
        let report = store.outbox_report().await.unwrap();
        assert!(report.bytes <= 10_000 && report.lost > 0, "{report:?}");
        assert!(found.iter().any(|one| one.record.kind == "host.keeper-replaced"));
        let gaps: Vec<&Waiting> = found.iter().filter(|one| one.record.kind == GAP_KIND).collect();
        assert_eq!((gaps.len(), &gaps[0].record.data["count"]), (1, &json!(report.lost)));
        assert_eq!(u64::try_from(found.len()).unwrap() + report.lost, 102);
        let ids: BTreeSet<&str> = found.iter().map(|one| one.record.eid.as_str()).collect();
        assert_eq!(ids.len(), found.len());
    }

    #[tokio::test]
    async fn what_has_waited_too_long_is_folded_and_told() {
        let (_dir, store) = joined_store().await;
        store.record_events(vec![info("a"), info("b")]).await.unwrap();
        store.write("wait", |transaction| outbox_clock::pass(transaction, OUTBOX_MS_MAX / 2)).await.unwrap();
        store.record_events(vec![info("c")]).await.unwrap();
        assert_eq!(all(&store).await.len(), 3);
        store.write("wait", |transaction| outbox_clock::pass(transaction, OUTBOX_MS_MAX * 2 / 3)).await.unwrap();
        store.record_events(vec![info("d")]).await.unwrap();
        let texts: Vec<String> = all(&store).await.into_iter().map(|one| one.record.text).collect();
        assert_eq!(texts, ["2 events lost (waited for 7 days)", "c", "d"]);
        assert_eq!(store.outbox_report().await.unwrap().lost, 2);
    }

    #[tokio::test]
    async fn gaps_stand_where_the_events_were() {
        let (_dir, store) = joined_store().await;
        store.record_events(vec![info("a"), info("b")]).await.unwrap();
        store
            .outbox_prepend_gap(Gap { count: 3, from_unix_ms: 1, to_unix_ms: 2, reason: "server lost them" })
            .await
            .unwrap();
        let second = all(&store).await[2].row;
        store.outbox_give_up(second, "too large").await.unwrap();
        let texts: Vec<String> = all(&store).await.into_iter().map(|one| one.record.text).collect();
        assert_eq!(texts, ["3 events lost (server lost them)", "a", "1 event lost (too large)"]);
    }
}
