//! The last truth for those who cannot ask: a status without what changes by itself, rewritten when it changed. A manager
//! that is killed leaves it as it was; its time says of when it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_protocol::api::{InstanceStatus, Status, TunnelStatus};
use agentd_sys::causes::chain;
use agentd_sys::files::{Durability, write_atomic};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Handle;
use super::routing::Views;
use super::status::{DocumentProblems, instance};
use super::worker::Reports;
use crate::edge::EdgeView;
use crate::lifecycle;

/// Between two looks: changes that come together are one write, and there are five writes a second at most.
const GAP: Duration = Duration::from_millis(200);
/// As the socket: it names homes, ports and pids, and may quote what services print.
const MODE: u32 = 0o600;

/// Whatever a status is made from.
pub(super) struct Sources {
    pub(super) reports: watch::Receiver<Reports>,
    pub(super) views: watch::Receiver<std::sync::Arc<Views>>,
    pub(super) edge: watch::Receiver<EdgeView>,
    pub(super) document: watch::Receiver<Option<DocumentProblems>>,
    /// The newest version was marked as applied.
    pub(super) applied: watch::Receiver<()>,
    pub(super) tunnel: watch::Receiver<Option<TunnelStatus>>,
}

pub(super) fn start(path: PathBuf, handle: Handle, sources: Sources, cancel: CancellationToken) {
    lifecycle::spawn_essential("status file", cancel.clone(), async move {
        // Cancelled or not, the file stays: it is the last truth.
        let _ = cancel.run_until_cancelled(follow(&path, &handle, sources)).await;
    });
}

/// Ends when nothing can change any more.
async fn follow(path: &Path, handle: &Handle, mut sources: Sources) {
    let mut written = None;
    loop {
        if let Ok(status) = handle.status_unmeasured().await {
            write(path, status, &mut written).await;
        }
        tokio::time::sleep(GAP).await;
        if sources.changed().await.is_none() {
            return;
        }
    }
}

impl Sources {
    async fn changed(&mut self) -> Option<()> {
        loop {
            let before = shown(&self.views.borrow_and_update());
            tokio::select! {
                changed = self.reports.changed() => return changed.ok(),
                changed = self.edge.changed() => return changed.ok(),
                changed = self.document.changed() => return changed.ok(),
                changed = self.applied.changed() => return changed.ok(),
                // Closed: there is none, and never will be.
                Ok(()) = self.tunnel.changed() => return Some(()),
                changed = self.views.changed() => changed.ok()?,
            }
            // A probe that says what the one before said changes no status.
            if shown(&self.views.borrow()) != before {
                return Some(());
            }
        }
    }
}

fn shown(views: &Views) -> Vec<(Option<InstanceStatus>, Vec<String>)> {
    views.values().map(|view| (instance(view), view.warnings.clone())).collect()
}

async fn write(path: &Path, status: Status, written: &mut Option<Status>) {
    let same = |before: &Status| Status { at_unix_ms: status.at_unix_ms, ..before.clone() } == status;
    if written.as_ref().is_some_and(same) {
        return;
    }
    let (file, text) = (path.to_owned(), serde_json::to_vec_pretty(&status).expect("a status is plain JSON"));
    let writing =
        lifecycle::spawn_blocking("write the status file", move || write_atomic(&file, &text, MODE, Durability::Crash));
    match writing.await {
        Ok(Ok(())) => *written = Some(status),
        // The runtime ends: what lies there is the last truth.
        Err(_) => {}
        Ok(Err(error)) => tracing::warn!(path = %path.display(), error = chain(&error), "status file is not written"),
    }
}
