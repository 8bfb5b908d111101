//! What `agentctl status` shows (pure): reports, instances and the edge's word put together.

use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use agentd_protocol::api::{
    Agent, ControlStatus, Edge, InstanceStatus, Problem, ServiceState, ServiceStatus, StackStatus, Status,
    TunnelStatus, Verdict,
};
use agentd_protocol::ids::Version;
use agentd_protocol::shim::state::Phase;
use agentd_protocol::stack::{Kind, Service};
use tokio::sync::watch;

use super::environment::{self, Naming};
use super::gate::describe;
use super::routing::Views;
use super::running::{self, RunProblems};
use super::worker::{Doing, Report, Reports, Settled, release_of};
use crate::edge::EdgeView;
use crate::store::{PastRestarts, StoredService, StoredVersion};
use crate::supervisor::{InstanceView, Readiness};

/// What does not change while a manager runs, and what sync says of the file.
#[derive(Debug, Clone)]
pub struct Facts {
    pub version: String,
    pub home: String,
    pub started_unix_ms: u64,
    /// Moves with the host's security mode.
    pub external: watch::Receiver<SocketAddr>,
    pub internal: SocketAddr,
    pub dns: SocketAddr,
    pub suffix: String,
    pub limitations: Vec<String>,
    /// From sync; `None` until it has read the file once.
    pub document: watch::Receiver<Option<DocumentProblems>>,
    /// From who watches it; `None` without one.
    pub tunnel: watch::Receiver<Option<TunnelStatus>>,
    /// `None` where the host is not joined.
    pub control: watch::Receiver<Option<ControlStatus>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentProblems {
    /// Why the document cannot be used now.
    pub file: Option<FileProblem>,
    /// Per service, why its ref cannot be resolved.
    pub services: Vec<Problem>,
    /// The newest version sync has made of the file; it may be on its way here.
    pub version: Option<Version>,
    /// The last good reading of the file.
    pub reading: Option<Reading>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    pub text: String,
    pub since_unix_ms: u64,
}

/// One content of the stack file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Grows with every other content.
    pub number: u64,
    pub services: usize,
}

pub(super) struct Seen<'a> {
    pub(super) now_unix_ms: u64,
    pub(super) facts: &'a Facts,
    pub(super) latest: Option<&'a StoredVersion>,
    pub(super) applied: Option<Version>,
    pub(super) services: &'a [StoredService],
    /// Of releases that serve now, and instances that are gone.
    pub(super) past_restarts: &'a [PastRestarts],
    pub(super) naming: &'a Naming,
    pub(super) reports: &'a Reports,
    pub(super) running: &'a RunProblems,
    pub(super) views: &'a Views,
    pub(super) edge: &'a EdgeView,
    pub(super) keeper_pid: Option<u32>,
}

pub(super) fn status(seen: &Seen<'_>) -> Status {
    let told = seen.facts.document.borrow().clone();
    let is_read = told.as_ref().is_some_and(|told| told.version <= seen.latest.map(|latest| latest.version));
    let document = told.unwrap_or_default();
    let services: Vec<ServiceStatus> = seen.services.iter().map(|service| one(seen, service, &document)).collect();
    let problems = problems(seen, &document);
    let verdict = if is_read { verdict(seen, &services, &document) } else { unread(&services) };
    Status {
        at_unix_ms: seen.now_unix_ms,
        agent: Agent {
            version: seen.facts.version.clone(),
            pid: std::process::id(),
            keeper_pid: seen.keeper_pid,
            home: seen.facts.home.clone(),
            started_unix_ms: seen.facts.started_unix_ms,
        },
        stack: StackStatus {
            name: seen.latest.map(|latest| latest.stack.stack.name.clone()),
            verdict,
            since_unix_ms: since(verdict, seen, &services, &problems, &document),
            version: seen.latest.map(|latest| latest.version),
            applied_version: seen.applied,
            problems,
            file_problem: document.file.map(|file| file.text),
        },
        edge: Edge {
            pid: seen.edge.edge.as_ref().map(|edge| edge.pid),
            generation: seen.edge.generation,
            external: Some(*seen.facts.external.borrow()),
            internal: Some(seen.facts.internal),
            dns: Some(seen.facts.dns),
            suffix: seen.facts.suffix.clone(),
        },
        services,
        limitations: seen.facts.limitations.clone(),
        tunnel: seen.facts.tunnel.borrow().clone(),
        control: seen.facts.control.borrow().clone(),
        host: None,
        security: None,
    }
}

