//! Numbers of the events that are sent (pure): of one stream, in order, without holes.

use std::collections::BTreeMap;

use agentd_protocol::control::report::EventRecord;

use super::random_hex;
use crate::store::Waiting;

/// What the server knows events by beside their ids; begun anew at every start, and whenever numbers would not follow.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: String,
    next: u64,
    /// The last that was acknowledged.
    acknowledged: u64,
    /// By row: a record that is sent again has the number it had.
    given: BTreeMap<i64, u64>,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self { id: random_hex(), next: 1, acknowledged: 0, given: BTreeMap::new() }
    }

    /// With their numbers. Rows that vanished, or came between others, begin a stream.
    pub(super) fn number(&mut self, rows: &[Waiting]) -> Vec<EventRecord> {
        let mut numbers = self.give(rows);
        let follows = |numbers: &[u64], first: u64| numbers.iter().zip(first..).all(|(number, due)| *number == due);
        if !follows(&numbers, self.acknowledged + 1) {
            *self = Self::new();
            numbers = self.give(rows);
        }
        rows.iter().zip(numbers).map(|(row, seq)| EventRecord { seq, ..row.record.clone() }).collect()
    }

    fn give(&mut self, rows: &[Waiting]) -> Vec<u64> {
        let number = |row: &Waiting| {
            *self.given.entry(row.row).or_insert_with(|| {
                self.next += 1;
                self.next - 1
            })
        };
        rows.iter().map(number).collect()
    }

    pub(super) fn acknowledged(&mut self, rows: &[i64]) {
        for row in rows {
            if let Some(number) = self.given.remove(row) {
                self.acknowledged = self.acknowledged.max(number);
            }
        }
    }

    /// How many of the acknowledged the server has lost, by the number it expects.
    pub(super) fn lost(&self, expected: u64) -> u64 {
        (self.acknowledged + 1).saturating_sub(expected.max(1))
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::api::Severity;

    use super::*;

    fn row(row: i64) -> Waiting {
        let record = EventRecord {
            eid: format!("e{row}"),
            seq: 0,
            at_unix_ms: 1,
            kind: "host.stop".into(),
            severity: Severity::Info,
            service: None,
            release: None,
            instance: None,
            suppressed: 0,
            data: BTreeMap::new(),
            text: String::new(),
        };
        Waiting { row, record }
    }

    fn numbers(stream: &mut Stream, rows: &[i64]) -> Vec<u64> {
        let rows: Vec<Waiting> = rows.iter().copied().map(row).collect();
        stream.number(&rows).iter().map(|record| record.seq).collect()
    }

    #[test]
    fn what_is_sent_again_keeps_its_number() {
        let mut stream = Stream::new();
        let id = stream.id.clone();
        assert_eq!(numbers(&mut stream, &[4, 5]), [1, 2]);
        assert_eq!(numbers(&mut stream, &[4, 5, 9]), [1, 2, 3]);
        stream.acknowledged(&[4, 5]);
        assert_eq!(numbers(&mut stream, &[9, 10]), [3, 4]);
        assert_eq!((stream.id == id, stream.lost(1), stream.lost(3)), (true, 2, 0));
        assert_eq!((stream.lost(0), stream.lost(u64::MAX)), (2, 0));
    }

    #[test]
    fn holes_and_insertions_begin_a_stream() {
        for rows in [&[5, 9][..], &[3, 4, 5, 9], &[4, 6, 5]] {
            let mut stream = Stream::new();
            let id = stream.id.clone();
            assert_eq!(numbers(&mut stream, &[4, 5, 9]), [1, 2, 3]);
            let again: Vec<u64> = (1..).take(rows.len()).collect();
            assert_eq!(numbers(&mut stream, rows), again, "{rows:?}");
            assert_ne!(stream.id, id);
        }
    }
}
