//! Wires the rooms together, in the order in which they need each other; the only file that sees all of them.

mod follow;
mod following;
mod outside;
mod tunnel_wiring;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentd_document::Format;
use agentd_protocol::api::STATUS_FILE;
use agentd_protocol::exit_code::Exit;
use agentd_protocol::ids::Commit;
use agentd_protocol::places::Layout;
use agentd_protocol::shim::hosts::{Advice, MACHINE_HOSTS_FILE, advice};
use agentd_protocol::shim::spec::User;
use agentd_protocol::stack::Stack;
use agentd_sys::causes::chain;
use agentd_sys::files::{Lock, NotLocked};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api};
use crate::config::{Home, Settings};
use crate::edge::EdgeClient;
use crate::edge_launch::{self, EdgePlace, Listening};
use crate::logging::Times;
use crate::reconcile::{self, Naming, Users};
use crate::run_as::{Mounts, RunAs};
use crate::source::{self, Source};
use crate::store::{Holder, Store};
use crate::supervisor::{self, Scope, Supervisor, private_hosts};
use crate::sync;
use crate::sync::control::{ClientError, IdentityError};
use crate::{config, edge, firewall_launch, lifecycle, logging, static_site, tunnel, tunnel_launch};
use following::{Anew, Found};
use outside::Outside;
use tunnel_wiring::TunnelWiring;

/// For tasks under way when the manager starts anew: what they were about is found again.
const ANEW_LIMIT: Duration = Duration::from_secs(2);
/// The suffix names live under until a document may set it.
const SUFFIX: &str = "svc.internal";

