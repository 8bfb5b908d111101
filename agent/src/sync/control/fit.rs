//! How much a report carries (pure): less after one that was too large for the server, or for a proxy before it.
//!
//! What was too large is not known, only that all of it together was. So it is taken apart: fewer events, the snapshot and
//! the last event each alone, the snapshot with less. An event is given up only when one that carries nothing was taken
//! just before: a proxy that refuses everything loses none.

use std::time::Duration;

use agentd_protocol::control::{EVENTS_BYTES_MAX, EVENTS_PER_REPORT_MAX};
use tokio::time::Instant;

use super::snapshot::Detail;

/// Until the whole snapshot is tried again: what made it large may be over, or somebody has mended the proxy.
const FULLER_AFTER: Duration = Duration::from_secs(3_600);

/// What a report carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) records: usize,
    pub(super) snapshot: bool,
}

impl Sent {
    pub(super) fn is_nothing(self) -> bool {
        self.records == 0 && !self.snapshot
    }
}

/// What the next report may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carry {
    All,
    Snapshot,
    /// `proven`: a report that carried nothing was taken just before.
    Events {
        proven: bool,
    },
    Nothing,
}

/// How much of the snapshot, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Full,
    Less(Detail, Instant),
    Nothing(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    records_max: usize,
    bytes_max: usize,
    carry: Carry,
    shown: Shown,
}

/// What a report that was too large leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooLarge {
    /// The next one is smaller.
    Smaller,
    /// The first event is what is too large.
    GiveUp,
    /// Size is not what the server minds.
    Anything,
}

impl Fit {
    pub(super) const FULL: Self =
        Self { records_max: EVENTS_PER_REPORT_MAX, bytes_max: EVENTS_BYTES_MAX, carry: Carry::All, shown: Shown::Full };

    /// Records and bytes at most; `None`: none go with the next report.
    pub(super) fn events(&self) -> Option<(usize, usize)> {
        match self.carry {
            Carry::All | Carry::Events { .. } => Some((self.records_max, self.bytes_max)),
            Carry::Snapshot | Carry::Nothing => None,
        }
    }

    pub(super) fn takes_snapshot(&self) -> bool {
        matches!(self.carry, Carry::All | Carry::Snapshot) && !matches!(self.shown, Shown::Nothing(_))
    }

    /// The next report says all that there is to say.
    pub(super) fn is_whole(&self) -> bool {
        self.carry == Carry::All
    }

    /// How much of the snapshot is shown now.
    pub(super) fn detail(&mut self, now: Instant) -> Detail {
        match self.shown {
            Shown::Less(_, since) | Shown::Nothing(since) if now.duration_since(since) >= FULLER_AFTER => {
                self.shown = Shown::Full;
                Detail::Full
            }
            Shown::Full => Detail::Full,
            Shown::Less(detail, _) => detail,
            Shown::Nothing(_) => Detail::Bare,
        }
    }

    pub(super) fn too_large(self, sent: Sent, now: Instant) -> (Self, TooLarge) {
        let next = match (sent.records, sent.snapshot) {
            (2.., _) => Self { records_max: sent.records / 2, bytes_max: (self.bytes_max / 2).max(1), ..self },
            (1, true) => Self { carry: Carry::Snapshot, records_max: 1, ..self },
            (0, true) => Self { shown: self.shown.less(now), carry: Carry::Snapshot, ..self },
            (1, false) if self.carry == (Carry::Events { proven: true }) => {
                return (Self { carry: Carry::Events { proven: false }, ..self }, TooLarge::GiveUp);
            }
            (1, false) => Self { carry: Carry::Nothing, records_max: 1, ..self },
            (0, false) => return (Self { carry: Carry::Nothing, ..self }, TooLarge::Anything),
        };
        (next, TooLarge::Smaller)
    }

    pub(super) fn taken(self, sent: Sent) -> Self {
        let carry = match self.carry {
            // Not all at once: a host whose snapshot changes all the time would never get to its events.
            Carry::Snapshot => Carry::Events { proven: false },
            Carry::Nothing => Carry::Events { proven: true },
            Carry::All | Carry::Events { .. } => Carry::All,
        };
        if sent.records == 0 {
            return Self { carry, ..self };
        }
        let records_max = self.records_max.saturating_mul(2).min(EVENTS_PER_REPORT_MAX);
        let bytes_max = self.bytes_max.saturating_mul(2).min(EVENTS_BYTES_MAX);
        Self { records_max, bytes_max, carry, ..self }
    }
}

impl Shown {
    fn less(self, now: Instant) -> Self {
        match self {
            Self::Full => Self::Less(Detail::NoLogs, now),
            Self::Less(Detail::Full | Detail::NoLogs, _) => Self::Less(Detail::Bare, now),
            Self::Less(Detail::Bare, _) | Self::Nothing(_) => Self::Nothing(now),
        }
    }
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
