//! What several pages show, made ready for their templates.

use agentd_protocol::api::{DeployPhase, ProbeOutcome, Problem, ProgramExit};
use agentd_protocol::control::report::Refusal;

use super::super::status::{self, Status};
use super::super::text::{self, Moment};
use crate::model::{Change, Diff, EventRow, HostRow, KeyChange, Presence, Rollout, Standing, VersionKind, VersionRow};

/// Of one list inside a page: a flood must not make it unreadable.
const LIST_MAX: usize = 50;

#[derive(Debug)]
pub(crate) struct LastChange {
    pub(crate) version: u64,
    /// `deploy`, `rollback to 57`
    pub(crate) kind: String,
    pub(crate) by: String,
    pub(crate) at: Moment,
    pub(crate) reason: String,
    pub(crate) summary: Vec<String>,
    pub(crate) sha256: String,
}

impl LastChange {
    pub(crate) fn of(row: &VersionRow, now_ms: u64) -> Self {
        Self {
            version: row.number.0,
            kind: match row.note {
                VersionKind::Deploy => "deploy".to_owned(),
                VersionKind::Rollback { of } => format!("rollback to {of}"),
            },
            by: person(&row.by),
            at: Moment::relative(row.created_unix_ms, now_ms),
            reason: text::sentence(&row.reason),
            summary: row.summary.iter().take(LIST_MAX).map(|line| text::sentence(line)).collect(),
            sha256: row.sha256.to_string(),
        }
    }
}

/// A person is called by the name alone; programs and the machine keep their kind.
pub(crate) fn person(actor: &str) -> String {
    text::word(actor.strip_prefix("user ").unwrap_or(actor))
}

#[derive(Debug)]
pub(crate) struct HostLine {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) stack: String,
    pub(crate) stack_name: String,
    pub(crate) status: Status,
    /// When it last said something; `None`: never.
    pub(crate) heard: Option<Moment>,
    pub(crate) silent: bool,
    /// The code a host that asks to join shows.
    pub(crate) code: Option<String>,
    pub(crate) revoked: Option<(Moment, String)>,
    pub(crate) rollout: Status,
    pub(crate) refused: Option<RefusalView>,
    pub(crate) seen: u64,
    pub(crate) applied: u64,
    pub(crate) verdict: Option<Status>,
    pub(crate) problem: Option<String>,
    pub(crate) problem_since: Option<Moment>,
    pub(crate) agent: String,
    pub(crate) mode: String,
    pub(crate) exposure: String,
    pub(crate) labels: Vec<String>,
    pub(crate) ready: u32,
    pub(crate) services: u32,
    pub(crate) load: Option<LoadView>,
}

/// What a host has left, in three numbers.
#[derive(Debug)]
pub(crate) struct LoadView {
    /// Load average of a minute, per CPU: above 1 something waits.
    pub(crate) load: String,
    pub(crate) is_loaded: bool,
    pub(crate) memory: Percent,
    pub(crate) disk: Option<Percent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Percent(pub(crate) u64);

/// From here on a disk or a memory wants somebody, percent.
const FULL_PERCENT: u64 = 90;
/// Waiting tasks beyond those that run, in thousandths: from here on a host is behind its work.
const LOADED_MILLI: u64 = 2_000;

impl Percent {
    pub(crate) fn of(used: u64, total: u64) -> Self {
        Self(used.saturating_mul(100).checked_div(total).unwrap_or(0).min(100))
    }

