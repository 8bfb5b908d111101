//! Between whoever publishes versions, and those who act on them, who do not know each other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentd_protocol::api::{ControlStatus, DeployPhase, Problem};
use agentd_protocol::ids::{ServiceName, Version};
use agentd_protocol::security::Security;
use agentd_protocol::stack::Stack;
use agentd_sys::causes::chain;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::following::{Anew, Following, Joined};
use super::{Error, GitRefs, read};
use crate::config::{self, Home};
use crate::firewall;
use crate::firewall::checks::Answers;
use crate::firewall::files::Files;
use crate::lifecycle;
use crate::policy::Policy;
use crate::reconcile::{self, DocumentProblems, FileProblem};
use crate::store::{Store, StoredVersion};
use crate::sync::control::{self, Control};
use crate::sync::{self, Judge, SyncStatus};

/// Versions that may wait for the reconciler: only the newest matters, the publisher waits for room.
const VERSIONS_MAX: usize = 4;

/// Whom the bridge tells.
pub(super) struct Told {
    pub(super) document: watch::Sender<Option<DocumentProblems>>,
    pub(super) firewall: firewall::Handle,
    pub(super) reconcile: reconcile::Handle,
    pub(super) control: watch::Sender<Option<ControlStatus>>,
    pub(super) anew: watch::Sender<Option<Anew>>,
}

/// Where the edge listens, and who has said so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    /// Another one in a document waits for the next start.
    pub(super) listened: u16,
    /// Of agentd.toml: then the document's does not matter.
    pub(super) owners: Option<u16>,
    /// Nobody has: there was no version yet.
    pub(super) is_provisional: bool,
}

impl Ports {
    pub(super) fn new(listened: u16, owners: Option<u16>, stack: Option<&Stack>) -> Self {
        Self { listened, owners, is_provisional: stack.is_none() }
    }
}

/// By policy.toml as it is when a document comes, and by what is let in then.
pub(super) fn judge(home: &Home) -> Judge {
    let (path, files) = (home.policy_file(), Files::below(&home.state_dir));
    Arc::new(move |stack| {
        let policy = Policy::read(&path).map_err(|error| vec![chain(&error)])?;
        // Rules that cannot be read are the firewall's to report, and nothing is weaker than what nobody knows.
        let active = files.active().ok().flatten();
        let in_force = active.map(|active| Security { mode: active.policy.mode, ssh: active.policy.ssh });
        policy.judge(stack, in_force.as_ref())
    })
}

/// Whom a change of what is let in must not cut off.
pub(super) fn answers(following: &Following) -> Option<Answers> {
    match following {
        Following::Control(joined) => Some(Answers(control::probe(Arc::clone(&joined.identity)))),
        Following::File(_) | Following::Nothing => None,
    }
}

/// Starts what publishes, hands its versions to reconciler and firewall, its troubles to status.
pub(super) async fn start(
    following: Following,
    store: Store,
    refs: Arc<GitRefs>,
    judge: Judge,
    ports: Ports,
    told: Told,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let (versions, queue) = mpsc::channel(VERSIONS_MAX);
    let latest = store.latest_version().await?;
    let publisher = match following {
        Following::File(path) => {
            tracing::info!(stack = %path.display(), "following the stack file");
            let config = sync::FileConfig { path: absolute(&path)?, read, judge };
            Publisher::File(sync::FilePublisher::start(config, refs, store.clone(), versions, cancel.clone())?)
        }
        Following::Control(joined) => {
            tracing::info!(
                url = joined.identity.reach.url,
                stack = joined.identity.stack_name,
                "following the control server"
            );
            start_control(*joined, &store, latest.as_ref(), judge, versions, &told, cancel)?;
            Publisher::elsewhere(latest.filter(|latest| latest.is_current).map(|latest| latest.version))
        }
        Following::Nothing => {
            tracing::info!("following nothing; what was applied last stays in force");
            Publisher::Nobody { _versions: versions, status: Publisher::settled(None) }
        }
    };
    let bridge = Bridge { store, ports, told, status: publisher.status() };
    lifecycle::spawn_essential("versions", cancel.clone(), bridge.run(queue, publisher));
    Ok(())
}

