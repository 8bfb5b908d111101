//! From an edge of before an upgrade to one of ours, on the same sockets: the old one ends when the new one routes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::state::Phase;
use agentd_sys::causes::chain;
use tokio::sync::watch;

use super::{end, running};
use crate::edge::EdgeView;
use crate::supervisor::{InstanceView, Supervisor};

/// After this it is said that the new edge does not route; it starts from the copy on disk in a fraction of a second.
const ROUTES_LIMIT: Duration = Duration::from_secs(60);

/// Whether what runs there is the file we are. `false` also for what does not run, or was told to end: who told it may
/// be gone.
pub(super) fn runs_our_program(view: &InstanceView) -> bool {
    let pid = match &view.phase {
        Phase::Starting { program } | Phase::Up { program, .. } => program.pid,
        Phase::Down
        | Phase::Stopping { .. }
        | Phase::Clearing { .. }
        | Phase::Backoff { .. }
        | Phase::Quarantined { .. } => return false,
    };
    let file = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let theirs = file(Path::new(&format!("/proc/{pid}/exe")));
    theirs.is_some() && theirs == file(Path::new("/proc/self/exe"))
}

/// Lets go of edges that serve nobody: without this, one that never comes up would be joined by another at every start.
pub(super) async fn end_idle(supervisor: &Supervisor, edges: &[InstanceView]) {
    for view in edges.iter().filter(|view| view.pid().is_none()) {
        if let Err(error) = end(supervisor, view).await {
            tracing::warn!(error = chain(&error), instance = %view.id, "an edge that does not run cannot be removed");
        }
    }
}

/// Ends the edges of before once the one that is connected routes. Until it does, they go on serving.
pub async fn retire(supervisor: Supervisor, mut edge: watch::Receiver<EdgeView>, old: Vec<InstanceId>) {
    if old.is_empty() {
        return;
    }
    if !routes(&mut edge).await {
        return;
    }
    for view in running(&supervisor).iter().filter(|view| old.contains(&view.id)) {
        tracing::info!(instance = %view.id, "the old edge drains and ends");
        if let Err(error) = end(&supervisor, view).await {
            tracing::error!(error = chain(&error), "the old edge does not end; the next start of agentd tries again");
        }
    }
}

/// Returns when the edge that is connected routes, however late: two that route by different snapshots are no state to
/// stay in. `false`: the manager ends.
async fn routes(edge: &mut watch::Receiver<EdgeView>) -> bool {
    let does = |view: &EdgeView| view.edge.is_some() && view.generation.is_some();
    match tokio::time::timeout(ROUTES_LIMIT, edge.wait_for(does)).await {
        Ok(routes) => return routes.is_ok(),
        Err(_) => {
            tracing::error!("the new edge does not come up; the old one goes on routing: see `agentctl logs edge`");
        }
    }
    edge.wait_for(does).await.is_ok()
}

#[cfg(test)]
mod tests {
    use agentd_protocol::ids::Generation;

    use super::*;
    use crate::edge::EdgeProcess;

    #[tokio::test(start_paused = true)]
    async fn an_edge_that_comes_up_late_still_takes_over() {
        let (sender, mut edge) = watch::channel(EdgeView::default());
        let waiting = routes(&mut edge);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(ROUTES_LIMIT * 3, &mut waiting).await.is_err(), "gave up on it");
        sender.send_modify(|view| view.edge = Some(EdgeProcess { pid: 1, build: String::new() }));
        assert!(tokio::time::timeout(ROUTES_LIMIT, &mut waiting).await.is_err(), "is there, and routes nothing yet");
        sender.send_modify(|view| view.generation = Some(Generation(1)));
        assert!(waiting.await);
    }
}
