//! What `agentctl status` shows (pure): reports, instances and the edge's word put together.

use std::net::SocketAddr;

use agentd_protocol::api::{
    Agent, Edge, InstanceStatus, Problem, ServiceState, ServiceStatus, StackStatus, Status, Verdict,
};
use agentd_protocol::ids::Version;
use agentd_protocol::shim::state::Phase;
use agentd_protocol::stack::Service;
use tokio::sync::watch;

use super::gate::describe;
use super::routing::Views;
use super::running::RunProblems;
use super::worker::{Doing, Report, Reports, Settled, release_of};
use crate::edge::EdgeView;
use crate::store::{StoredService, StoredVersion};
use crate::supervisor::InstanceView;

/// What does not change while a manager runs, and what sync says of the file.
#[derive(Debug, Clone)]
pub struct Facts {
    pub version: String,
    pub home: String,
    pub started_unix_ms: u64,
    pub external: SocketAddr,
    pub limitations: Vec<String>,
    /// From sync: why the document cannot be used now; per service, why its ref cannot be resolved.
    pub document: watch::Receiver<DocumentProblems>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentProblems {
    pub file: Option<String>,
    pub services: Vec<Problem>,
}

pub(super) struct Seen<'a> {
    pub(super) facts: &'a Facts,
    pub(super) latest: Option<&'a StoredVersion>,
    pub(super) applied: Option<Version>,
    pub(super) services: &'a [StoredService],
    pub(super) reports: &'a Reports,
    pub(super) running: &'a RunProblems,
    pub(super) views: &'a Views,
    pub(super) edge: &'a EdgeView,
    pub(super) keeper_pid: Option<u32>,
}

