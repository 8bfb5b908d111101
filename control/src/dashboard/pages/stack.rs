//! One stack: what runs where, what is wrong, how far the newest version is.

use askama::Template;

use super::super::frame::{Frame, Headline, Live, Section};
use super::super::status::{self, Status, Tone};
use super::super::text::{self, Moment};
use super::deploy::Deploy;
use super::grid::Grid;
use super::parts::{EventLine, HostLine, LastChange, ProblemView};
use crate::model::{EventRow, Health, HostDetail, ServiceCell, ServiceRow, StackDetail, StackOverview, Standing};

#[derive(Debug, Template)]
#[template(path = "stack.html")]
pub(crate) struct Page {
    pub(crate) frame: Frame,
    pub(crate) head: StackHead,
    pub(crate) headline: Headline,
    pub(crate) problems: Vec<ProblemView>,
    pub(crate) services: Vec<ServiceLine>,
    pub(crate) grid: Grid,
    /// The newest version on its way, or how that ended just now.
    pub(crate) deploy: Option<Deploy>,
    pub(crate) pending: Vec<HostLine>,
    pub(crate) events: Vec<EventLine>,
    pub(crate) stale: Option<Moment>,
    pub(crate) ahead: Option<u64>,
}

/// Name and tabs, above each page of a stack.
#[derive(Debug)]
pub(crate) struct StackHead {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) environment: String,
    pub(crate) version: u64,
    pub(crate) hosts: String,
    pub(crate) held: bool,
    pub(crate) draft_differs: bool,
    pub(crate) last: Option<LastChange>,
    pub(crate) tab: Tab,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tab {
    Overview,
    Draft,
    Versions,
    Join,
}

impl StackHead {
    pub(crate) fn of(overview: &StackOverview, tab: Tab, now_ms: u64) -> Self {
        Self {
            id: overview.id.to_string(),
            name: text::word(&overview.name),
            environment: text::word(&overview.environment),
            version: overview.version.0,
            hosts: super::stacks::hosts_in_words(overview.hosts, overview.version.0),
            held: overview.held,
            draft_differs: overview.draft_differs,
            last: overview.last.as_ref().map(|row| LastChange::of(row, now_ms)),
            tab,
        }
    }

    pub(crate) fn at(&self, tab: Tab) -> bool {
        self.tab == tab
    }
}

#[derive(Debug)]
pub(crate) struct ServiceLine {
    pub(crate) name: String,
    pub(crate) status: Status,
    pub(crate) repo: String,
    pub(crate) from: Option<String>,
    pub(crate) commit: Option<String>,
    pub(crate) published: bool,
    pub(crate) ready_hosts: usize,
    pub(crate) hosts: usize,
    pub(crate) restarts: u32,
}

#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) host: String,
    pub(crate) host_name: String,
    pub(crate) status: Status,
    pub(crate) release: Option<u64>,
    pub(crate) commit: Option<String>,
    pub(crate) ready: u32,
    pub(crate) wanted: u32,
    pub(crate) restarts: u32,
    pub(crate) since: Moment,
    pub(crate) error: Option<String>,
    pub(crate) error_since: Option<Moment>,
    pub(crate) cpu: Option<String>,
    pub(crate) memory: Option<String>,
    pub(crate) pinned: Option<u64>,
    pub(crate) warnings: Vec<String>,
    pub(crate) url: Option<String>,
    pub(crate) silent: bool,
}

impl Page {
    /// `troubled`: hosts whose problems are told in full, at most a few.
    pub(crate) fn of(frame: Frame, stack: &StackDetail, troubled: &[HostDetail], events: &[EventRow]) -> Self {
        let now_ms = frame.now_ms;
        let overview = &stack.overview;
        let stale = overview.fresh_until_unix_ms.filter(|until| *until < now_ms && overview.version.0 > 0);
        Self {
            head: StackHead::of(overview, Tab::Overview, now_ms),
            headline: headline(overview),
            problems: problems(troubled, now_ms),
            services: stack.services.iter().map(|row| ServiceLine::of(row, now_ms)).collect(),
            grid: Grid::of(&stack.services, &stack.hosts),
            deploy: Deploy::of(overview.last.as_ref(), &stack.hosts, now_ms).filter(Deploy::is_news),
            pending: stack
                .hosts
                .iter()
                .filter(|row| matches!(row.standing, Standing::Pending { .. }))
                .map(|row| HostLine::of(row, now_ms))
                .collect(),
            events: events.iter().map(|row| EventLine::of(row, now_ms)).collect(),
            stale: stale.map(|until| Moment::relative(until, now_ms)),
            ahead: overview.ahead.map(|version| version.0),
            frame,
        }
    }
}