/// What sync says comes along: a service whose ref was never resolved is in no version, so no worker speaks for it.
fn problems(seen: &Seen<'_>, document: &DocumentProblems) -> Vec<Problem> {
    let deploys = seen.reports.values().filter_map(|report| report.problem.as_ref());
    deploys.chain(seen.running.values()).chain(&document.services).cloned().collect()
}

fn verdict(seen: &Seen<'_>, services: &[ServiceStatus], document: &DocumentProblems) -> Verdict {
    if seen.latest.is_none() {
        return if document.file.is_some() { Verdict::Degraded } else { Verdict::Empty };
    }
    if document.file.is_some()
        || refused(seen).is_some()
        || !document.services.is_empty()
        || services.iter().any(is_bad)
        || seen.edge.edge.is_none()
    {
        Verdict::Degraded
    } else if seen.reports.values().any(is_busy) {
        Verdict::Applying
    } else {
        Verdict::Applied
    }
}

/// The file may ask for something else than what runs: nothing is called applied before it has been looked at.
fn unread(services: &[ServiceStatus]) -> Verdict {
    if services.iter().any(is_bad) { Verdict::Degraded } else { Verdict::Applying }
}

/// Since when a newer version is not taken.
fn refused(seen: &Seen<'_>) -> Option<u64> {
    seen.facts.control.borrow().as_ref()?.refused.as_ref().map(|refused| refused.since_unix_ms)
}

fn is_bad(service: &ServiceStatus) -> bool {
    is_bad_state(service.state) || service.last_error.is_some()
}

fn is_bad_state(state: ServiceState) -> bool {
    matches!(state, ServiceState::Partial | ServiceState::Failing | ServiceState::CrashLoop)
}

fn is_busy(report: &Report) -> bool {
    !matches!(report.doing, Doing::Settled(_))
}

/// Since when the verdict holds, told by what it rests on: so a manager that was restarted says the same as before.
fn since(
    verdict: Verdict,
    seen: &Seen<'_>,
    services: &[ServiceStatus],
    problems: &[Problem],
    document: &DocumentProblems,
) -> Option<u64> {
    let started = Some(seen.facts.started_unix_ms);
    match verdict {
        Verdict::Empty => started,
        Verdict::Applying => {
            seen.reports.values().filter(|report| is_busy(report)).map(|report| report.since_unix_ms).min().or(started)
        }
        Verdict::Applied => services.iter().map(|service| service.since_unix_ms).max().or(started),
        Verdict::Degraded => {
            let file = document.file.as_ref().map(|file| file.since_unix_ms);
            let told = problems.iter().map(|problem| problem.since_unix_ms);
            told.chain(services.iter().filter_map(|service| service.last_error_unix_ms))
                .chain(file)
                .chain(refused(seen))
                .min()
        }
    }
}