    pub(crate) fn is_high(self) -> bool {
        self.0 >= FULL_PERCENT
    }
}

impl LoadView {
    fn of(usage: &agentd_protocol::api::Host) -> Self {
        let load_milli = usage.load_1m_milli / u64::from(usage.cpus.max(1));
        let memory_used = usage.memory_total_bytes.saturating_sub(usage.memory_available_bytes);
        let disk = usage.disk_total_bytes.zip(usage.disk_free_bytes);
        Self {
            load: text::milli(load_milli),
            is_loaded: load_milli >= LOADED_MILLI,
            memory: Percent::of(memory_used, usage.memory_total_bytes),
            disk: disk.map(|(total, free)| Percent::of(total.saturating_sub(free), total)),
        }
    }
}

impl HostLine {
    pub(crate) fn of(row: &HostRow, now_ms: u64) -> Self {
        let (heard, silent) = match row.presence {
            Presence::NeverReported => (None, false),
            Presence::Reporting { last_unix_ms } => (Some(last_unix_ms), false),
            Presence::Silent { since_unix_ms } => (Some(since_unix_ms), true),
        };
        Self {
            id: row.id.to_string(),
            name: text::word(&row.name),
            stack: row.stack.to_string(),
            stack_name: text::word(&row.stack_name),
            status: status::host(&row.standing, row.presence),
            heard: heard
                .map(|at_ms| if silent { Moment::since(at_ms, now_ms) } else { Moment::relative(at_ms, now_ms) }),
            silent,
            code: match &row.standing {
                Standing::Pending { code } => Some(text::word(code)),
                Standing::Active | Standing::Revoked { .. } => None,
            },
            revoked: match &row.standing {
                Standing::Revoked { at_unix_ms, reason } => {
                    Some((Moment::relative(*at_unix_ms, now_ms), text::sentence(reason)))
                }
                Standing::Active | Standing::Pending { .. } => None,
            },
            rollout: status::rollout(&row.rollout),
            refused: match &row.rollout {
                Rollout::Refused { refusal } => Some(RefusalView::of(refusal, now_ms)),
                Rollout::NothingPublished | Rollout::Applied | Rollout::Behind | Rollout::Held | Rollout::Ahead => None,
            },
            seen: row.seen.0,
            applied: row.applied.0,
            verdict: row.verdict.map(status::verdict),
            problem: row.problem.as_deref().map(text::sentence),
            problem_since: row.problem_since_unix_ms.map(|at_ms| Moment::since(at_ms, now_ms)),
            agent: text::word(&row.agent),
            mode: row.security_mode.as_deref().map_or_else(|| "not reported".to_owned(), text::word),
            exposure: row.exposure.as_deref().map_or_else(|| "not reported".to_owned(), text::word),
            labels: row.labels.iter().map(|(key, value)| text::word(&format!("{key}={value}"))).collect(),
            ready: row.services_ready,
            services: row.services,
            load: row.usage.as_ref().map(LoadView::of),
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.code.is_none() && self.revoked.is_none()
    }
}

#[derive(Debug)]
pub(crate) struct RefusalView {
    pub(crate) kind: String,
    pub(crate) version: Option<u64>,
    pub(crate) reasons: Vec<String>,
    pub(crate) since: Moment,
}

impl RefusalView {
    pub(crate) fn of(refusal: &Refusal, now_ms: u64) -> Self {
        Self {
            kind: text::word(&refusal.kind),
            version: refusal.version.map(|version| version.0),
            reasons: refusal.reasons.iter().take(LIST_MAX).map(|reason| text::sentence(reason)).collect(),
            since: Moment::since(refusal.since_unix_ms, now_ms),
        }
    }
}

/// Why something does not work, in the order in which a person asks: where, since when, why, what changed, what now.
#[derive(Debug)]
pub(crate) struct ProblemView {
    pub(crate) service: Option<String>,
    pub(crate) host: String,
    pub(crate) host_name: String,
    pub(crate) phase: &'static str,
    pub(crate) cause: String,
    pub(crate) meaning: Option<String>,
    pub(crate) exit: Option<String>,
    pub(crate) since: Moment,
    pub(crate) release: Option<u64>,
    pub(crate) commit: Option<String>,
    pub(crate) probes: Vec<ProbeView>,
    pub(crate) key_lines: Vec<String>,
    pub(crate) log: Vec<String>,
    pub(crate) changed: Option<Changed>,
    pub(crate) next: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct ProbeView {
    pub(crate) at: Moment,
    pub(crate) outcome: String,
    pub(crate) latency_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) since: u64,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) commits: Vec<String>,
    pub(crate) more: bool,
    pub(crate) keys: Vec<String>,
    pub(crate) env: Vec<String>,
}

impl ProblemView {
    pub(crate) fn of(problem: &Problem, host: &HostRow, now_ms: u64) -> Self {
        let why = &problem.why;
        Self {
            service: problem.service.as_ref().map(|name| name.to_string()),
            host: host.id.to_string(),
            host_name: text::word(&host.name),
            phase: phase(problem.phase),
            cause: text::sentence(&problem.cause),
            meaning: why.meaning.as_deref().map(text::sentence),
            exit: why.exit.as_ref().map(exit),
            since: Moment::since(problem.since_unix_ms, now_ms),
            release: problem.release.map(|release| release.0),
            commit: problem.commit.as_ref().map(|commit| commit.short().to_owned()),
            probes: problem
                .probes
                .iter()
                .take(LIST_MAX)
                .map(|probe| ProbeView {
                    at: Moment::clock(probe.at_unix_ms, now_ms),
                    outcome: outcome(&probe.outcome),
                    latency_ms: probe.latency_ms,
                })
                .collect(),
            key_lines: text::lines(why.key_lines.iter().take(LIST_MAX)),
            log: text::lines(problem.log_tail.iter().take(LIST_MAX)),
            changed: why.changes.as_ref().map(|changes| Changed {
                since: changes.since.0,
                from: changes.from.short().to_owned(),
                to: changes.to.short().to_owned(),
                commits: text::lines(changes.commits.iter().take(LIST_MAX)),
                more: changes.more_commits,
                keys: changes.keys.iter().take(LIST_MAX).map(|key| text::word(key)).collect(),
                env: env_words(changes),
            }),
            next: text::lines(why.next.iter().take(LIST_MAX)),
        }
    }
}

fn env_words(changes: &agentd_protocol::api::Changes) -> Vec<String> {
    let worded = [(&changes.env_added, "added"), (&changes.env_removed, "removed"), (&changes.env_changed, "changed")];
    let all =
        worded.iter().flat_map(|(names, word)| names.iter().map(move |name| format!("{} {word}", text::word(name))));
    all.take(LIST_MAX).collect()
}

fn phase(phase: DeployPhase) -> &'static str {
    match phase {
        DeployPhase::Document => "document",
        DeployPhase::Fetch => "fetch",
        DeployPhase::Build => "build",
        DeployPhase::Start => "start",
        DeployPhase::Health => "health",
        DeployPhase::Route => "route",
        DeployPhase::Drain => "drain",
        DeployPhase::Run => "run",
    }
}