fn start_control(
    joined: Joined,
    store: &Store,
    latest: Option<&StoredVersion>,
    judge: Judge,
    versions: mpsc::Sender<Version>,
    told: &Told,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let Joined { identity, remembered } = joined;
    let (reconcile, firewall) = (told.reconcile.clone(), told.firewall.clone());
    let snapshot: control::SnapshotSource = Arc::new(move || {
        let (reconcile, firewall) = (reconcile.clone(), firewall.clone());
        Box::pin(async move {
            let mut status = reconcile.status().await.ok()?;
            status.security = Some(firewall.brief());
            status.limitations.extend(firewall.limitation());
            Some(status)
        })
    });
    let (masking, noting) = (told.reconcile.clone(), told.reconcile.clone());
    Control::start(control::Setup {
        identity,
        remembered,
        store: store.clone(),
        versions,
        snapshot,
        judge,
        mask: Arc::new(move |record| masking.mask_record(record)),
        note: Arc::new(move |what| noting.note_host(what)),
        ceiling: latest.map(|latest| latest.stack.stack.poll_interval.0),
        newest: latest.filter(|latest| latest.is_current).map(|latest| latest.version),
        status: told.control.clone(),
        cancel: cancel.clone(),
    })?;
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Config(config::Error::Read { path: path.to_owned(), source }))
}

/// Who publishes: it ends with its handle.
enum Publisher {
    File(sync::SyncHandle),
    /// The control server's loop, whose troubles have a status of their own.
    Elsewhere(watch::Sender<SyncStatus>),
    /// Held, so that nobody takes the end of the versions for an end.
    Nobody {
        _versions: mpsc::Sender<Version>,
        status: watch::Sender<SyncStatus>,
    },
}

impl Publisher {
    fn elsewhere(newest: Option<Version>) -> Self {
        Self::Elsewhere(Self::settled(newest))
    }

    /// There is nothing to read: what is in the store is all.
    fn settled(version: Option<Version>) -> watch::Sender<SyncStatus> {
        let last_read_unix_ms = Some(agentd_sys::clock::real_ns() / 1_000_000);
        watch::Sender::new(SyncStatus { version, last_read_unix_ms, ..SyncStatus::default() })
    }

    fn status(&self) -> watch::Receiver<SyncStatus> {
        match self {
            Self::File(handle) => handle.status.clone(),
            Self::Elsewhere(status) | Self::Nobody { status, .. } => status.subscribe(),
        }
    }

    fn published(&self, version: Version) {
        match self {
            Self::File(_) | Self::Nobody { .. } => {}
            Self::Elsewhere(status) => status.send_modify(|status| status.version = Some(version)),
        }
    }
}

/// Between sync and reconcile, which do not know each other.
struct Bridge {
    store: Store,
    ports: Ports,
    told: Told,
    status: watch::Receiver<SyncStatus>,
}

/// What becomes of a version.
enum Taken {
    /// With a port that waits for the next start, where it asks for another one.
    ToApply(Option<u16>),
    /// By the next start, which comes at once.
    Later,
}

impl Bridge {
    async fn run(mut self, mut queue: mpsc::Receiver<Version>, publisher: Publisher) {
        let mut other_port = None;
        match self.store.latest_version().await {
            Ok(latest) => drop(latest.map(|latest| self.secure(&latest.stack))),
            Err(error) => tracing::error!(error = chain(&error), "the last version cannot be read back"),
        }
        self.tell(other_port);
        loop {
            tokio::select! {
                version = queue.recv() => {
                    let Some(version) = version else { return };
                    match self.take(version).await {
                        Taken::ToApply(port) => other_port = port,
                        Taken::Later => continue,
                    }
                    publisher.published(version);
                    if self.told.reconcile.apply(version).await.is_err() { return }
                }
                changed = self.status.changed() => if changed.is_err() { return },
            }
            self.tell(other_port);
        }
    }

    async fn take(&mut self, version: Version) -> Taken {
        let stored = match self.store.version(version).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Taken::ToApply(None),
            Err(error) => {
                tracing::error!(error = chain(&error), "the version cannot be read back");
                return Taken::ToApply(None);
            }
        };
        let asked =
            Some(stored.stack.proxy.port).filter(|port| *port != self.ports.listened && self.ports.owners.is_none());
        if asked.is_some() && self.ports.is_provisional {
            tracing::info!(port = asked, "the first version asks for another port");
            self.told.anew.send_replace(Some(Anew::Port));
            return Taken::Later;
        }
        self.ports.is_provisional = false;
        self.secure(&stored.stack);
        Taken::ToApply(asked)
    }

    /// The port is the one that is listened on, whatever the document asks for by now.
    fn secure(&self, stack: &Stack) {
        self.told.firewall.document_wants(stack.security.clone(), self.ports.listened);
    }

    fn tell(&mut self, other_port: Option<u16>) {
        let status = self.status.borrow_and_update().clone();
        if status.last_read_unix_ms.is_none() {
            return;
        }
        let port = other_port.map(|port| {
            format!(
                "proxy.port {port} takes effect at the next start after `agentctl shutdown`; the edge listens on {}",
                self.ports.listened
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
