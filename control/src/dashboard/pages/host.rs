//! One host: how it stands, what it lets in, what it has left, and why it is not on the newest version.

use agentd_protocol::control::report::{HostReport, Snapshot};
use askama::Template;

use super::super::frame::{Frame, Headline, Live, Section};
use super::super::status::{self, Status, Tone};
use super::super::text::{self, Moment};
use super::parts::{EventLine, HostLine, Percent, ProblemView};
use super::stack::Cell;
use crate::model::{EventRow, HostDetail, ServiceCell};

/// A clock further off is worth a word, ms: tokens and deadlines begin to mean different things.
const SKEW_MS_MAX: u64 = 30_000;

#[derive(Debug, Template)]
#[template(path = "host.html")]
pub(crate) struct Page {
    pub(crate) frame: Frame,
    pub(crate) headline: Headline,
    pub(crate) line: HostLine,
    pub(crate) os: String,
    pub(crate) arch: String,
    pub(crate) enrolled: Moment,
    pub(crate) approved_by: Option<String>,
    pub(crate) key_id: String,
    pub(crate) conflict: Option<Moment>,
    pub(crate) taken: Option<Moment>,
    pub(crate) report: Option<ReportView>,
    pub(crate) services: Vec<(String, Cell)>,
    pub(crate) problems: Vec<ProblemView>,
    pub(crate) events: Vec<EventLine>,
    pub(crate) labels_text: String,
    pub(crate) failed: Option<String>,
}

#[derive(Debug)]
pub(crate) struct ReportView {
    pub(crate) enforcement: Option<String>,
    /// The rules are not as confirmed.
    pub(crate) altered: bool,
    pub(crate) notice: Option<String>,
    pub(crate) tunnel: Option<TunnelView>,
    pub(crate) dns: String,
    pub(crate) skew: Option<String>,
    pub(crate) started: Moment,
    pub(crate) limitations: Vec<String>,
    pub(crate) file_problem: Option<String>,
    pub(crate) waiting: u64,
    pub(crate) lost: u64,
    pub(crate) load: Option<String>,
    pub(crate) memory: Option<Meter>,
    pub(crate) disk: Option<Meter>,
}

#[derive(Debug)]
pub(crate) struct TunnelView {
    pub(crate) status: Status,
    pub(crate) since: Moment,
    pub(crate) connections: u32,
    pub(crate) cause: Option<String>,
    pub(crate) drift: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) percent: u64,
    pub(crate) words: String,
}

impl Page {
    pub(crate) fn of(frame: Frame, host: &HostDetail, events: &[EventRow], failed: Option<String>) -> Self {
        let now_ms = frame.now_ms;
        let line = HostLine::of(&host.row, now_ms);
        let silent = line.silent;
        let cells = |snapshot: &Snapshot| {
            let cell = |report: &agentd_protocol::control::report::ServiceReport| ServiceCell {
                host: host.row.id.clone(),
                host_name: host.row.name.clone(),
                silent,
                report: report.clone(),
            };
            snapshot.services.iter().map(|report| (report.name.to_string(), Cell::of(&cell(report), now_ms))).collect()
        };
        Self {
            headline: headline(&line),
            os: text::word(&host.os),
            arch: text::word(&host.arch),
            enrolled: Moment::relative(host.enrolled_unix_ms, now_ms),
            approved_by: host.approved_by.as_deref().map(super::parts::person),
            key_id: text::word(&host.key_id),
            conflict: host.conflict_unix_ms.map(|at_ms| Moment::relative(at_ms, now_ms)),
            taken: host.snapshot_unix_ms.map(|at_ms| Moment::relative(at_ms, now_ms)),
            report: host.snapshot.as_ref().map(|snapshot| ReportView::of(snapshot, now_ms)),
            services: host.snapshot.as_ref().map(cells).unwrap_or_default(),
            problems: super::stack::problems(std::slice::from_ref(host), now_ms),
            events: events.iter().map(|row| EventLine::of(row, now_ms)).collect(),
            labels_text: line.labels.join(", "),
            line,
            failed,
            frame,
        }
    }
}

