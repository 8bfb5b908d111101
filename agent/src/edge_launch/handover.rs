//! From an edge of before an upgrade to one of ours, on the same sockets: the old one ends when the new one routes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use agentd_protocol::ids::InstanceId;
use agentd_sys::causes::chain;
use tokio::sync::watch;

use super::{end, running};
use crate::edge::EdgeView;
use crate::supervisor::{InstanceView, Supervisor};

/// For the new edge to be there and to route; it starts from the copy on disk in a fraction of a second.
const ROUTES_LIMIT: Duration = Duration::from_secs(60);

/// Whether what runs there is the file we are. `false` also for what does not run.
pub(super) fn is_our_program(view: &InstanceView) -> bool {
    let file = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let theirs = view.pid().and_then(|pid| file(Path::new(&format!("/proc/{pid}/exe"))));
    theirs.is_some() && theirs == file(Path::new("/proc/self/exe"))
}

/// Ends the edges of before once the one that is connected routes. If it never does, they go on serving.
pub async fn retire(supervisor: Supervisor, mut edge: watch::Receiver<EdgeView>, old: Vec<InstanceId>) {
    if old.is_empty() {
        return;
    }
    let routes = edge.wait_for(|view| view.edge.is_some() && view.generation.is_some());
    if !matches!(tokio::time::timeout(ROUTES_LIMIT, routes).await, Ok(Ok(_))) {
        tracing::error!("the new edge does not come up; the old one goes on routing: see `agentctl logs edge`");
        return;
    }
    for view in running(&supervisor).iter().filter(|view| old.contains(&view.id)) {
        tracing::info!(instance = %view.id, "the old edge drains and ends");
        if let Err(error) = end(&supervisor, view).await {
            tracing::error!(error = chain(&error), "the old edge does not end; the next start of agentd tries again");
        }
    }
}