#[derive(Debug, Clone)]
pub struct RunOptions {
    /// `None`: the machine's own file, or the control server that the host has joined.
    pub stack: Option<PathBuf>,
    /// `None`: the agent of the machine.
    pub home: Option<PathBuf>,
    pub run_as: Option<String>,
    pub public: bool,
    /// A home keeps the firewall of its network namespace.
    pub enforce_security: bool,
    /// An active UFW gets allows, as that of the machine does.
    pub ufw: bool,
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
    #[error("the proxy's port cannot be opened to the outside; look at what else listens on it")]
    Outside(#[source] std::io::Error),
    #[error("the names of services stay in {path}; remove the lines from `# BEGIN agentd` to `# END agentd` by hand")]
    MachineHosts {
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
    NoUser(#[from] reconcile::NoUser),
    #[error(transparent)]
    Edge(#[from] edge::Error),
    #[error(transparent)]
    EdgeLaunch(#[from] edge_launch::Error),
    #[error(transparent)]
    Tunnel(#[from] tunnel::Error),
    #[error(transparent)]
    Api(#[from] crate::api::Error),
    #[error(transparent)]
    Sync(#[from] crate::sync::Error),
    #[error(transparent)]
    StaticSite(#[from] static_site::Error),
    #[error(
        "this host has joined {url} and follows stack `{stack}`, so it cannot follow {path} too; leave out --stack, or \
         `agentd leave` first (services run on)"
    )]
    Joined { stack: String, url: String, path: PathBuf },
    #[error("nothing to run on {home}: give --stack FILE, or join a control server with `agentd join`")]
    NothingToFollow { home: String },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot start anew; start agentd again")]
    Anew(#[source] std::io::Error),
    #[error(transparent)]
    Firewall(#[from] crate::firewall_cli::Error),
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
            Self::Config(_)
            | Self::Store(_)
            | Self::Lock { .. }
            | Self::Log { .. }
            | Self::Hosts { .. }
            | Self::Identity(_) => Exit::Home,
            Self::Joined { .. } => Exit::HasStack,
            Self::NothingToFollow { .. } => Exit::Usage,
            Self::Locked { .. } => Exit::Locked,
            Self::Document(_) => Exit::Invalid,
            Self::EdgeLaunch(edge_launch::Error::PortTaken { .. } | edge_launch::Error::SamePort { .. }) => {
                Exit::PortTaken
            }
            Self::Runtime(_)
            | Self::Outside(_)
            | Self::Source(_)
            | Self::Supervisor(_)
            | Self::Shim(_)
            | Self::Reconcile(_)
            | Self::NoUser(_)
            | Self::MachineHosts { .. }
            | Self::Edge(_)
            | Self::EdgeLaunch(_)
            | Self::Tunnel(_)
            | Self::Api(_)
            | Self::Sync(_)
            | Self::Client(_)
            | Self::Anew(_)
            | Self::StaticSite(_) => Exit::Failed,
            Self::Firewall(error) => error.exit(),
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

/// `agentd hosts remove`: for scripts that take agentd off a machine.
pub fn remove_hosts() -> Result<(), Error> {
    let path = PathBuf::from(MACHINE_HOSTS_FILE);
    match reconcile::remove_block(&path, SUFFIX) {
        // No file, no names.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map(drop).map_err(|source| Error::MachineHosts { path, source }),
    }
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
    let ended = runtime.block_on(async {
        let app = App::build(options, home).await?;
        app.wait().await
    })?;
    match ended {
        Ended::With(exit) => Ok(exit),
        Ended::ToStartAnew => {
            runtime.shutdown_timeout(ANEW_LIMIT);
            Err(Error::Anew(following::start_anew()))
        }
    }
}

/// How the manager ends.
enum Ended {
    With(Exit),
    ToStartAnew,
}

/// Ensures the keeper, and adopts what runs.
async fn supervise(
    home: &Home,
    settings: &Settings,
    store: &Store,
    shim: PathBuf,
    cancel: &CancellationToken,
) -> Result<Supervisor, Error> {
    let config = supervisor::Config {
        run_dir: home.run_dir.clone(),
        log_dir: home.log_dir.clone(),
        shim,
        epoch: store.next_epoch().await?,
        events_kept: store.shim_events_recorded().await?,
        ports: settings.instance_ports(),
        scope: Scope::of(home.places.layout),
        tmp_dir: home.state_dir.join("tmp"),
    };
    Ok(Supervisor::start(config, cancel.clone()).await?)
}

async fn listen(supervisor: &Supervisor, place: &EdgePlace) -> Result<edge_launch::Edge, Error> {
    match edge_launch::ensure(supervisor, place).await {
        Ok(edge) => Ok(edge),
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
    tunnel: tunnel_launch::Running,
    /// Ends every task; services run on.
    cancel: CancellationToken,
    /// Set by `agentctl shutdown`.
    down: CancellationToken,
    /// Told when the host has joined or left, or must listen elsewhere.
    anew: watch::Receiver<Option<Anew>>,
}

impl App {
    async fn build(options: &RunOptions, home: Home) -> Result<Self, Error> {
        let cancel = CancellationToken::new();
        let settings = Settings::read(&home.settings_file())?;
        let run_as = RunAs::choose(options.run_as.as_deref(), home.places.layout, &settings)?;
        run_as.check_reaches(&home.state_dir)?;
        let store = Store::open(&home.database_file())?;
        let Found { following, stack, news, judge } = following::find(options, &home, &store).await?;
        let (anew, anew_told) = following::watch(&home, &cancel);
        let shim = supervisor::shim_binary::install(&home.state_dir)?;
        let source = source(&home, &settings)?;
        let (hosts, users, shared) = private_views(&home, &shim, &run_as).await?;
        let supervisor = supervise(&home, &settings, &store, shim, &cancel).await?;
        let edge_user = run_as.own(Holder::Edge, &store).await?;
        let place = edge_place(options, &home, &settings, stack.as_ref(), edge_user);
        let edge_launch::Edge { listening, public, retiring } = listen(&supervisor, &place).await?;
        let (Listening { internal, dns, external }, outside) = (listening, Outside::new(listening.external, public));
        let edge = EdgeClient::start(place.control_socket(), place.snapshot_file(), cancel.clone());
        lifecycle::spawn("edge handover", edge_launch::retire(supervisor.clone(), edge.view(), retiring));
        let more = shared.into_iter().chain(place.waits_for_down(listening, &outside.sockets));
        let tunnel = TunnelWiring::start(settings.tunnel(), external.port(), &store, &cancel).await?;
        let more = more.chain(tunnel.limitation(&run_as));
        let tunnel_user = run_as.own(Holder::Tunnel, &store).await?;
        let (document, document_seen) = watch::channel(None);
        let (control, control_seen) = watch::channel(None);
        let reconcile = reconcile::start(reconcile::Setup {
            store: store.clone(),
            source: source.clone(),
            supervisor: supervisor.clone(),
            edge,
            client_address: tunnel.believed(),
            naming: Naming { suffix: SUFFIX.to_owned(), port: internal.port() },
            hosts,
            users,
            path: run_as.search_path(),
            credentials: secret_files(&settings, &home, &tunnel),
            agent_log: home.agent_log_file(),
            facts: reconcile::Facts {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                home: home.places.shown(),
                started_unix_ms: agentd_sys::clock::real_ns() / 1_000_000,
                external: outside.address.subscribe(),
                internal,
                dns,
                suffix: SUFFIX.to_owned(),
                limitations: limitations(&run_as, more),
                document: document_seen,
                tunnel: tunnel.seen(),
                control: control_seen,
            },
            status_file: home.run_dir.join(STATUS_FILE),
            cancel: cancel.clone(),
        })
        .await?;
        let tunnel = tunnel.run(&supervisor, &home, tunnel_user, &reconcile, &cancel);
        let refs = Arc::new(GitRefs(source));
        news.into_iter().for_each(|news| reconcile.note_host(news));
        let firewall =
            firewall_launch::start(options, &home, external, &reconcile, follow::answers(&following), &cancel)?;
        lifecycle::spawn("outside", outside.clone().follow(firewall.truth()));
        let told = follow::Told { document, firewall: firewall.clone(), reconcile: reconcile.clone(), control, anew };
        let ports = follow::Ports::new(external.port(), settings.proxy_port(), stack.as_ref());
        follow::start(following, store, Arc::clone(&refs), judge, ports, told, &cancel).await?;
        let down = CancellationToken::new();
        let (new_git_key, resolve_refs) = (git_keys(&home), resolve_refs(refs));
        let (asked, ending) = (reconcile.clone(), cancel.clone());
        serve(Api { reconcile: asked, firewall, new_git_key, resolve_refs, down: down.clone(), ending }, &home)?;
        tracing::info!(home = %home.places.shown(), external = %*outside.address.borrow(), %internal, %dns, "agentd runs");
        Ok(Self { layout: home.places.layout, supervisor, reconcile, tunnel, cancel, down, anew: anew_told })
    }

    /// Until a signal (services run on) or `agentctl shutdown` (they do not).
    async fn wait(self) -> Result<Ended, Error> {
        let ended = lifecycle::termination();
        let mut anew = self.anew.clone();
        let exit = tokio::select! {
            signal = ended => {
                tracing::info!(signal, "the manager ends; services, edge and keeper run on");
                self.reconcile.leaving(reconcile::Leaving::Signal(signal)).await;
                Exit::Ok
            }
            Ok(why) = anew.wait_for(Option::is_some) => {
                let why = *why;
                self.make_room(why).await?;
                self.cancel.cancel();
                return Ok(Ended::ToStartAnew);
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
        Ok(Ended::With(exit))
    }

    /// Services run on; where the edge listens on a port that nobody asked for, nothing runs but it.
    async fn make_room(&self, why: Option<Anew>) -> Result<(), Error> {
        tracing::info!(?why, "the manager starts anew; services run on");
        self.reconcile.leaving(reconcile::Leaving::Anew).await;
        if why == Some(Anew::Port) {
            self.tunnel.down().await?;
            edge_launch::stop(&self.supervisor).await?;
            self.supervisor.shutdown().await?;
        }
        Ok(())
    }

    async fn take_down(&self) -> Result<(), Error> {
        tracing::info!("taking everything down");
        lifecycle::service::status("taking everything down");
        // First: Cloudflare then asks elsewhere, where there is an elsewhere.
        self.tunnel.down().await?;
        self.reconcile.down().await?;
        self.reconcile.withdraw_names();
        edge_launch::stop(&self.supervisor).await?;
        self.supervisor.shutdown().await?;
        self.reconcile.leaving(reconcile::Leaving::Down).await;
        tracing::info!("everything is down; the next start brings it back");
        Ok(())
    }
}

fn edge_place(
    options: &RunOptions,
    home: &Home,
    settings: &Settings,
    stack: Option<&Stack>,
    user: Option<User>,
) -> EdgePlace {
    EdgePlace::new(home, following::port(stack, settings), outside::wanted(options, home), settings, user)
}

/// Parses and validates; every problem as one line that names the file and its line.
fn read(text: &str, path: &Path) -> Result<Stack, Vec<String>> {
    let located = |problems: Vec<agentd_document::Located>| {
        problems.iter().map(|problem| format!("{}:{problem}", path.display())).collect()
    };
    agentd_document::read(text, Format::of(path)).map_err(located)
}

/// What is never shown, whoever prints it.
fn secret_files(settings: &Settings, home: &Home, tunnel: &TunnelWiring) -> reconcile::CredentialFiles {
    let (files, keys_dir) = (settings.credentials(), home.git_keys_dir());
    reconcile::CredentialFiles { files, keys_dir, tunnel_file: tunnel.secret_file() }
}

fn source(home: &Home, settings: &Settings) -> Result<Source, Error> {
    let config = source::Config {
        git_dir: home.state_dir.join("git"),
        services_dir: home.state_dir.join("services"),
        auth: settings.credentials(),
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
    lifecycle::start_watchdog(cancel.clone());
    lifecycle::spawn_essential("api", cancel, async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the API ended");
        }
    });
    lifecycle::service::ready("runs; `agentctl status` tells more");
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

/// What instances see of the machine that others do not; then what they have to share with it after all, and why.
async fn private_views(
    home: &Home,
    shim: &Path,
    run_as: &RunAs,
) -> Result<(reconcile::HostsFile, Users, Vec<String>), Error> {
    let (hosts, no_names) = private_names(home, shim).await?;
    let mounts = if no_names.is_none() { Mounts::Possible } else { Mounts::Refused };
    let (users, shared_tmp) = run_as.users(&home.state_dir, mounts);
    Ok((hosts, users, no_names.into_iter().chain(shared_tmp).collect()))
}

/// The hosts file of the instances, and why they cannot have it, found out once by trying.
async fn private_names(home: &Home, shim: &Path) -> Result<(reconcile::HostsFile, Option<String>), Error> {
    let path = home.run_dir.join("hosts");
    let made = reconcile::HostsFile::prepare(&path, SUFFIX);
    let hosts = made.map_err(|source| Error::Hosts { path, source })?;
    let hosts = match home.places.layout {
        Layout::System => hosts.and_for_machine(reconcile::MachineHosts::new(Path::new(MACHINE_HOSTS_FILE), SUFFIX)),
        Layout::Home => hosts,
    };
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
fn limitations(run_as: &RunAs, found: impl Iterator<Item = String>) -> Vec<String> {
    let mut said = Vec::from_iter(run_as.limitation());
    said.push("memory, cpu and process limits are not enforced".to_owned());
    said.extend(found);
    for limitation in &said {
        tracing::warn!("{limitation}");
    }
    said
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
