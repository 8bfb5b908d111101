//! Wires the rooms together, in the order in which they need each other; the only file that sees all of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentd_document::Format;
use agentd_protocol::api::{DeployPhase, Problem, STATUS_FILE};
use agentd_protocol::exit_code::Exit;
use agentd_protocol::ids::{Commit, ServiceName, Version};
use agentd_protocol::places::Layout;
use agentd_protocol::shim::hosts::{Advice, advice};
use agentd_protocol::stack::Stack;
use agentd_sys::causes::chain;
use agentd_sys::files::{Lock, NotLocked};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api};
use crate::config::{Home, RunUser, Settings};
use crate::edge::EdgeClient;
use crate::edge_launch::{self, EdgePlace, Listening};
use crate::logging::Times;
use crate::reconcile::{self, DocumentProblems, FileProblem, Naming};
use crate::source::{self, Source};
use crate::store::Store;
use crate::supervisor::{self, Scope, Supervisor, private_hosts};
use crate::sync::{self, SyncStatus};
use crate::{config, edge, lifecycle, logging, static_site};

/// Versions that may wait for the reconciler: only the newest matters, the publisher waits for room.
const VERSIONS_MAX: usize = 4;

/// The suffix names live under until a document may set it.
const SUFFIX: &str = "svc.internal";

#[derive(Debug, Clone)]
pub struct RunOptions {
    pub stack: PathBuf,
    /// `None`: the agent of the machine.
    pub home: Option<PathBuf>,
    pub run_as: Option<String>,
    pub public: bool,
}