fn one(seen: &Seen<'_>, service: &StoredService, document: &DocumentProblems) -> ServiceStatus {
    let report = seen.reports.get(&service.name);
    let entry = seen.latest.and_then(|latest| latest.stack.service.iter().find(|entry| entry.name == service.name));
    let mine = |view: &&InstanceView| view.service == service.name.as_str() && release_of(view).is_some();
    let instances: Vec<&InstanceView> = seen.views.values().filter(mine).collect();
    let active = report.and_then(|report| report.active.clone());
    let serving: Vec<&InstanceView> =
        instances.iter().copied().filter(|view| release_of(view) == active.as_ref().map(|a| a.release)).collect();
    let ready = u32::try_from(serving.iter().filter(|view| view.is_ready()).count()).unwrap_or(u32::MAX);
    let wanted = if service.stopped { 0 } else { entry.map_or(0, |entry| entry.replicas) };
    let state = state(report, &instances, ready, wanted);
    let (last_error, last_error_unix_ms) = error_of(seen, service, document);
    ServiceStatus {
        name: service.name.clone(),
        state,
        release: active.as_ref().map(|active| active.release),
        commit: active.map(|active| active.commit),
        pinned: service.pinned.map(|pin| pin.release),
        ready,
        wanted,
        restarts: restarts(seen, service, &serving),
        url: entry.and_then(|entry| url(entry, *seen.facts.external.borrow())),
        internal_url: entry
            .filter(|entry| entry.kind != Kind::Worker)
            .map(|entry| environment::url(&entry.name, seen.naming)),
        since_unix_ms: match state {
            // Told by the instances, which know more than a manager that was restarted.
            ServiceState::Ready => serving.iter().filter_map(|view| since_of(view.readiness)).max(),
            _ if is_bad_state(state) => last_error_unix_ms,
            _ => None,
        }
        .unwrap_or_else(|| report.map_or(0, |report| report.since_unix_ms)),
        last_error,
        last_error_unix_ms,
        warnings: instances.iter().flat_map(|view| view.warnings.clone()).collect(),
        instances: instances.into_iter().filter_map(instance).collect(),
        cpu_millicores: None,
        memory_bytes: None,
    }
}

/// The problem of the last order, of the ref, or of what runs; with its time.
fn error_of(seen: &Seen<'_>, service: &StoredService, document: &DocumentProblems) -> (Option<String>, Option<u64>) {
    let reported = seen.reports.get(&service.name).and_then(|report| report.problem.as_ref());
    let mut unresolved = document.services.iter().filter(|problem| problem.service.as_ref() == Some(&service.name));
    let problem = reported.or(seen.running.get(&service.name)).or(unresolved.next());
    match problem {
        Some(problem) => (Some(problem.cause.clone()), Some(problem.since_unix_ms)),
        None => (running::cause_of(&service.name, seen.reports, seen.views), None),
    }
}