pub(super) fn status(seen: &Seen<'_>) -> Status {
    let document = seen.facts.document.borrow().clone();
    let services: Vec<ServiceStatus> = seen.services.iter().map(|service| one(seen, service, &document)).collect();
    Status {
        agent: Agent {
            version: seen.facts.version.clone(),
            pid: std::process::id(),
            keeper_pid: seen.keeper_pid,
            home: seen.facts.home.clone(),
            started_unix_ms: seen.facts.started_unix_ms,
        },
        stack: StackStatus {
            name: seen.latest.map(|latest| latest.stack.stack.name.clone()),
            verdict: verdict(seen, &services, &document),
            version: seen.latest.map(|latest| latest.version),
            applied_version: seen.applied,
            problems: problems(seen, &document),
            file_problem: document.file,
        },
        edge: Edge {
            pid: seen.edge.edge.as_ref().map(|edge| edge.pid),
            generation: seen.edge.generation,
            external: Some(seen.facts.external),
        },
        services,
        limitations: seen.facts.limitations.clone(),
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
    let bad = |service: &ServiceStatus| {
        matches!(service.state, ServiceState::Partial | ServiceState::Failing | ServiceState::CrashLoop)
            || service.last_error.is_some()
    };
    let busy = |report: &Report| !matches!(report.doing, Doing::Settled(_));
    if document.file.is_some() || !document.services.is_empty() || services.iter().any(bad) || seen.edge.edge.is_none()
    {
        Verdict::Degraded
    } else if seen.reports.values().any(busy) {
        Verdict::Applying
    } else {
        Verdict::Applied
    }
}

fn one(seen: &Seen<'_>, service: &StoredService, document: &DocumentProblems) -> ServiceStatus {
    let report = seen.reports.get(&service.name);
    let entry = seen.latest.and_then(|latest| latest.stack.service.iter().find(|entry| entry.name == service.name));
    let mine = |view: &&InstanceView| view.service == service.name.as_str() && release_of(view).is_some();
    let instances: Vec<&InstanceView> = seen.views.values().filter(mine).collect();
    let active = report.and_then(|report| report.active.clone());
    let ready =
        instances.iter().filter(|view| view.is_ready() && release_of(view) == active.as_ref().map(|a| a.release));
    let ready = u32::try_from(ready.count()).unwrap_or(u32::MAX);
    let wanted = if service.stopped { 0 } else { entry.map_or(0, |entry| entry.replicas) };
    let mut unresolved = document.services.iter().filter(|problem| problem.service.as_ref() == Some(&service.name));
    ServiceStatus {
        name: service.name.clone(),
        state: state(report, &instances, ready, wanted),
        release: active.as_ref().map(|active| active.release),
        commit: active.map(|active| active.commit),
        pinned: service.pinned.map(|pin| pin.release),
        ready,
        wanted,
        restarts: instances.iter().map(|view| view.restarts).sum(),
        url: entry.and_then(|entry| url(entry, seen.facts.external)),
        since_unix_ms: report.map_or(0, |report| report.since_unix_ms),
        last_error: report
            .and_then(|report| report.problem.as_ref())
            .or(seen.running.get(&service.name))
            .or(unresolved.next())
            .map(|problem| problem.cause.clone()),
        warnings: instances.iter().flat_map(|view| view.warnings.clone()).collect(),
        instances: instances.into_iter().filter_map(instance).collect(),
    }
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

fn instance(view: &InstanceView) -> Option<InstanceStatus> {
    Some(InstanceStatus {
        id: view.id.clone(),
        release: release_of(view)?,
        incarnation: view.incarnation,
        phase: view.phase.name().to_owned(),
        pid: view.pid(),
        shim_pid: view.shim_pid,
        port: view.port,
        ready: view.is_ready(),
        last_exit: view.last_exit.map(|last| describe(last.exit)),
        log_dir: view.log_dir.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use agentd_protocol::api::DeployPhase;
    use agentd_protocol::ids::{ReleaseNumber, Version};
    use agentd_protocol::stack::{Proxy, SCHEMA, Span, Stack, StackSection};

    use super::super::testing::{commit, entry, failing, name, ready, views};
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

    fn verdict_of(document: DocumentProblems, report: Report, edge: Option<EdgeProcess>) -> Verdict {
        let (sender, receiver) = watch::channel(document);
        let facts = Facts {
            version: String::new(),
            home: String::new(),
            started_unix_ms: 0,
            external: SocketAddr::from(([127, 0, 0, 1], 8080)),
            limitations: Vec::new(),
            document: receiver,
        };
        let stack = Stack {
            schema: SCHEMA,
            stack: StackSection { name: name("s"), poll_interval: Span::from_secs(15) },
            proxy: Proxy { port: 8080, health_path: None },
            service: vec![entry("api", 'a')],
        };
        let latest = StoredVersion {
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
            reports: &Reports::from([(name("api"), report)]),
            running: &RunProblems::new(),
            views: &views([ready('a')]),
            edge: &EdgeView { edge, ..EdgeView::default() },
            keeper_pid: None,
        };
        let verdict = status(&seen).stack.verdict;
        drop(sender);
        verdict
    }

    #[test]
    fn the_verdict_is_applied_only_when_nothing_is_amiss() {
        let edge = || Some(EdgeProcess { pid: 1, build: String::new() });
        let running = || report(Doing::Settled(Settled::Running));
        let none = DocumentProblems::default;
        assert_eq!(verdict_of(none(), running(), edge()), Verdict::Applied);
        assert_eq!(verdict_of(none(), report(Doing::Building), edge()), Verdict::Applying);
        assert_eq!(verdict_of(none(), running(), None), Verdict::Degraded, "no edge");
        let broken = DocumentProblems { file: Some("line 3".into()), services: Vec::new() };
        assert_eq!(verdict_of(broken, running(), edge()), Verdict::Degraded);
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
        let unresolved = DocumentProblems { file: None, services: vec![gone] };
        assert_eq!(verdict_of(unresolved, running(), edge()), Verdict::Degraded);
    }
}
