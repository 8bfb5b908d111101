//! The local API: HTTP/1.1 with JSON over the Unix socket `<run>/agentd.sock`. Root and the manager's own uid may call
//! (SO_PEERCRED). Errors are [`Failure`] with a fitting HTTP status.
//!
//! | method and path | answer |
//! |---|---|
//! | GET /v1/status | [`Status`] |
//! | GET /v1/plan | [`Plan`]: what applying the newest document would do |
//! | POST /v1/plan with a [`crate::stack::Stack`] | [`Plan`] of a document that is not in force |
//! | GET /v1/services/NAME/logs?... | [`LogRecord`]s, one a line, for a [`LogQuery`] |
//! | POST /v1/services/NAME/stop, start, restart | [`Accepted`], when it has been done or has failed |
//! | POST /v1/services/NAME/rollback?release=N | [`Accepted`] |
//! | POST /v1/services/NAME/unpin | [`Accepted`] |
//! | POST /v1/services/NAME/prune | [`Accepted`]: removes the data of a service that left the document |
//! | GET /v1/services/NAME/releases | [`Releases`] |
//! | POST /v1/refs with [`RefQuestions`] | [`RefAnswers`]: what branches and tags point at now |
//! | GET /v1/routes | [`Routes`]: the table by which the edge routes |
//! | GET /v1/events?after=ID&limit=N&service=NAME&since=UNIX_MS&follow=1 | [`Event`]s, one a line, oldest first |
//! | GET /v1/security | [`SecurityStatus`] |
//! | POST /v1/security/plan with a [`SecurityOrder`] | [`SecurityPlan`] |
//! | POST /v1/security/apply with a [`SecurityOrder`] | [`SecurityDone`]: a trial that is to be confirmed |
//! | POST /v1/security/confirm with a [`SecurityConfirm`] | [`SecurityDone`] |
//! | POST /v1/security/revert | [`SecurityDone`] |
//! | POST /v1/security/open with a [`SecurityOpen`] | [`Accepted`]: SSH for a while |
//! | POST /v1/security/selftest | [`Selftest`] |
//! | POST /v1/git-keys/NAME | [`GitKey`]: a new deploy key |
//! | POST /v1/down | [`Accepted`]: everything stops, keeper included, then the manager ends |

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{Commit, Generation, Incarnation, InstanceId, ReleaseNumber, ServiceName, Version};

mod control;
mod events;
mod logs;
mod refs;
mod releases;
mod routes;
mod security;
mod tunnel;
mod usage;
mod why;

pub use control::{ControlLink, ControlStatus, Readoption};
pub use events::{
    EVENTS_DEFAULT, EVENTS_MAX, Event, KEEP_ALIVE_SECS, KINDS, Kind, NEWEST_EVENT_HEADER, Severity, What,
};
pub use logs::{LogLine, LogQuery, LogRecord, LogSource, LogStream, NDJSON};
pub use refs::{REFS_MAX, RefAnswer, RefAnswers, RefQuestion, RefQuestions};
pub use releases::{ReleaseState, ReleaseStatus, Releases};
pub use routes::{Force, RoutedInstance, RoutedService, Routes};
pub use security::{
    Awaiting, Check, CheckName, Colour, Drops, NETWORKS_MAX, OPEN_MAX_MS, OpenSsh, Origin, SecurityBrief,
    SecurityConfirm, SecurityDone, SecurityOpen, SecurityOrder, SecurityPlan, SecurityStatus, Selftest, SshSession,
    TrialStatus, WINDOW_DEFAULT_MS, WINDOW_MAX_MS, WINDOW_MIN_MS,
};
pub use tunnel::{TunnelState, TunnelStatus};
pub use usage::Host;
pub use why::{Changes, ProgramExit, Why};

pub const API_SOCKET: &str = "agentd.sock";
/// Beside the socket: the last [`Status`] without what changes by itself (usage, host), for those who cannot ask.
pub const STATUS_FILE: &str = "status.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A sentence for the operator: what failed and what to do next.
    pub error: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    pub message: String,
}

/// A deploy key made on this host; its private half never leaves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitKey {
    /// One line as OpenSSH has it.
    pub public: String,
    /// Where the private half lies.
    pub private_file: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// When this was true. What lies in [`STATUS_FILE`] of an agent that has ended is the last it knew.
    pub at_unix_ms: u64,
    pub agent: Agent,
    pub stack: StackStatus,
    pub edge: Edge,
    pub services: Vec<ServiceStatus>,
    /// What this host cannot do, each with its reason and cure; said here, at start and by doctor.
    pub limitations: Vec<String>,
    /// `None` where agentd.toml names none.
    #[serde(default)]
    pub tunnel: Option<TunnelStatus>,
    /// `None` where the host has not joined a control server.
    #[serde(default)]
    pub control: Option<ControlStatus>,
    /// Only where somebody asked.
    pub host: Option<Host>,
    /// Only where somebody asked.
    #[serde(default)]
    pub security: Option<SecurityBrief>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    pub version: String,
    pub pid: u32,
    pub keeper_pid: Option<u32>,
    pub home: String,
    /// Unix time, ms.
    pub started_unix_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// No document has ever been applied.
    Empty,
    Applying,
    /// Everything is as the document wants it.
    Applied,
    /// Something is not; `problems` says what. What worked before still serves.
    Degraded,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackStatus {
    pub name: Option<ServiceName>,
    pub verdict: Verdict,
    /// `None` where nobody can know, as when the proxy is away.
    pub since_unix_ms: Option<u64>,
    /// Newest version known, and the one last applied in full.
    pub version: Option<Version>,
    pub applied_version: Option<Version>,
    /// Why the file cannot be used now; the last good version stays in force.
    pub file_problem: Option<String>,
    pub problems: Vec<Problem>,
}

