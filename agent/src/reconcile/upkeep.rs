//! What has to be done beside the workers, as long as the manager lives: following hints of the edge, removing old
//! logs, watching the store.

use std::time::Duration;

use agentd_protocol::ids::InstanceId;
use agentd_sys::causes::chain;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::hosts::MachineFile;
use super::worker::Rooms;
use crate::edge::BackendKey;
use crate::lifecycle;
use crate::supervisor::Supervisor;

/// Log folders of gone instances pile up with deploys and crash loops, not by the minute.
const LOG_SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How soon instances see a change of the machine's own /etc/hosts.
const NAMES_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn start(rooms: &Rooms, cancel: &CancellationToken) {
    let store = rooms.store.clone();
    spawn("store watch", cancel, async move { store.stopped().await });
    spawn("edge hints", cancel, follow_hints(rooms.edge.unreachable(), rooms.supervisor.clone()));
    spawn("log sweep", cancel, sweep_logs(rooms.supervisor.clone()));
    spawn("names", cancel, follow_machine_names(rooms.clone()));
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

/// The kernel ends mounts over a file that is replaced by rename, and editors replace /etc/hosts that way.
async fn follow_machine_names(rooms: Rooms) {
    let mut interval = tokio::time::interval(NAMES_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = rooms.hosts.replaced() => {}
        }
        if let (MachineFile::Another, Some(file)) = (rooms.hosts.refresh(), rooms.hosts.for_instances()) {
            rooms.supervisor.renew_hosts(&file).await;
        }
    }
}
