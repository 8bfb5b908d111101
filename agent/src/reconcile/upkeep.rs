//! What has to be done beside the workers, as long as the manager lives: noting what happened to instances, following
//! hints of the edge, removing old logs, watching the store.

use std::time::Duration;

use agentd_protocol::ids::{InstanceId, ServiceName};
use agentd_protocol::shim::event::{Event, EventKind};
use agentd_sys::causes::chain;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gate::describe;
use super::routing::Views;
use super::worker::{Rooms, release_of};
use crate::edge::BackendKey;
use crate::lifecycle;
use crate::store::NewEvent;
use crate::supervisor::{InstanceView, Supervisor};

/// Log folders of gone instances pile up with deploys and crash loops, not by the minute.
const LOG_SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Events written in one period; each is a transaction on disk, and a crash loop of many services must not own it.
const EVENTS_PER_PERIOD: u32 = 200;
const PERIOD: Duration = Duration::from_secs(10);

pub(super) fn start(rooms: &Rooms, cancel: &CancellationToken) {
    let store = rooms.store.clone();
    spawn("store watch", cancel, async move { store.stopped().await });
    spawn("edge hints", cancel, follow_hints(rooms.edge.unreachable(), rooms.supervisor.clone()));
    spawn("log sweep", cancel, sweep_logs(rooms.supervisor.clone()));
    let events = rooms.supervisor.events().expect("this is the one reader");
    spawn("event log", cancel, write_events(events, rooms.clone()));
}

/// Starts work that goes on until the manager ends.
pub(super) fn spawn(name: &'static str, cancel: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    lifecycle::spawn_essential(name, cancel.clone(), stop_with(cancel.clone(), work));
}

async fn stop_with(cancel: CancellationToken, work: impl Future<Output = ()>) {
    // Cancelled: the manager ends, and nothing here is worth waiting for.
    let _ = cancel.run_until_cancelled(work).await;
}

/// A backend that refused the edge is looked at now, not at its next probe.
async fn follow_hints(mut hints: broadcast::Receiver<BackendKey>, supervisor: Supervisor) {
    loop {
        match hints.recv().await {
            Ok((instance, _)) => supervisor.probe_now(&instance),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                let all: Vec<InstanceId> = supervisor.view().borrow().keys().cloned().collect();
                all.iter().for_each(|instance| supervisor.probe_now(instance));
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

async fn sweep_logs(supervisor: Supervisor) {
    let mut interval = tokio::time::interval(LOG_SWEEP_INTERVAL);
    loop {
        interval.tick().await;
        let supervisor = supervisor.clone();
        match lifecycle::spawn_blocking("log sweep", move || supervisor.sweep_logs()).await {
            Ok(Ok(removed)) => tracing::debug!(removed, "old log folders"),
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "old log folders stay until the next sweep"),
            // A panic has been reported by the runtime.
            Err(_) => {}
        }
    }
}

async fn write_events(mut events: mpsc::Receiver<(InstanceId, Event)>, rooms: Rooms) {
    let mut budget = Budget { since: Instant::now(), written: 0, passed_over: 0 };
    let views = rooms.supervisor.view();
    while let Some((instance, event)) = events.recv().await {
        let Some(passed_over) = budget.take(Instant::now()) else { continue };
        if passed_over > 0 {
            tracing::warn!(passed_over, "more happened to instances than the event log takes");
        }
        let views = views.borrow().clone();
        let event = new_event(&instance, &event, &views);
        if let Err(error) = rooms.store.record_event(event).await {
            tracing::warn!(%instance, error = chain(&error), "not noted in the event log");
        }
    }
}

/// How many events were written in this period.
struct Budget {
    since: Instant,
    written: u32,
    passed_over: u64,
}

impl Budget {
    /// Leave to write one, with the number that had none since the last; `None` when the period's share is used up.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= PERIOD {
            self.since = now;
            self.written = 0;
        }
        if self.written == EVENTS_PER_PERIOD {
            self.passed_over += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.passed_over))
    }
}

fn new_event(instance: &InstanceId, event: &Event, views: &Views) -> NewEvent {
    let view: Option<&InstanceView> = views.get(instance);
    let release = view.and_then(release_of);
    // The edge and builds are no service's releases.
    let service = view.filter(|_| release.is_some()).and_then(|view| ServiceName::new(view.service.clone()).ok());
    let (kind, what) = words(event.kind);
    let cause = json!({
        "instance": instance,
        "incarnation": event.incarnation,
        "pid": event.pid,
        "at_unix_ms": event.real_ns / 1_000_000,
        "what": what,
    });
    NewEvent { service, release, kind: kind.to_owned(), cause }
}

fn words(kind: EventKind) -> (&'static str, Value) {
    match kind {
        EventKind::Started => ("instance.started", Value::Null),
        EventKind::Exited { exit, uptime_ms } => {
            ("instance.exited", json!({ "exit": describe(exit), "uptime_ms": uptime_ms }))
        }
        EventKind::Backoff { .. } => ("instance.backoff", Value::Null),
        EventKind::Quarantined { .. } => ("instance.crash-loop", Value::Null),
        EventKind::Stopping => ("instance.stopping", Value::Null),
        EventKind::Stopped => ("instance.stopped", Value::Null),
        EventKind::Adopted => ("instance.adopted", Value::Null),
        EventKind::Stragglers { count } => ("instance.stragglers", json!({ "count": count })),
        EventKind::LogDropped { bytes } => ("instance.log-dropped", json!({ "bytes": bytes })),
        EventKind::Unkillable { count } => ("instance.unkillable", json!({ "count": count })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_events_is_cut_and_counted() {
        let start = Instant::now();
        let mut budget = Budget { since: start, written: 0, passed_over: 0 };
        for _ in 0..EVENTS_PER_PERIOD {
            assert_eq!(budget.take(start), Some(0));
        }
        assert_eq!(budget.take(start), None);
        assert_eq!(budget.take(start), None);
        assert_eq!(budget.take(start + PERIOD), Some(2), "a new period tells how many were lost");
        assert_eq!(budget.take(start + PERIOD), Some(0));
    }
}
