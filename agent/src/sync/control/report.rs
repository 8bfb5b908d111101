//! One report: what is sent, and what of it was sent last.

use std::time::Duration;

use agentd_protocol::control::CAPABILITY;
use agentd_protocol::control::report::{EventRecord, FULL_SNAPSHOT_SECS_MAX, Report, Seen, Snapshot};
use agentd_protocol::control::time::Time;
use agentd_protocol::digest::Digest;
use tokio::time::Instant;

use super::snapshot::shape;
use super::{random_hex, unix_secs};

/// What the server has of the host, by its acknowledgements.
#[derive(Debug)]
pub(super) struct Told {
    digest: Digest,
    shape: Option<Snapshot>,
    at: Option<Instant>,
}

/// What of [`Told`] a report changes once it is taken.
#[derive(Debug, Clone)]
pub(super) struct Telling {
    digest: Digest,
    shape: Snapshot,
}

impl Told {
    pub(super) fn new() -> Self {
        Self { digest: Digest::of(b""), shape: None, at: None }
    }

    /// The next report carries a whole snapshot.
    pub(super) fn forget(&mut self) {
        self.shape = None;
    }

    pub(super) fn differs(&self, now: &Snapshot) -> bool {
        self.shape.as_ref() != Some(&shape(now))
    }

    pub(super) fn is_old(&self, now: Instant) -> bool {
        let limit = Duration::from_secs(FULL_SNAPSHOT_SECS_MAX * 9 / 10);
        self.at.is_none_or(|at| now.duration_since(at) >= limit)
    }

    pub(super) fn note(&mut self, telling: Telling, now: Instant) {
        *self = Self { digest: telling.digest, shape: Some(telling.shape), at: Some(now) };
    }
}

/// What identifies the sender.
#[derive(Debug, Clone)]
pub(super) struct From {
    pub(super) boot: u64,
    pub(super) seq: u64,
    pub(super) machine: Digest,
    pub(super) stream: String,
}

pub(super) fn report(
    from: From,
    head: Seen,
    snapshot: Option<Snapshot>,
    events: Vec<EventRecord>,
    told: &Told,
) -> (Report, Option<Telling>) {
    let telling = snapshot.as_ref().map(|snapshot| {
        let bytes = serde_json::to_vec(snapshot).expect("a snapshot is plain JSON");
        Telling { digest: Digest::of(&bytes), shape: shape(snapshot) }
    });
    let report = Report {
        rid: random_hex(),
        boot: from.boot,
        seq: from.seq,
        cap: CAPABILITY,
        time: Time::from_unix_secs(i64::try_from(unix_secs()).unwrap_or(i64::MAX)),
        machine: from.machine,
        head,
        digest: telling.as_ref().map_or(told.digest, |telling| telling.digest),
        snapshot,
        stream: from.stream,
        events,
    };
    (report, telling)
}
