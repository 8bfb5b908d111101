//! Services that were deployed well and do not run well now: a problem for each, made anew when something happens to
//! the instance it is about.

use std::collections::BTreeMap;
use std::time::Duration;

use agentd_protocol::api::{DeployPhase, Problem};
use agentd_protocol::ids::{InstanceId, ServiceName};
use agentd_protocol::shim::state::{Exit, Phase};
use agentd_sys::causes::chain;
use tokio::sync::watch;

use super::gate::{describe, last_probe};
use super::routing::Views;
use super::why::{self, Failure};
use super::worker::{Doing, Reports, Rooms, Settled, problem_of, release_of, unix_ms};
use crate::supervisor::{InstanceView, Readiness};

pub(super) type RunProblems = BTreeMap<ServiceName, Problem>;

/// Pause between two looks: probes alone change the views many times a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What is wrong with a service's worst instance; another value of it is a reason to look again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    instance: InstanceId,
    kind: Kind,
    restarts: u32,
}

/// The worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// It was ready and fails its health check.
    Unhealthy,
    /// It was restarted and does not get ready.
    NotReady,
    /// It ended, and is about to be or has just been started again.
    Ended,
    CrashLoop,
}

/// Keeps the problems of running services up to date; never returns but at the end of the supervisor.
pub(super) async fn watch(rooms: Rooms, mut reports: watch::Receiver<Reports>, problems: watch::Sender<RunProblems>) {
    let mut views = rooms.supervisor.view();
    let mut known: BTreeMap<ServiceName, Trouble> = BTreeMap::new();
    loop {
        // Copies, as two borrows at once may each wait for the other's writer.
        let (told, seen) = (reports.borrow_and_update().clone(), views.borrow_and_update().clone());
        let troubles = troubles(&told, &seen);
        for (service, trouble) in &troubles {
            if known.get(service) == Some(trouble) {
                continue;
            }
            let Some(view) = seen.get(&trouble.instance) else { continue };
            let since = problems.borrow().get(service).map_or_else(unix_ms, |problem| problem.since_unix_ms);
            let problem = Problem { since_unix_ms: since, ..problem(&rooms, service, trouble, view).await };
            problems.send_modify(|problems| drop(problems.insert(service.clone(), problem)));
        }
        if known.keys().any(|service| !troubles.contains_key(service)) {
            problems.send_modify(|problems| problems.retain(|service, _| troubles.contains_key(service)));
        }
        known = troubles;
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            changed = reports.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The problems that are true at this moment: one that has passed may not have been taken back yet.
pub(super) fn current(problems: &RunProblems, reports: &Reports, views: &Views) -> RunProblems {
    let troubles = troubles(reports, views);
    problems
        .iter()
        .filter(|(service, _)| troubles.contains_key(*service))
        .map(|(s, p)| (s.clone(), p.clone()))
        .collect()
}

/// The sentence of it alone, for the moment before the whole problem is put together.
pub(super) fn cause_of(service: &ServiceName, reports: &Reports, views: &Views) -> Option<String> {
    let trouble = troubles(reports, views).remove(service)?;
    views.get(&trouble.instance).map(|view| cause(trouble.kind, view))
}

/// The services in trouble, and their worst instance. One whose deploy has just failed for the release that serves has
/// its problem already.
fn troubles(reports: &Reports, views: &Views) -> BTreeMap<ServiceName, Trouble> {
    let mut found: BTreeMap<ServiceName, Trouble> = BTreeMap::new();
    for view in views.values() {
        let Ok(service) = ServiceName::new(view.service.clone()) else { continue };
        let Some(report) = reports.get(&service) else { continue };
        let settled = matches!(report.doing, Doing::Settled(Settled::Running | Settled::Failed));
        let active = report.active.as_ref().map(|active| active.release);
        let told = report.problem.as_ref().is_some_and(|problem| problem.release == active);
        if !settled || told || active.is_none() || release_of(view) != active {
            continue;
        }
        let Some(kind) = kind(view) else { continue };
        if found.get(&service).is_none_or(|worst| worst.kind < kind) {
            found.insert(service, Trouble { instance: view.id.clone(), kind, restarts: view.restarts });
        }
    }
    found
}

fn kind(view: &InstanceView) -> Option<Kind> {
    match (&view.phase, view.readiness) {
        (Phase::Quarantined { .. }, _) => Some(Kind::CrashLoop),
        (Phase::Down | Phase::Stopping { .. } | Phase::Clearing { .. }, _) | (_, Readiness::Ready { .. }) => None,
        (Phase::Backoff { .. }, _) => Some(Kind::Ended),
        (Phase::Starting { .. } | Phase::Up { .. }, Readiness::Failing { .. }) => Some(Kind::Unhealthy),
        (Phase::Starting { .. } | Phase::Up { .. }, Readiness::StartDeadlineOver { .. }) => Some(Kind::NotReady),
        (Phase::Starting { .. } | Phase::Up { .. }, Readiness::NotReady { .. }) => {
            (view.restarts > 0).then_some(Kind::Ended)
        }
    }
}

fn cause(kind: Kind, view: &InstanceView) -> String {
    let exit = view.last_exit.map_or_else(|| "ended".to_owned(), |last| describe(last.exit));
    let restarts = match view.restarts {
        1 => "restarted once".to_owned(),
        count => format!("restarted {count} times"),
    };
    match kind {
        Kind::Unhealthy => format!("was ready and fails now: {}", last_probe(view)),
        Kind::NotReady => format!("does not get ready again ({restarts}): {}", last_probe(view)),
        Kind::Ended => format!("ended while it served: {exit}; {restarts}"),
        Kind::CrashLoop => format!("crash loop: {exit}; {restarts}, tried again every 5 minutes"),
    }
}

async fn problem(rooms: &Rooms, service: &ServiceName, trouble: &Trouble, view: &InstanceView) -> Problem {
    let mut problem = problem_of(service, rooms, DeployPhase::Run, cause(trouble.kind, view));
    problem.probes = view.probes.iter().cloned().collect();
    problem.release = release_of(view);
    let exit: Option<Exit> = match trouble.kind {
        Kind::Ended | Kind::CrashLoop => view.last_exit.map(|last| last.exit),
        Kind::Unhealthy | Kind::NotReady => None,
    };
    let failure = Failure { service, instance: &view.id, exit, warnings: &view.warnings };
    why::look_into(&mut problem, rooms, &failure);
    match rooms.store.active_release(service).await {
        Ok(Some(release)) if Some(release.number) == problem.release => {
            problem.commit = Some(release.commit.clone());
            why::compare(&mut problem, rooms, &release).await;
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%service, error = chain(&error), "the release in trouble cannot be looked up"),
    }
    problem
}

#[cfg(test)]
mod tests {
    use agentd_protocol::ids::ReleaseNumber;

    use super::super::testing::{commit, ended, failing, name, not_ready, ready, views};
    use super::super::worker::{Active, Report};
    use super::*;

    fn reports(doing: Doing, problem: Option<Problem>) -> Reports {
        let active = Some(Active { release: ReleaseNumber(1), commit: commit('a') });
        Reports::from([(name("api"), Report { ticket: 1, doing, problem, active, since_unix_ms: 1 })])
    }

    fn kind_of(doing: Doing, seen: impl IntoIterator<Item = InstanceView>) -> Option<Kind> {
        troubles(&reports(doing, None), &views(seen)).get(&name("api")).map(|trouble| trouble.kind)
    }

    #[test]
    fn the_worst_instance_of_a_settled_service_speaks_for_it() {
        let running = Doing::Settled(Settled::Running);
        let looping =
            || InstanceView { phase: Phase::Quarantined { retry_at_boot_ms: 1 }, restarts: 9, ..not_ready('c') };
        let again = || InstanceView { restarts: 1, last_exit: ended(Exit::Code(5)), ..not_ready('d') };
        assert_eq!(kind_of(running, [ready('a')]), None);
        assert_eq!(kind_of(running, [not_ready('a')]), None, "it starts for the first time");
        assert_eq!(kind_of(running, [ready('a'), failing('b')]), Some(Kind::Unhealthy));
        assert_eq!(kind_of(running, [failing('b'), again()]), Some(Kind::Ended));
        assert_eq!(kind_of(running, [looping(), again(), failing('b')]), Some(Kind::CrashLoop));
        assert_eq!(kind_of(Doing::Starting, [looping()]), None, "a deploy speaks for itself");
        assert_eq!(cause(Kind::Ended, &again()), "ended while it served: exit code 5; restarted once");
    }
}