/// One thing that keeps the stack from being `applied`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub service: Option<ServiceName>,
    pub phase: DeployPhase,
    /// What failed, in a sentence, exit cause included.
    pub cause: String,
    pub commit: Option<Commit>,
    pub release: Option<ReleaseNumber>,
    /// The last probes, oldest first.
    pub probes: Vec<Probe>,
    /// The last log lines, oldest first.
    pub log_tail: Vec<String>,
    #[serde(default)]
    pub why: Why,
    pub since_unix_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeployPhase {
    Document,
    Fetch,
    Build,
    Start,
    Health,
    Route,
    Drain,
    Run,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub at_unix_ms: u64,
    pub latency_ms: u64,
    pub outcome: ProbeOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeOutcome {
    Passed {
        status: Option<u16>,
    },
    /// An answer outside 200-399.
    Status {
        status: u16,
    },
    Refused,
    TimedOut,
    /// Anything else, in words.
    Failed {
        error: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    pub pid: Option<u32>,
    pub generation: Option<Generation>,
    pub external: Option<SocketAddr>,
    /// Where services reach each other by name, whatever the path.
    pub internal: Option<SocketAddr>,
    /// Where names are resolved, UDP and TCP.
    pub dns: Option<SocketAddr>,
    /// A service is `<name>.<suffix>` from within.
    pub suffix: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Waiting for its turn or for its first release.
    Pending,
    Fetching,
    Building,
    Starting,
    /// Ready and routed as wanted.
    Ready,
    /// Some wanted instances are not ready.
    Partial,
    /// None is ready.
    Failing,
    CrashLoop,
    Stopped,
    Stopping,
    /// Left the document; its data is kept until it is pruned.
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: ServiceName,
    pub state: ServiceState,
    /// The release that is served.
    pub release: Option<ReleaseNumber>,
    pub commit: Option<Commit>,
    /// Set by a rollback until its entry changes or it is unpinned.
    pub pinned: Option<ReleaseNumber>,
    pub ready: u32,
    pub wanted: u32,
    /// Restarts nobody asked for since the release that is served first started: crashes and failed health checks, also
    /// of instances that are gone and of times without a manager. A deploy begins anew, a rollback takes up the count
    /// of the release it goes back to.
    pub restarts: u32,
    /// For callers outside, through the proxy.
    pub url: Option<String>,
    /// For services of this host, by name. `None` for what takes no requests.
    pub internal_url: Option<String>,
    /// Since when it is in this state.
    pub since_unix_ms: u64,
    /// What is wrong now; a crash that a restart has healed is told by `restarts` and the instance's last exit.
    pub last_error: Option<String>,
    /// When that began.
    pub last_error_unix_ms: Option<u64>,
    /// CPU of all processes of all instances, in thousandths of one CPU. Only where somebody asked.
    pub cpu_millicores: Option<u32>,
    /// Memory of the same processes that is in RAM; pages that several of them share count for each.
    pub memory_bytes: Option<u64>,
    /// What the operator should know though it is no failure (`run.public-bind`, ...).
    pub warnings: Vec<String>,
    pub instances: Vec<InstanceStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub id: InstanceId,
    pub release: ReleaseNumber,
    pub incarnation: Incarnation,
    pub phase: String,
    pub pid: Option<u32>,
    pub shim_pid: Option<u32>,
    pub port: Option<u16>,
    pub ready: bool,
    /// When the program that runs was started.
    pub started_unix_ms: Option<u64>,
    /// Starts of this instance that nobody asked for.
    pub restarts: u32,
    pub last_exit: Option<String>,
    pub last_exit_unix_ms: Option<u64>,
    pub cpu_millicores: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub log_dir: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub version: Option<Version>,
    /// Removals first, then changes, then additions; empty when there is nothing to do.
    pub steps: Vec<PlanStep>,
    /// What the operator should know before: variables of the user that override injected ones, downtime, ...
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    pub service: ServiceName,
    pub act: PlanAct,
    /// In a sentence: what changes and why.
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanAct {
    Remove,
    Stop,
    /// New commit or new build command: fetch, build, replace.
    Build,
    /// Same build, other settings: replace without building.
    Replace,
    Scale,
    Route,
    Add,
    Start,
}
