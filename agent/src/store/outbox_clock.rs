//! How long events have waited, by a clock that nobody can set: the time this machine has run since it joined.
//!
//! Not by the times that events bear: a clock that jumps ahead by years would make all of them old at once, and one that
//! jumped back would keep them for ever. CLOCK_BOOTTIME only grows, suspended or not; where the machine was started anew, it
//! is added to what was counted before. What it was off is not counted: nothing happens on a host that is off, and the
//! bound of size holds at any rate. Events are known by the order of their rows: every hour there is a mark after the last.

use std::collections::VecDeque;

use agentd_sys::clock::boot_ms;
use agentd_sys::process::boot_id;
use rusqlite::{OptionalExtension, Transaction};
use serde::{Deserialize, Serialize};

use agentd_sqlite::Fault;

/// In `meta`.
const KEY: &str = "outbox_clock";
const HOUR_MS: u64 = 3_600 * 1_000;
/// 10 days of them: more than anything waits.
const MARKS_MAX: usize = 240;
/// What is counted is written down so often; the clock itself goes on between.
const KEPT_EVERY_MS: u64 = 60 * 1_000;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Clock {
    boot: String,
    boot_ms: u64,
    ran_ms: u64,
    /// Oldest first.
    marks: VecDeque<Mark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    ran_ms: u64,
    /// The last row that was there.
    row: i64,
}

impl Clock {
    fn ticked(mut self, boot: &str, boot_ms: u64) -> Self {
        // Less than before in one boot: a machine whose memory was set back. It is not to run backwards here.
        let passed = if self.boot == boot { boot_ms.saturating_sub(self.boot_ms) } else { boot_ms };
        if self.boot.is_empty() {
            // Before that nothing waited.
            self.ran_ms = 0;
        } else {
            self.ran_ms = self.ran_ms.saturating_add(passed);
        }
        (self.boot, self.boot_ms) = (boot.to_owned(), boot_ms);
        self
    }

    fn saw(mut self, row: i64) -> Self {
        if self.marks.back().is_none_or(|last| self.ran_ms - last.ran_ms >= HOUR_MS) {
            self.marks.push_back(Mark { ran_ms: self.ran_ms, row });
        }
        while self.marks.len() > MARKS_MAX {
            self.marks.pop_front();
        }
        self
    }

    /// The last row that has waited that long for certain. What came after the last mark counts from the next one.
    fn waited(&self, ms: u64) -> Option<i64> {
        let is_old = |mark: &&Mark| mark.ran_ms.saturating_add(ms) <= self.ran_ms;
        self.marks.iter().rev().find(is_old).map(|mark| mark.row)
    }
}

/// The last row that has waited that long.
pub(super) fn waited(transaction: &Transaction<'_>, ms: u64) -> Result<Option<i64>, Fault> {
    let known = read(transaction)?;
    // Without a boot id, as in a sandbox, every start of the machine looks like the same: time may be missed, not invented.
    let boot = boot_id().unwrap_or_else(|_| "unknown".to_owned());
    let last: Option<i64> = transaction.query_row("SELECT max(id) FROM outbox", [], |row| row.get(0))?;
    let ticked = known.clone().ticked(&boot, boot_ms());
    let now = last.map_or(ticked.clone(), |row| ticked.saw(row));
    let is_worth_keeping = now.boot != known.boot
        || now.ran_ms.saturating_sub(known.ran_ms) >= KEPT_EVERY_MS
        || now.marks.back() != known.marks.back();
    if is_worth_keeping {
        keep(transaction, &now)?;
    }
    Ok(now.waited(ms))
}

fn read(transaction: &Transaction<'_>) -> Result<Clock, Fault> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    let text: Option<String> = transaction.query_row(sql, [KEY], |row| row.get(0)).optional()?;
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?.unwrap_or_default())
}

fn keep(transaction: &Transaction<'_>, clock: &Clock) -> Result<(), Fault> {
    let text = serde_json::to_string(clock)?;
    transaction.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", (KEY, text))?;
    Ok(())
}

/// As if the machine had run for so long.
#[cfg(test)]
pub(super) fn pass(transaction: &Transaction<'_>, ms: u64) -> Result<(), Fault> {
    let mut clock = read(transaction)?;
    clock.ran_ms += ms;
    keep(transaction, &clock)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY_MS: u64 = 24 * HOUR_MS;

    #[test]
    fn a_machine_that_starts_anew_goes_on_counting() {
        let clock = Clock::default().ticked("one", 5 * DAY_MS).saw(7);
        assert_eq!(clock.ran_ms, 0, "what was before the first event does not count");
        let clock = clock.ticked("one", 6 * DAY_MS).ticked("two", 3 * DAY_MS);
        assert_eq!((clock.ran_ms, clock.waited(3 * DAY_MS), clock.waited(5 * DAY_MS)), (4 * DAY_MS, Some(7), None));
        // Set back with its memory.
        assert_eq!(clock.ticked("two", DAY_MS).ran_ms, 4 * DAY_MS);
    }

    proptest! {
        /// Whatever the machine goes through, no event is called older than the machine has run since it came.
        #[test]
        fn nothing_is_older_than_it_is(steps in prop::collection::vec((0_u64..3 * DAY_MS, any::<bool>()), 1..60)) {
            let (mut clock, mut truth, mut boot, mut up, mut came) = (Clock::default(), 0, 0, 0, Vec::new());
            clock = clock.ticked("0", 0);
            for (passes, restarts) in steps {
                if restarts {
                    // Seen only some time after the start.
                    (boot, up) = (boot + 1, 0);
                }
                (up, truth) = (up + passes, truth + passes);
                clock = clock.ticked(&boot.to_string(), up);
                let row = i64::try_from(came.len()).unwrap();
                came.push(truth);
                clock = clock.saw(row);
                prop_assert!(clock.ran_ms <= truth && clock.marks.len() <= MARKS_MAX);
                for limit in [DAY_MS, 7 * DAY_MS] {
                    if let Some(last) = clock.waited(limit) {
                        let youngest = came[usize::try_from(last).unwrap()];
                        prop_assert!(truth - youngest >= limit, "{last} has waited {}", truth - youngest);
                    }
                }
            }
        }
    }
}
