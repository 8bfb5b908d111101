//! Between the stack file and those who act on it, who do not know each other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentd_protocol::api::{DeployPhase, Problem};
use agentd_protocol::ids::{ServiceName, Version};
use agentd_protocol::stack::Stack;
use agentd_sys::causes::chain;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Error, GitRefs, RunOptions, read};
use crate::config::{self, Home};
use crate::firewall;
use crate::lifecycle;
use crate::reconcile::{self, DocumentProblems, FileProblem};
use crate::store::Store;
use crate::sync::{self, SyncStatus};

/// Versions that may wait for the reconciler: only the newest matters, the publisher waits for room.
const VERSIONS_MAX: usize = 4;

/// Whom the bridge tells.
pub(super) struct Told {
    pub(super) document: watch::Sender<Option<DocumentProblems>>,
    pub(super) firewall: firewall::Handle,
    pub(super) reconcile: reconcile::Handle,
}

/// Where outside traffic comes in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port {
    /// Another one in a document waits for the next start.
    pub(super) listened: u16,
    /// By the host's settings, whatever a document says.
    pub(super) wanted: Option<u16>,
}

/// Starts the publisher on the stack file, hands its versions to reconciler and firewall, its troubles to status.
pub(super) fn start(
    options: &RunOptions,
    home: &Home,
    store: Store,
    refs: Arc<GitRefs>,
    port: Port,
    told: Told,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let (versions, queue) = mpsc::channel(VERSIONS_MAX);
    let config = sync::FileConfig { path: absolute(&options.stack)?, read };
    let publisher = sync::FilePublisher::start(config, refs, store.clone(), versions, cancel.clone())?;
    tracing::info!(stack = %options.stack.display(), home = %home.places.shown(), "following the stack file");
    let bridge = Bridge { store, port, told, status: publisher.status.clone() };
    lifecycle::spawn_essential("versions", cancel.clone(), bridge.run(queue, publisher));
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Config(config::Error::Read { path: path.to_owned(), source }))
}

/// Between sync and reconcile, which do not know each other.
struct Bridge {
    store: Store,
    port: Port,
    told: Told,
    status: watch::Receiver<SyncStatus>,
}

impl Bridge {
    /// The publisher ends with its handle.
    async fn run(mut self, mut queue: mpsc::Receiver<Version>, _publisher: sync::SyncHandle) {
        let mut other_port = None;
        match self.store.latest_version().await {
            Ok(latest) => drop(latest.map(|latest| self.secure(&latest.stack))),
            Err(error) => tracing::error!(error = chain(&error), "the last version cannot be read back"),
        }
        loop {
            tokio::select! {
                version = queue.recv() => {
                    let Some(version) = version else { return };
                    other_port = self.take(version).await;
                    if self.told.reconcile.apply(version).await.is_err() { return }
                }
                changed = self.status.changed() => if changed.is_err() { return },
            }
            self.tell(other_port);
        }
    }

    /// A port that waits for the next start, where the version asks for one.
    async fn take(&self, version: Version) -> Option<u16> {
        match self.store.version(version).await {
            Ok(stored) => {
                let stack = stored?.stack;
                self.secure(&stack);
                Some(self.port.wanted.unwrap_or(stack.proxy.port)).filter(|port| *port != self.port.listened)
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "the version cannot be read back");
                None
            }
        }
    }

    /// The port is the one that is listened on, whatever the document asks for by now.
    fn secure(&self, stack: &Stack) {
        self.told.firewall.document_wants(stack.security.clone(), self.port.listened);
    }

    fn tell(&mut self, other_port: Option<u16>) {
        let status = self.status.borrow_and_update().clone();
        if status.last_read_unix_ms.is_none() {
            return;
        }
        let port = other_port.map(|port| {
            format!(
                "proxy.port {port} takes effect at the next start after `agentctl shutdown`; the edge listens on {}",
                self.port.listened
            )
        });
        self.told.document.send_modify(|told| {
            let before = told.take().unwrap_or_default();
            let troubles = status.unresolved.into_iter().chain(status.stale);
            let services = troubles.map(|(service, cause)| unresolved(service, cause, &before.services)).collect();
            let file = status.file_problem.or(port).map(|text| file_problem(text, before.file));
            let (version, reading) = (status.version, status.reading);
            *told = Some(DocumentProblems { file, services, version, reading });
        });
    }
}

/// What was told before keeps its time.
fn file_problem(text: String, told: Option<FileProblem>) -> FileProblem {
    let since_unix_ms = agentd_sys::clock::real_ns() / 1_000_000;
    told.filter(|told| told.text == text).unwrap_or(FileProblem { text, since_unix_ms })
}

/// A ref that cannot be resolved now; what was told before keeps its time.
fn unresolved(service: ServiceName, cause: String, told: &[Problem]) -> Problem {
    let before = told.iter().find(|problem| problem.service.as_ref() == Some(&service) && problem.cause == cause);
    before.cloned().unwrap_or_else(|| Problem {
        service: Some(service),
        phase: DeployPhase::Fetch,
        cause,
        commit: None,
        release: None,
        probes: Vec::new(),
        log_tail: Vec::new(),
        why: Default::default(),
        since_unix_ms: agentd_sys::clock::real_ns() / 1_000_000,
    })
}