fn headline(stack: &StackOverview) -> Headline {
    let status = status::health(stack.health);
    let said = stack.problem.as_deref().map(text::sentence);
    let text = match (stack.health, said) {
        (Health::Broken | Health::Warning, Some(problem)) => problem,
        (Health::Broken, None) => "A service is not as it should be".to_owned(),
        (Health::Warning, None) => "A host is silent or behind".to_owned(),
        (Health::Moving, _) => format!("Version {} is on its way to the hosts", stack.version),
        (Health::Good, _) if stack.held => format!("All is well, and held at version {}", stack.version),
        (Health::Good, _) => format!("Every host runs version {}, and every service is ready", stack.version),
        (Health::Unknown, _) if stack.hosts.active == 0 => "No host has joined yet".to_owned(),
        (Health::Unknown, _) => "No host has reported yet".to_owned(),
    };
    Headline::new(if stack.health == Health::Unknown { Tone::Quiet } else { status.tone }, text)
}

pub(crate) fn problems(hosts: &[HostDetail], now_ms: u64) -> Vec<ProblemView> {
    let of_host = |host: &HostDetail| {
        let problems = host.snapshot.iter().flat_map(|snapshot| &snapshot.stack.problems);
        problems.map(|problem| ProblemView::of(problem, &host.row, now_ms)).collect::<Vec<_>>()
    };
    hosts.iter().flat_map(of_host).collect()
}

impl ServiceLine {
    pub(crate) fn of(row: &ServiceRow, now_ms: u64) -> Self {
        let mut cells: Vec<Cell> = row.cells.iter().map(|cell| Cell::of(cell, now_ms)).collect();
        cells.sort_by(|a, b| b.status.tone.cmp(&a.status.tone).then_with(|| a.host_name.cmp(&b.host_name)));
        let published = row.published.as_ref();
        // What silent hosts said last is no news; where all are silent, that is what is known.
        let reporting = cells.iter().find(|cell| cell.status.tone != Tone::Silent);
        let worst = reporting.or(cells.first()).map(|cell| cell.status);
        let ready_hosts = cells.iter().filter(|cell| cell.status.tone == Tone::Good).count();
        let hosts = cells.len();
        let restarts = cells.iter().fold(0, |sum: u32, cell| sum.saturating_add(cell.restarts));
        Self {
            name: row.name.to_string(),
            status: worst.unwrap_or(Status::new(Tone::Quiet, "nowhere")),
            repo: published.map(|service| text::word(&service.repo)).unwrap_or_default(),
            from: published.and_then(|service| service.from.as_deref().map(text::word)),
            commit: published.map(|service| service.commit.short().to_owned()),
            published: published.is_some(),
            ready_hosts,
            hosts,
            restarts,
        }
    }
}

impl Cell {
    pub(crate) fn of(cell: &ServiceCell, now_ms: u64) -> Self {
        let report = &cell.report;
        Self {
            host: cell.host.to_string(),
            host_name: text::word(&cell.host_name),
            status: status::service_on(report.state, cell.silent),
            release: report.release.map(|release| release.0),
            commit: report.commit.as_ref().map(|commit| commit.short().to_owned()),
            ready: report.ready,
            wanted: report.wanted,
            restarts: report.restarts,
            since: Moment::relative(report.since_unix_ms, now_ms),
            error: report.last_error.as_deref().map(text::sentence),
            error_since: report.last_error_unix_ms.map(|at_ms| Moment::since(at_ms, now_ms)),
            cpu: report.cpu_millicores.map(|cores| format!("{} CPU", text::milli(u64::from(cores)))),
            memory: report.memory_bytes.map(text::bytes),
            pinned: report.pinned.map(|release| release.0),
            warnings: report.warnings.iter().map(|warning| text::sentence(warning)).collect(),
            url: report.url.as_deref().map(text::word),
            silent: cell.silent,
        }
    }
}
