//! Who goes first: a service is started after those it depends on, and stopped after those that depend on it. Only a
//! service that does not run yet waits: a redeploy of one waits for nobody.

use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::ids::ServiceName;
use agentd_protocol::order::{Needs, steps};
use agentd_protocol::stack::Service;
#[cfg(test)]
use agentd_protocol::stack::Span;

use super::routing::Views;
use super::worker::{Doing, Report, Reports, RunWish, Wanted, Worker};
use crate::supervisor::{InstanceView, Label};

/// Longest wait for others to be ready: a build of theirs may be under way. Then the service is started all the same.
const READY_LIMIT: Duration = Duration::from_secs(35 * 60);
/// Longest wait for others to end: each ends by its own limits, this is for one whose shim does not answer.
const STOP_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Whom an order to run `entry` lets go first: of those it depends on, the ones this version has.
pub(super) fn before_start(stack: &[Service], entry: Option<&Service>) -> Arc<[ServiceName]> {
    let is_there = |name: &&ServiceName| stack.iter().any(|other| other.name == **name);
    entry.iter().flat_map(|entry| &entry.depends_on).filter(is_there).cloned().collect()
}

/// Whom an order to stop `name` lets go first: those that depend on it.
pub(super) fn before_stop(stack: &[Service], name: &ServiceName) -> Arc<[ServiceName]> {
    stack.iter().filter(|entry| entry.depends_on.contains(name)).map(|entry| entry.name.clone()).collect()
}

/// How long stopping all of them takes at most, one step after the other.
pub(super) fn stop_limit(stack: &[Service]) -> Duration {
    let needs: Needs<'_> = stack.iter().map(|entry| (&entry.name, entry.depends_on.as_slice())).collect();
    let stop = |entry: &Service| entry.drain.0 + entry.stop.timeout.0;
    let longest = |step: &Vec<&ServiceName>| {
        stack.iter().filter(|entry| step.contains(&&entry.name)).map(stop).max().unwrap_or_default()
    };
    match steps(&needs) {
        Ok(steps) => steps.iter().map(longest).sum(),
        // Validation refuses circles; an older version's document may be anything.
        Err(_) => stack.iter().map(stop).sum(),
    }
}

impl Worker {
    /// Returns when the others have got as far as the order wants them, or will not.
    pub(super) async fn wait_turn(&self, wanted: &Wanted) {
        if wanted.after.is_empty() {
            return;
        }
        let mut reports = self.rooms.reports.subscribe();
        let mut views = self.rooms.supervisor.view();
        let limit = match wanted.run {
            RunWish::Run | RunWish::RunFresh => READY_LIMIT,
            RunWish::Stop => STOP_LIMIT,
        };
        let waiting = async {
            loop {
                let told = reports.borrow_and_update().clone();
                let seen = views.borrow_and_update().clone();
                let left: Vec<_> =
                    wanted.after.iter().filter(|name| !is_past(wanted.run, name, &told, &seen)).collect();
                if left.is_empty() {
                    return;
                }
                tracing::debug!(service = %self.name, others = ?left, "waits for others");
                // Neither ends before the manager does.
                tokio::select! {
                    _ = reports.changed() => {}
                    _ = views.changed() => {}
                }
            }
        };
        if tokio::time::timeout(limit, waiting).await.is_err() {
            tracing::warn!(service = %self.name, ?limit, "others are not as far as they should be; going on without");
        }
    }
}

fn is_past(run: RunWish, name: &ServiceName, told: &Reports, seen: &Views) -> bool {
    let mut running = seen.values().filter(|view| is_running(view, name));
    match run {
        // One that failed keeps nobody waiting: it is retried, and its absence is answered by the proxy.
        RunWish::Run | RunWish::RunFresh => {
            running.any(InstanceView::is_ready) || told.get(name).is_some_and(is_settled)
        }
        RunWish::Stop => running.next().is_none(),
    }
}

fn is_running(view: &InstanceView, name: &ServiceName) -> bool {
    view.service == name.as_str() && matches!(view.label, Label::Instance { .. }) && view.pid().is_some()
}

fn is_settled(report: &Report) -> bool {
    matches!(report.doing, Doing::Settled(_))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, name};
    use super::*;

    fn stack() -> Vec<Service> {
        let with = |text: &str, on: &[&str], stop_secs: u64| {
            let mut entry = testing::entry(text, 'a');
            entry.depends_on = on.iter().map(|on| name(on)).collect();
            (entry.drain, entry.stop.timeout) = (Span(Duration::ZERO), Span(Duration::from_secs(stop_secs)));
            entry
        };
        vec![with("web", &["api", "gone"], 1), with("api", &["db"], 2), with("jobs", &["db"], 8), with("db", &[], 4)]
    }

    #[test]
    fn dependencies_go_first_and_stay_longest() {
        let stack = stack();
        assert_eq!(
            *before_start(&stack, Some(&stack[0])),
            [name("api")],
            "what the version does not have is not waited for"
        );
        assert_eq!(*before_stop(&stack, &name("db")), [name("api"), name("jobs")]);
        assert!(before_start(&stack, None).is_empty() && before_stop(&stack, &name("web")).is_empty());
    }

    #[test]
    fn stopping_takes_the_longest_of_each_step() {
        assert_eq!(stop_limit(&stack()), Duration::from_secs(1 + 8 + 4));
        assert_eq!(stop_limit(&[]), Duration::ZERO);
    }
}