fn exit(exit: &ProgramExit) -> String {
    match exit {
        ProgramExit::Code { code } => format!("exit code {code}"),
        ProgramExit::Signal { name, core_dumped } => {
            format!("killed by {}{}", text::word(name), if *core_dumped { ", core dumped" } else { "" })
        }
        ProgramExit::NotExecuted { error } => format!("not executed: {}", text::sentence(error)),
        ProgramExit::TimeLimit => "took longer than it may".to_owned(),
        ProgramExit::Unknown => "exit not seen".to_owned(),
    }
}

fn outcome(outcome: &ProbeOutcome) -> String {
    match outcome {
        ProbeOutcome::Passed { status: Some(status) } => format!("HTTP {status}, passed"),
        ProbeOutcome::Passed { status: None } => "passed".to_owned(),
        ProbeOutcome::Status { status } => format!("HTTP {status}"),
        ProbeOutcome::Refused => "connection refused".to_owned(),
        ProbeOutcome::TimedOut => "timed out".to_owned(),
        ProbeOutcome::Failed { error } => text::sentence(error),
    }
}

#[derive(Debug)]
pub(crate) struct EventLine {
    pub(crate) id: u64,
    pub(crate) at: Moment,
    pub(crate) severity: Status,
    pub(crate) stack: String,
    pub(crate) host: String,
    pub(crate) host_name: String,
    pub(crate) service: Option<String>,
    pub(crate) release: Option<u64>,
    pub(crate) kind: String,
    pub(crate) text: String,
    pub(crate) suppressed: u64,
}

impl EventLine {
    pub(crate) fn of(row: &EventRow, now_ms: u64) -> Self {
        Self {
            id: row.id,
            at: Moment::clock(row.event.at_unix_ms, now_ms),
            severity: status::severity(row.event.severity),
            stack: row.stack.to_string(),
            host: row.host.to_string(),
            host_name: text::word(&row.host_name),
            service: row.event.service.as_ref().map(|name| name.to_string()),
            release: row.event.release.map(|release| release.0),
            kind: text::word(&row.event.kind),
            text: text::sentence(&row.event.text),
            suppressed: row.event.suppressed,
        }
    }
}

/// A diff as lines of text: `+`, `-`, `~` say what colour would.
#[derive(Debug, Default)]
pub(crate) struct DiffView {
    pub(crate) groups: Vec<DiffGroup>,
}

#[derive(Debug)]
pub(crate) struct DiffGroup {
    pub(crate) title: String,
    pub(crate) change: Option<&'static str>,
    pub(crate) lines: Vec<DiffLine>,
}

#[derive(Debug)]
pub(crate) struct DiffLine {
    /// `added`, `removed`, `changed`: its class and its word for those who do not see.
    pub(crate) class: &'static str,
    pub(crate) sign: &'static str,
    pub(crate) key: String,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
}

impl DiffView {
    pub(crate) fn of(diff: &Diff) -> Self {
        let mut groups = Vec::new();
        if !diff.stack.is_empty() {
            let lines = diff.stack.iter().map(key_line).collect();
            groups.push(DiffGroup { title: "stack".to_owned(), change: None, lines });
        }
        for service in &diff.services {
            let mut lines: Vec<DiffLine> = service.keys.iter().map(key_line).collect();
            lines.extend(service.env.iter().map(|env| {
                let (class, sign) = signed(env.change);
                let key = format!("env.{}", text::word(&env.name));
                // A value is never shown, only that it is another.
                DiffLine { class, sign, key, from: None, to: None }
            }));
            groups.push(DiffGroup { title: service.name.to_string(), change: Some(signed(service.change).0), lines });
        }
        Self { groups }
    }
}

fn key_line(change: &KeyChange) -> DiffLine {
    let (class, sign) = signed(match (&change.from, &change.to) {
        (None, _) => Change::Added,
        (Some(_), None) => Change::Removed,
        (Some(_), Some(_)) => Change::Changed,
    });
    let shown = |value: &Option<String>| value.as_deref().map(text::sentence);
    DiffLine { class, sign, key: text::word(&change.key), from: shown(&change.from), to: shown(&change.to) }
}

fn signed(change: Change) -> (&'static str, &'static str) {
    match change {
        Change::Added => ("added", "+"),
        Change::Removed => ("removed", "−"),
        Change::Changed => ("changed", "~"),
    }
}
