//! `POST /v1/report`: how a host does, what happened there, and what it has seen; held until there is news.
//!
//! Repeating one is harmless: snapshots are ordered by `(boot, seq)`, events are known by `eid`, and an answer of 200
//! acknowledges the events of that request, no others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::enroll::Pace;
use super::time::Time;
use crate::api::{Host, SecurityBrief, ServiceState, Severity, StackStatus, TunnelStatus};
use crate::digest::Digest;
use crate::ids::{Commit, InstanceId, ReleaseNumber, ServiceName, Version};

/// Seconds between full snapshots, at most, though nothing changed.
pub const FULL_SNAPSHOT_SECS_MAX: u64 = 300;
/// `kind` of a record that stands for events that were lost, and of nothing else.
pub const GAP_KIND: &str = "outbox.gap";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Random, 128 bits in hexadecimal: the same report sent again has the same.
    pub rid: String,
    /// Grows with every start of the agent.
    pub boot: u64,
    /// Grows with every report of a boot.
    pub seq: u64,
    pub cap: u32,
    pub time: Time,
    /// The same as when it enrolled; another one is another machine with a copy of the key.
    pub machine: Digest,
    pub head: Seen,
    /// SHA-256 of the snapshot's bytes as last sent.
    pub digest: Digest,
    /// Absent while nothing changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// Random, new at every start of the agent: the sequence the events' numbers belong to.
    pub stream: String,
    /// Of one stream, oldest first, without holes.
    #[serde(default)]
    pub events: Vec<EventRecord>,
}

/// What a host knows of its stack's versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub root: u64,
    pub epoch: u64,
    /// Newest version that was verified; 0: none.
    pub seen: Version,
    /// Version last applied in full; 0: none.
    pub applied: Version,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub host: HostReport,
    pub stack: StackStatus,
    pub services: Vec<ServiceReport>,
    pub outbox: OutboxReport,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostReport {
    /// The agent's version.
    pub agent: String,
    pub os: String,
    pub arch: String,
    pub agent_started_unix_ms: u64,
    /// As the kernel has it; `None`: not looked yet.
    pub security: Option<SecurityBrief>,
    pub tunnel: Option<TunnelStatus>,
    pub dns: DnsReport,
    pub usage: Option<Host>,
    /// What this host cannot do, each with its reason.
    pub limitations: Vec<String>,
    /// Why the newest version is not applied, where policy or trust forbids it: the event's word and its reason.
    pub refused: Option<Refusal>,
    /// Server's clock less the host's, as last measured.
    pub clock_skew_ms: i64,
}

/// A version that a host will not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub version: Option<Version>,
    /// `config.rejected` or `trust.violation`.
    pub kind: String,
    /// Each a sentence for the operator.
    pub reasons: Vec<String>,
    pub since_unix_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsReport {
    pub address: Option<std::net::SocketAddr>,
    pub suffix: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    pub name: ServiceName,
    pub state: ServiceState,
    pub release: Option<ReleaseNumber>,
    pub commit: Option<Commit>,
    pub pinned: Option<ReleaseNumber>,
    pub ready: u32,
    pub wanted: u32,
    pub restarts: u32,
    pub since_unix_ms: u64,
    pub url: Option<String>,
    pub cpu_millicores: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub last_error: Option<String>,
    pub last_error_unix_ms: Option<u64>,
    pub warnings: Vec<String>,
}

/// What waits on the host, and what was lost there for want of room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxReport {
    pub records: u64,
    pub bytes: u64,
    /// Since the host joined.
    pub lost: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// UUID version 7; the same event keeps it for ever.
    pub eid: String,
    /// Within the stream, from 1, without holes.
    pub seq: u64,
    /// When it happened, Unix time by the host's clock.
    pub at_unix_ms: u64,
    /// A word of docs/events.md, [`GAP_KIND`], or one of a later version.
    pub kind: String,
    pub severity: Severity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseNumber>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suppressed: u64,
    #[serde(default)]
    pub data: BTreeMap<String, Value>,
    pub text: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// 200
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// A hint, never believed: it says that looking at head.json may be worth it.
    pub head: HeadHint,
    /// The next report is to carry a whole snapshot.
    #[serde(default)]
    pub full: bool,
    pub next: Pace,
    pub time: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadHint {
    pub root: u64,
    pub epoch: u64,
    /// 0: nothing was published yet.
    pub version: Version,
}