fn since_of(readiness: Readiness) -> Option<u64> {
    match readiness {
        Readiness::NotReady { since }
        | Readiness::Ready { since }
        | Readiness::Failing { since, .. }
        | Readiness::StartDeadlineOver { since } => {
            u64::try_from(since.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
        }
    }
}

/// Of the release that serves, over all of its instances, those that are gone included.
fn restarts(seen: &Seen<'_>, service: &StoredService, serving: &[&InstanceView]) -> u32 {
    let gone = |past: &&PastRestarts| past.service == service.name && !seen.views.contains_key(&past.instance);
    let past = seen.past_restarts.iter().filter(gone).map(|past| past.count);
    past.chain(serving.iter().map(|view| view.restarts)).fold(0, u32::saturating_add)
}

fn state(report: Option<&Report>, instances: &[&InstanceView], ready: u32, wanted: u32) -> ServiceState {
    let crash_loop = instances.iter().any(|view| matches!(view.phase, Phase::Quarantined { .. }));
    match report.map(|report| report.doing) {
        None | Some(Doing::Pending) => ServiceState::Pending,
        Some(Doing::Fetching) => ServiceState::Fetching,
        Some(Doing::Building) => ServiceState::Building,
        Some(Doing::Starting) => ServiceState::Starting,
        Some(Doing::Stopping) => ServiceState::Stopping,
        Some(Doing::Settled(Settled::Stopped)) => ServiceState::Stopped,
        Some(Doing::Settled(Settled::Removed)) => ServiceState::Removed,
        Some(Doing::Draining | Doing::Settled(Settled::Running | Settled::Failed)) => match ready {
            ready if ready >= wanted && wanted > 0 => ServiceState::Ready,
            0 if crash_loop => ServiceState::CrashLoop,
            0 => ServiceState::Failing,
            _ => ServiceState::Partial,
        },
    }
}

fn url(entry: &Service, external: SocketAddr) -> Option<String> {
    let path = entry.path.as_ref().filter(|_| entry.public)?;
    let shown = if external.ip().is_unspecified() { "127.0.0.1".to_owned() } else { external.ip().to_string() };
    let host = entry.host.clone().unwrap_or(shown);
    Some(format!("http://{host}:{}{path}", external.port()))
}

pub(super) fn instance(view: &InstanceView) -> Option<InstanceStatus> {
    Some(InstanceStatus {
        id: view.id.clone(),
        release: release_of(view)?,
        incarnation: view.incarnation,
        phase: view.phase.name().to_owned(),
        pid: view.pid(),
        shim_pid: view.shim_pid,
        port: view.port,
        ready: view.is_ready(),
        started_unix_ms: match view.phase {
            Phase::Up { since_real_ns, .. } => Some(since_real_ns / 1_000_000),
            _ => None,
        },
        restarts: view.restarts,
        last_exit: view.last_exit.map(|last| describe(last.exit)),
        last_exit_unix_ms: view.last_exit.map(|last| last.at_real_ns / 1_000_000),
        cpu_millicores: None,
        memory_bytes: None,
        log_dir: view.log_dir.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use agentd_protocol::api::DeployPhase;
    use agentd_protocol::ids::{ReleaseNumber, Version};
    use agentd_protocol::stack::{Proxy, SCHEMA, Span, Stack, StackSection};

    use super::super::testing::{commit, entry, failing, id, name, ready, views};
    use super::super::worker::Active;
    use super::*;
    use crate::edge::EdgeProcess;

    fn report(doing: Doing) -> Report {
        let active = Some(Active { release: ReleaseNumber(1), commit: commit('a') });
        Report { ticket: 1, doing, problem: None, active, since_unix_ms: 1 }
    }

    fn state_of(doing: Doing, seen: &[&InstanceView], ready: u32) -> ServiceState {
        state(Some(&report(doing)), seen, ready, 2)
    }

    #[test]
    fn a_settled_service_is_as_good_as_its_instances() {
        let running = Doing::Settled(Settled::Running);
        let up = ready('a');
        let looping = InstanceView { phase: Phase::Quarantined { retry_at_boot_ms: 1 }, ..failing('b') };
        assert_eq!(state(None, &[], 0, 2), ServiceState::Pending);
        assert_eq!(state_of(running, &[&up, &up], 2), ServiceState::Ready);
        assert_eq!(state_of(running, &[&up, &looping], 1), ServiceState::Partial);
        assert_eq!(state_of(running, &[&looping], 0), ServiceState::CrashLoop);
        assert_eq!(state_of(running, &[], 0), ServiceState::Failing);
        assert_eq!(
            state_of(Doing::Settled(Settled::Failed), &[&up, &up], 2),
            ServiceState::Ready,
            "the old one serves"
        );
        assert_eq!(state_of(Doing::Settled(Settled::Stopped), &[], 0), ServiceState::Stopped);
        assert_eq!(state_of(Doing::Building, &[&up, &up], 2), ServiceState::Building);
    }

    fn verdict_of(document: Option<DocumentProblems>, report: Report, edge: Option<EdgeProcess>) -> Verdict {
        status_of(document, report, edge, &[]).stack.verdict
    }

    fn status_of(
        document: Option<DocumentProblems>,
        report: Report,
        edge: Option<EdgeProcess>,
        past_restarts: &[PastRestarts],
    ) -> Status {
        let (sender, receiver) = watch::channel(document);
        let facts = Facts {
            version: String::new(),
            home: String::new(),
            started_unix_ms: 0,
            external: watch::channel(SocketAddr::from(([127, 0, 0, 1], 8080))).1,
            internal: SocketAddr::from(([127, 0, 0, 1], 8081)),
            dns: SocketAddr::from(([127, 0, 0, 1], 5354)),
            suffix: "svc.internal".into(),
            limitations: Vec::new(),
            document: receiver,
            tunnel: watch::channel(None).1,
            control: watch::channel(None).1,
        };
        let stack = Stack {
            schema: SCHEMA,
            stack: StackSection { name: name("s"), poll_interval: Span::from_secs(15) },
            proxy: Proxy { port: 8080, health_path: None },
            security: None,
            service: vec![entry("api", 'a')],
        };
        let latest = StoredVersion {
            era: 0,
            is_current: true,
            version: Version(1),
            sha256: crate::store::Digest::of(b""),
            stack,
            refs: crate::store::Refs::new(),
            received_unix_ms: 0,
            applied: true,
        };
        let service = StoredService {
            name: name("api"),
            first_seen_unix_ms: 0,
            removed_unix_ms: None,
            stopped: false,
            active: Some(ReleaseNumber(1)),
            pinned: None,
        };
        let seen = Seen {
            facts: &facts,
            latest: Some(&latest),
            applied: None,
            services: &[service],
            past_restarts,
            naming: &Naming { suffix: "svc.internal".into(), port: 8081 },
            now_unix_ms: 9,
            reports: &Reports::from([(name("api"), report)]),
            running: &RunProblems::new(),
            views: &views([ready('a')]),
            edge: &EdgeView { edge, ..EdgeView::default() },
            keeper_pid: None,
        };
        let status = status(&seen);
        drop(sender);
        status
    }

    #[test]
    fn the_verdict_is_applied_only_when_nothing_is_amiss() {
        let edge = || Some(EdgeProcess { pid: 1, build: String::new() });
        let running = || report(Doing::Settled(Settled::Running));
        let none = || Some(DocumentProblems::default());
        assert_eq!(verdict_of(none(), running(), edge()), Verdict::Applied);
        assert_eq!(verdict_of(none(), report(Doing::Building), edge()), Verdict::Applying);
        assert_eq!(verdict_of(none(), running(), None), Verdict::Degraded, "no edge");
        assert_eq!(verdict_of(None, running(), edge()), Verdict::Applying, "the file was not looked at yet");
        let newer = DocumentProblems { version: Some(Version(2)), ..DocumentProblems::default() };
        assert_eq!(verdict_of(Some(newer), running(), edge()), Verdict::Applying, "a version is on its way");
        let file = FileProblem { text: "line 3".into(), since_unix_ms: 4 };
        let broken = Some(DocumentProblems { file: Some(file), ..DocumentProblems::default() });
        let seen = status_of(broken, running(), edge(), &[]).stack;
        assert_eq!((seen.verdict, seen.since_unix_ms), (Verdict::Degraded, Some(4)));
        let gone = Problem {
            service: Some(name("api")),
            phase: DeployPhase::Fetch,
            cause: "no such ref".into(),
            commit: None,
            release: None,
            probes: Vec::new(),
            log_tail: Vec::new(),
            why: Default::default(),
            since_unix_ms: 0,
        };
        let unresolved = DocumentProblems { services: vec![gone], ..DocumentProblems::default() };
        assert_eq!(verdict_of(Some(unresolved), running(), edge()), Verdict::Degraded);
    }

    #[test]
    fn restarts_are_those_of_the_serving_release_dead_instances_included() {
        let past = |letter: char, count: u32| PastRestarts { service: name("api"), instance: id(letter), count };
        let edge = Some(EdgeProcess { pid: 1, build: String::new() });
        let seen = status_of(
            Some(DocumentProblems::default()),
            report(Doing::Settled(Settled::Running)),
            edge,
            // That of `a` was noted, but its folder is still there and counts itself.
            &[past('a', 5), past('b', 2), past('c', 1)],
        );
        let api = &seen.services[0];
        assert_eq!((api.restarts, api.last_error.as_deref()), (3, None));
        assert_eq!(api.internal_url.as_deref(), Some("http://api.svc.internal:8081"));
        assert_eq!(api.url.as_deref(), Some("http://127.0.0.1:8080/api"));
    }
}