fn headline(line: &HostLine) -> Headline {
    let name = &line.name;
    if line.code.is_some() {
        return Headline::new(Tone::Warning, format!("{name} asks to join"));
    }
    if line.revoked.is_some() {
        return Headline::new(Tone::Quiet, format!("{name} is revoked: its reports are refused, its services run on"));
    }
    if line.silent {
        return Headline::new(Tone::Silent, format!("{name} is silent; what stands below was true then"));
    }
    let worst = line.verdict.map_or(line.rollout.tone, |verdict| verdict.tone.max(line.rollout.tone));
    let said = match (&line.problem, line.heard) {
        (Some(problem), _) => problem.clone(),
        (None, None) => "has not reported yet".to_owned(),
        (None, Some(_)) => format!(
            "{} {} services ready, on version {}",
            line.ready,
            format_args!("of {}", line.services),
            line.applied
        ),
    };
    Headline::new(if line.heard.is_none() { Tone::Quiet } else { worst }, format!("{name}: {said}"))
}

impl ReportView {
    fn of(snapshot: &Snapshot, now_ms: u64) -> Self {
        let host = &snapshot.host;
        let security = host.security.as_ref();
        Self {
            enforcement: security.map(|security| text::sentence(&security.enforcement)),
            altered: security.is_some_and(|security| !security.is_kept),
            notice: security.and_then(|security| security.notice.as_deref().map(text::sentence)),
            tunnel: host.tunnel.as_ref().map(|tunnel| TunnelView {
                status: status::tunnel(tunnel.state),
                since: Moment::since(tunnel.since_unix_ms, now_ms),
                connections: tunnel.connections,
                cause: tunnel.cause.as_deref().map(text::sentence),
                drift: tunnel.config_drift.as_deref().map(text::sentence),
            }),
            dns: dns(host),
            skew: skew(host.clock_skew_ms),
            started: Moment::relative(host.agent_started_unix_ms, now_ms),
            limitations: host.limitations.iter().map(|limitation| text::sentence(limitation)).collect(),
            file_problem: snapshot.stack.file_problem.as_deref().map(text::sentence),
            waiting: snapshot.outbox.records,
            lost: snapshot.outbox.lost,
            load: host.usage.as_ref().map(|usage| {
                let [one, five, fifteen] =
                    [usage.load_1m_milli, usage.load_5m_milli, usage.load_15m_milli].map(text::milli);
                format!("{one}, {five}, {fifteen} on {}", text::many(usage.cpus, "CPU"))
            }),
            memory: host.usage.as_ref().map(|usage| {
                Meter::of(
                    usage.memory_total_bytes.saturating_sub(usage.memory_available_bytes),
                    usage.memory_total_bytes,
                )
            }),
            disk: host.usage.as_ref().and_then(|usage| {
                let (total, free) = (usage.disk_total_bytes?, usage.disk_free_bytes?);
                Some(Meter::of(total.saturating_sub(free), total))
            }),
        }
    }
}

fn dns(host: &HostReport) -> String {
    let suffix = text::word(&host.dns.suffix);
    host.dns.address.map_or_else(|| format!("off ({suffix})"), |address| format!("{address} for {suffix}"))
}

fn skew(ms: i64) -> Option<String> {
    let off = ms.unsigned_abs();
    let way = if ms > 0 { "behind" } else { "ahead of" };
    (off > SKEW_MS_MAX).then(|| format!("its clock is {} {way} this server's", text::span(off)))
}

impl Meter {
    fn of(used: u64, total: u64) -> Self {
        let percent = Percent::of(used, total).0;
        Self { percent, words: format!("{} of {} used", text::bytes(used), text::bytes(total)) }
    }
}