/// Why the program ends other than asked to. Each has its exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("another agentd{} runs on {home}; `agentctl --home {home} status` shows it", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked { home: String, pid: Option<u32> },
    #[error("the lock of {home} cannot be taken: is the folder writable?")]
    Lock {
        home: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot log to {path}")]
    Log {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("hosts file {path} cannot be made; look at the folder's owner and the free space")]
    Hosts {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Document(DocumentError),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    #[error(transparent)]
    Source(#[from] crate::source::Error),
    #[error(transparent)]
    Supervisor(#[from] crate::supervisor::Error),
    #[error(transparent)]
    Shim(#[from] crate::supervisor::shim_binary::Error),
    #[error(transparent)]
    Reconcile(#[from] crate::reconcile::Error),
    #[error(transparent)]
    Edge(#[from] edge::Error),
    #[error(transparent)]
    EdgeLaunch(#[from] edge_launch::Error),
    #[error(transparent)]
    Api(#[from] crate::api::Error),
    #[error(transparent)]
    Sync(#[from] crate::sync::Error),
    #[error(transparent)]
    StaticSite(#[from] static_site::Error),
}

/// A document that cannot be used, every problem on a line of its own.
#[derive(Debug)]
pub struct DocumentError {
    pub problems: Vec<String>,
}

impl std::fmt::Display for DocumentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the stack file cannot be used, and no version of it was ever applied here")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Error {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Store(_) | Self::Lock { .. } | Self::Log { .. } | Self::Hosts { .. } => Exit::Home,
            Self::Locked { .. } => Exit::Locked,
            Self::Document(_) => Exit::Invalid,
            Self::EdgeLaunch(edge_launch::Error::PortTaken { .. }) => Exit::PortTaken,
            Self::Runtime(_)
            | Self::Source(_)
            | Self::Supervisor(_)
            | Self::Shim(_)
            | Self::Reconcile(_)
            | Self::Edge(_)
            | Self::EdgeLaunch(_)
            | Self::Api(_)
            | Self::Sync(_)
            | Self::StaticSite(_) => Exit::Failed,
        }
    }
}

/// `agentd edge`
pub fn edge(snapshot: PathBuf) -> Result<(), Error> {
    logging::to_stderr();
    Ok(edge::run(edge::EdgeOptions::from_env(Some(snapshot))?)?)
}

/// `agentd static`
pub fn static_site(options: static_site::Options) -> Result<(), Error> {
    logging::to_stderr();
    Ok(static_site::run(options)?)
}

/// `agentd run`
pub fn run(options: &RunOptions) -> Result<Exit, Error> {
    let home = Home::open(options.home.as_deref())?;
    let _lock = lock(&home)?;
    let times = if lifecycle::service::logs_to_journal() { Times::Journal } else { Times::Own };
    logging::to_stderr_and(&home.agent_log_file(), times)?;
    lifecycle::service::status("starting");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        let app = App::build(options, home).await?;
        app.wait().await
    })
}

async fn listen(supervisor: &Supervisor, place: &EdgePlace) -> Result<Listening, Error> {
    match edge_launch::ensure(supervisor, place).await {
        Ok(listening) => Ok(listening),
        Err(error) => {
            leave_nothing(supervisor).await;
            Err(error.into())
        }
    }
}

/// A first start that fails leaves no keeper behind; where instances run already, theirs stays.
async fn leave_nothing(supervisor: &Supervisor) {
    if !supervisor.view().borrow().is_empty() {
        return;
    }
    if let Err(error) = supervisor.shutdown().await {
        tracing::warn!(%error, "the keeper that was started for nothing does not end");
    }
}

fn lock(home: &Home) -> Result<Lock, Error> {
    let shown = home.places.shown();
    Lock::take(&home.lock_file()).map_err(|refused| match refused {
        NotLocked::Held { pid } => Error::Locked { home: shown, pid },
        NotLocked::Io(source) => Error::Lock { home: shown, source },
    })
}

/// A running manager.
struct App {
    layout: Layout,
    supervisor: Supervisor,
    reconcile: reconcile::Handle,
    /// Ends every task; services run on.
    cancel: CancellationToken,
    /// Set by `agentctl shutdown`.
    down: CancellationToken,
}

impl App {
    async fn build(options: &RunOptions, home: Home) -> Result<Self, Error> {
        let cancel = CancellationToken::new();
        let settings = Settings::read(&home.settings_file())?;
        let run_user = RunUser::choose(options.run_as.as_deref())?;
        if let Some(user) = &run_user {
            user.check_reaches(&home.state_dir)?;
        }
        let store = Store::open(&home.database_file())?;
        let stack = first_stack(&options.stack, &store).await?;
        let (epoch, shim) = (store.next_epoch().await?, supervisor::shim_binary::install(&home.state_dir)?);
        let source = source(&home, &settings, run_user.as_ref())?;
        let (hosts, no_names) = private_names(&home, &shim).await?;
        let supervisor = Supervisor::start(
            supervisor::Config {
                run_dir: home.run_dir.clone(),
                log_dir: home.log_dir.clone(),
                shim,
                epoch,
                events_kept: store.shim_events_recorded().await?,
                ports: settings.instance_ports(),
                run_as: run_user.as_ref().map(|chosen| chosen.user.clone()),
                scope: Scope::of(home.places.layout),
            },
            cancel.clone(),
        )
        .await?;
        let place = EdgePlace::new(&home, stack.proxy.port, options.public, &settings);
        let listening @ Listening { external, internal, dns } = listen(&supervisor, &place).await?;
        let edge = EdgeClient::start(place.control_socket(), place.snapshot_file(), cancel.clone());
        let more = no_names.into_iter().chain(place.waits_for_down(listening));
        let (document, document_seen) = watch::channel(None);
        let reconcile = reconcile::start(reconcile::Setup {
            store: store.clone(),
            source: source.clone(),
            supervisor: supervisor.clone(),
            edge,
            naming: Naming { suffix: SUFFIX.to_owned(), port: internal.port() },
            hosts,
            path: search_path(run_user.as_ref()),
            credentials: reconcile::CredentialFiles { files: settings.credentials(), keys_dir: home.git_keys_dir() },
            agent_log: home.agent_log_file(),
            facts: reconcile::Facts {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                home: home.places.shown(),
                started_unix_ms: agentd_sys::clock::real_ns() / 1_000_000,
                external,
                internal,
                dns,
                suffix: SUFFIX.to_owned(),
                limitations: limitations(run_user.as_ref(), more),
                document: document_seen,
            },
            status_file: home.run_dir.join(STATUS_FILE),
            cancel: cancel.clone(),
        })
        .await?;
        let refs = Arc::new(GitRefs(source));
        follow(options, &home, store, Arc::clone(&refs), external.port(), document, &reconcile, &cancel)?;
        let down = CancellationToken::new();
        let api = Api {
            reconcile: reconcile.clone(),
            new_git_key: git_keys(&home),
            resolve_refs: resolve_refs(refs),
            down: down.clone(),
            ending: cancel.clone(),
        };
        serve(api, &home)?;
        tracing::info!(home = %home.places.shown(), %external, %internal, %dns, "agentd runs");
        Ok(Self { layout: home.places.layout, supervisor, reconcile, cancel, down })
    }

    /// Until a signal (services run on) or `agentctl shutdown` (they do not).
    async fn wait(self) -> Result<Exit, Error> {
        let ended = lifecycle::termination();
        let exit = tokio::select! {
            signal = ended => {
                tracing::info!(signal, "the manager ends; services, edge and keeper run on");
                self.reconcile.leaving(reconcile::Leaving::Signal(signal)).await;
                Exit::Ok
            }
            () = self.down.cancelled() => {
                self.take_down().await?;
                // The unit starts us again after any other end.
                match self.layout {
                    Layout::Home => Exit::Ok,
                    Layout::System => Exit::ShutDown,
                }
            }
        };
        lifecycle::service::stopping();
        self.cancel.cancel();
        Ok(exit)
    }

    async fn take_down(&self) -> Result<(), Error> {
        tracing::info!("taking everything down");
        lifecycle::service::status("taking everything down");
        self.reconcile.down().await?;
        edge_launch::stop(&self.supervisor).await?;
        self.supervisor.shutdown().await?;
        self.reconcile.leaving(reconcile::Leaving::Down).await;
        tracing::info!("everything is down; the next start brings it back");
        Ok(())
    }
}

/// The document, or the last version when the file cannot be used: it tells the proxy's port before anything starts.
async fn first_stack(path: &Path, store: &Store) -> Result<Stack, Error> {
    let problems = match std::fs::read_to_string(path) {
        Ok(text) => match read(&text, path) {
            Ok(stack) => return Ok(stack),
            Err(problems) => problems,
        },
        Err(error) => vec![format!("{}: cannot be read: {error}", path.display())],
    };
    match store.latest_version().await? {
        Some(stored) => Ok(stored.stack),
        None => Err(Error::Document(DocumentError { problems })),
    }
}

/// Parses and validates; every problem as one line that names the file and its line.
fn read(text: &str, path: &Path) -> Result<Stack, Vec<String>> {
    let located = |problems: Vec<agentd_document::Located>| {
        problems.iter().map(|problem| format!("{}:{problem}", path.display())).collect()
    };
    agentd_document::read(text, Format::of(path)).map_err(located)
}

/// Our own PATH, as far as services can use it.
fn search_path(run_user: Option<&RunUser>) -> String {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
    match run_user {
        Some(user) => user.search_path(&path),
        None => path,
    }
}

fn source(home: &Home, settings: &Settings, run_user: Option<&RunUser>) -> Result<Source, Error> {
    let config = source::Config {
        git_dir: home.state_dir.join("git"),
        services_dir: home.state_dir.join("services"),
        auth: settings.credentials(),
        file_owner: run_user.map(|chosen| (chosen.user.uid, chosen.user.gid)),
        known_hosts_file: home.known_hosts_file(),
        git_keys_dir: home.git_keys_dir(),
        git_program: PathBuf::from("git"),
    };
    Ok(Source::new(config)?)
}

/// From here on people can ask.
fn serve(api: Api, home: &Home) -> Result<(), Error> {
    let (callers, cancel) = (api::bind(&home.run_dir, home.places.layout)?, api.ending.clone());
    let serving = api::serve(callers, api, cancel.clone());
    lifecycle::service::start_watchdog(cancel.clone());
    lifecycle::spawn_essential("api", cancel, async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the API ended");
        }
    });
    lifecycle::service::ready();
    Ok(())
}

/// Deploy keys lie in the home; only the public half leaves it.
fn git_keys(home: &Home) -> api::MakeGitKey {
    let dir = home.git_keys_dir();
    Arc::new(move |name| {
        let dir = dir.clone();
        Box::pin(async move {
            let public = source::new_key(&dir, &name).await.map_err(|error| error.to_string())?;
            Ok((dir.join(name), public))
        })
    })
}

/// The hosts file of the instances, and why they cannot have it, found out once by trying.
async fn private_names(home: &Home, shim: &Path) -> Result<(reconcile::HostsFile, Option<String>), Error> {
    let path = home.run_dir.join("hosts");
    let made = reconcile::HostsFile::prepare(&path, SUFFIX);
    let hosts = made.map_err(|source| Error::Hosts { path, source })?;
    let refused = match private_hosts::attempt(shim, hosts.path()).await {
        Ok(()) => return Ok((hosts, None)),
        Err(refused) => refused,
    };
    let Advice { cause, cure } = match &refused {
        private_hosts::Error::Refused(refused) => advice(refused, &agentd_sys::namespaces::facts()),
        private_hosts::Error::Shim { .. } => Advice { cause: chain(&refused), cure: "see the cause".to_owned() },
    };
    let said = format!(
        "services do not find names under {SUFFIX} in /etc/hosts: {cause}; to cure it: {cure}, then start agentd again \
         and `agentctl restart` the services"
    );
    Ok((hosts.given(reconcile::Given::ToNobody), Some(said)))
}

/// Asked by people; the publisher asks by itself.
fn resolve_refs(refs: Arc<GitRefs>) -> api::ResolveRefs {
    Arc::new(move |asked| {
        let refs = Arc::clone(&refs);
        Box::pin(async move { sync::resolve_all(refs.as_ref(), asked).await })
    })
}

/// What this host cannot do, said at start and in `status`.
fn limitations(run_user: Option<&RunUser>, found: impl Iterator<Item = String>) -> Vec<String> {
    let mut said = Vec::new();
    match run_user {
        Some(chosen) => said.push(format!(
            "all builds and services run as the one user `{}`: they can read each other's files",
            chosen.name
        )),
        None if nix::unistd::geteuid().is_root() => {
            said.push("builds and services run as root, as --run-as root asks".to_owned());
        }
        None => said.push("builds and services run as the user who started agentd".to_owned()),
    }
    said.push("memory, cpu and process limits are not enforced".to_owned());
    said.extend(found);
    for limitation in &said {
        tracing::warn!("{limitation}");
    }
    said
}

/// Starts the publisher on the stack file, hands its versions to the reconciler and its troubles to status.
#[expect(clippy::too_many_arguments, reason = "wiring: each is a room or a place")]
fn follow(
    options: &RunOptions,
    home: &Home,
    store: Store,
    refs: Arc<GitRefs>,
    port: u16,
    document: watch::Sender<Option<DocumentProblems>>,
    reconcile: &reconcile::Handle,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let (versions, queue) = mpsc::channel(VERSIONS_MAX);
    let config = sync::FileConfig { path: absolute(&options.stack)?, read };
    let publisher = sync::FilePublisher::start(config, refs, store.clone(), versions, cancel.clone())?;
    tracing::info!(stack = %options.stack.display(), home = %home.places.shown(), "following the stack file");
    let reconcile = reconcile.clone();
    let bridge = Bridge { store, port, document, status: publisher.status.clone() };
    lifecycle::spawn_essential("versions", cancel.clone(), bridge.run(queue, reconcile, publisher));
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Config(config::Error::Read { path: path.to_owned(), source }))
}

/// Between sync and reconcile, which do not know each other.
struct Bridge {
    store: Store,
    /// The port the edge listens on; another one in a document waits for the next start.
    port: u16,
    document: watch::Sender<Option<DocumentProblems>>,
    status: watch::Receiver<SyncStatus>,
}

impl Bridge {
    async fn run(mut self, mut queue: mpsc::Receiver<Version>, to: reconcile::Handle, publisher: sync::SyncHandle) {
        let mut other_port = None;
        loop {
            tokio::select! {
                version = queue.recv() => {
                    let Some(version) = version else { return };
                    other_port = self.other_port(version).await;
                    if to.apply(version).await.is_err() { return }
                }
                changed = self.status.changed() => if changed.is_err() { return },
            }
            self.tell(other_port, &publisher);
        }
    }

    async fn other_port(&self, version: Version) -> Option<u16> {
        match self.store.version(version).await {
            Ok(stored) => stored.map(|stored| stored.stack.proxy.port).filter(|port| *port != self.port),
            Err(error) => {
                tracing::error!(%error, "the version cannot be read back");
                None
            }
        }
    }

    fn tell(&mut self, other_port: Option<u16>, _publisher: &sync::SyncHandle) {
        let status = self.status.borrow_and_update().clone();
        if status.last_read_unix_ms.is_none() {
            return;
        }
        let port = other_port.map(|port| {
            format!(
                "proxy.port {port} takes effect at the next start after `agentctl shutdown`; the edge listens on {}",
                self.port
            )
        });
        self.document.send_modify(|told| {
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

/// Refs are resolved by asking the repository.
#[derive(Debug)]
struct GitRefs(Source);

#[async_trait::async_trait]
impl sync::Resolve for GitRefs {
    async fn resolve(&self, repo: &str, auth: Option<&str>, reference: &str) -> Result<Commit, sync::Unresolved> {
        let resolved = self.0.resolve(repo, auth, reference).await;
        resolved.map_err(|error| sync::Unresolved::new(&error))
    }
}
