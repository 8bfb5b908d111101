//! What a report says of the host (pure): the manager's status, within bounds.

use agentd_protocol::api::{Problem, ServiceStatus, StackStatus, Status};
use agentd_protocol::control::report::{DnsReport, HostReport, OutboxReport, Refusal, ServiceReport, Snapshot};
use agentd_protocol::control::{EVENTS_BYTES_MAX, REPORT_BYTES_MAX};

/// A text for people, bytes; where all of them together are too many, this much of each.
const TEXT_BYTES_MAX: usize = 2 * 1024;
const SHORT_BYTES_MAX: usize = 160;
const PROBLEMS_MAX: usize = 50;
const PROBES_MAX: usize = 10;
const LOG_LINES_MAX: usize = 20;
const LOG_LINE_BYTES_MAX: usize = 500;
const WARNINGS_MAX: usize = 5;
const LIMITATIONS_MAX: usize = 50;
/// Leaves room for events and the rest of a report.
const SNAPSHOT_BYTES_MAX: usize = REPORT_BYTES_MAX - 2 * EVENTS_BYTES_MAX;
const CUT: &str = " [cut]";

/// What the host knows beside its status.
#[derive(Debug, Clone, Default)]
pub(super) struct Beside {
    pub(super) refused: Option<Refusal>,
    pub(super) outbox: OutboxReport,
    pub(super) clock_skew_ms: i64,
}

/// How much of the texts goes with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    Full,
    /// Without log lines and probes.
    NoLogs,
    /// And with texts cut short.
    Bare,
}

pub(super) fn snapshot(status: &Status, beside: &Beside, detail: Detail) -> Snapshot {
    let mut found = match detail {
        Detail::Full | Detail::NoLogs => of(status, beside, TEXT_BYTES_MAX),
        Detail::Bare => of(status, beside, SHORT_BYTES_MAX),
    };
    let length = serde_json::to_string(&found).map_or(usize::MAX, |text| text.len());
    if length > SNAPSHOT_BYTES_MAX {
        found = of(status, beside, SHORT_BYTES_MAX);
    }
    if detail != Detail::Full {
        for problem in &mut found.stack.problems {
            (problem.probes, problem.log_tail) = (Vec::new(), Vec::new());
        }
    }
    found
}

/// The same without what changes by itself: a report that differs in nothing else can wait.
pub(super) fn shape(snapshot: &Snapshot) -> Snapshot {
    let mut shape = snapshot.clone();
    (shape.host.usage, shape.host.clock_skew_ms, shape.outbox) = (None, 0, OutboxReport::default());
    if let Some(security) = &mut shape.host.security {
        // Tells how long a trial has yet.
        security.notice = security.notice.as_ref().map(|_| String::new());
    }
    for service in &mut shape.services {
        (service.cpu_millicores, service.memory_bytes) = (None, None);
    }
    for problem in &mut shape.stack.problems {
        problem.probes.clear();
    }
    shape
}

fn of(status: &Status, beside: &Beside, text_max: usize) -> Snapshot {
    let cut = |text: &String| cut(text, text_max);
    Snapshot {
        host: HostReport {
            agent: status.agent.version.clone(),
            os: os(),
            arch: std::env::consts::ARCH.to_owned(),
            agent_started_unix_ms: status.agent.started_unix_ms,
            security: status.security.clone(),
            tunnel: status.tunnel.clone(),
            dns: DnsReport { address: status.edge.dns, suffix: status.edge.suffix.clone() },
            usage: status.host.clone(),
            limitations: status.limitations.iter().take(LIMITATIONS_MAX).map(cut).collect(),
            refused: beside
                .refused
                .as_ref()
                .map(|refusal| Refusal { reasons: refusal.reasons.iter().map(cut).collect(), ..refusal.clone() }),
            clock_skew_ms: beside.clock_skew_ms,
        },
        stack: StackStatus {
            file_problem: status.stack.file_problem.as_ref().map(cut),
            problems: status.stack.problems.iter().take(PROBLEMS_MAX).map(|one| problem(one, text_max)).collect(),
            ..status.stack.clone()
        },
        services: status.services.iter().map(|one| service(one, text_max)).collect(),
        outbox: beside.outbox,
    }
}

fn problem(found: &Problem, text_max: usize) -> Problem {
    let last = |count: usize, max: usize| count.saturating_sub(max);
    Problem {
        cause: cut(&found.cause, text_max),
        probes: found.probes[last(found.probes.len(), PROBES_MAX)..].to_vec(),
        log_tail: found.log_tail[last(found.log_tail.len(), LOG_LINES_MAX)..]
            .iter()
            .map(|line| cut(line, LOG_LINE_BYTES_MAX.min(text_max)))
            .collect(),
        ..found.clone()
    }
}

fn service(found: &ServiceStatus, text_max: usize) -> ServiceReport {
    let cut = |text: &String| cut(text, text_max);
    ServiceReport {
        name: found.name.clone(),
        state: found.state,
        release: found.release,
        commit: found.commit.clone(),
        pinned: found.pinned,
        ready: found.ready,
        wanted: found.wanted,
        restarts: found.restarts,
        since_unix_ms: found.since_unix_ms,
        url: found.url.as_ref().map(cut),
        cpu_millicores: found.cpu_millicores,
        memory_bytes: found.memory_bytes,
        last_error: found.last_error.as_ref().map(cut),
        last_error_unix_ms: found.last_error_unix_ms,
        warnings: found.warnings.iter().take(WARNINGS_MAX).map(cut).collect(),
    }
}

fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    format!("{}{CUT}", &text[..text.floor_char_boundary(bytes_max - CUT.len())])
}

/// As the machine calls itself (os-release(5)): `debian 13`.
pub(super) fn os() -> String {
    static OS: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    OS.get_or_init(|| {
        let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
            Some(line.trim_matches(['"', '\'']).chars().take(40).collect::<String>())
        };
        let parts: Vec<String> = [value("ID"), value("VERSION_ID")].into_iter().flatten().collect();
        if parts.is_empty() { "linux".to_owned() } else { parts.join(" ") }
    })
    .clone()
}
