//! From an empty folder to a server, and back to nothing without losing an answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use agentd_git::Asker;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::connections::Connections;
use super::progress::Progress;
use super::proxies::Proxies;
use super::sources::Sources;
use super::tls::Tls;
use super::{Error, Home, router, socket};
use crate::auth::{Accounts, Listener, Transport};
use crate::core::{Actor, Control, Settings};
use crate::lifecycle;
use crate::seal::Key;
use crate::store::Store;

const PORT: u16 = 9440;
/// For the handshake of TLS.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What stands on the command line; the rest is in controld.toml.
#[derive(Debug, Default)]
pub struct Options {
    pub home: PathBuf,
    pub listen: Option<SocketAddr>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub public_url: Option<String>,
    pub key_file: Option<PathBuf>,
    pub insecure_listen: bool,
}

/// Until SIGTERM or SIGINT.
pub async fn run(options: Options) -> Result<(), Error> {
    raise_descriptors();
    let home = Home::take(&options.home)?;
    let config = &home.config;
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let address = options.listen.or(config.listen).unwrap_or(default);
    let cert = options.tls_cert.as_ref().or(config.tls_cert.as_ref());
    let key = options.tls_key.as_ref().or(config.tls_key.as_ref());
    let tls = match (cert, key) {
        (Some(cert), Some(key)) => Some(Tls::read(cert, key)?),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err(Error::HalfTls),
    };
    if tls.is_none() && !address.ip().is_loopback() && !options.insecure_listen {
        return Err(Error::Plain { address });
    }
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let public_url = options.public_url.clone().or_else(|| config.public_url.clone());
    let public_url = public_url.unwrap_or_else(|| format!("{scheme}://{address}")).trim_end_matches('/').to_owned();
    let settings = Settings { home: home.dir.clone(), public_url, packages_dir: home.packages_dir() };
    let (cancel, draining) = (CancellationToken::new(), CancellationToken::new());
    // Before the database, which is never made without its key.
    let key = home.key(options.key_file.as_deref())?;
    let store = Store::open(&home.dir)?;
    let accounts = Accounts::open(store.clone()).await;
    let control = open(&home, store, key, settings, draining.clone()).await?;
    control.start(&cancel);
    let local = socket::bind(&home.dir)?;
    let listener_facts = listener_facts(tls.is_some(), &control.settings().public_url);
    let public = Connections::new(router::public(&control, &accounts, listener_facts), draining.clone());
    let own = Connections::new(router::local(&control, &accounts), draining.clone());
    let accepting = CancellationToken::new();
    if let Some(tls) = tls.clone() {
        lifecycle::spawn_essential("certificates", cancel.clone(), tls.keep_current(cancel.clone()));
    }
    let door = Door {
        connections: public.clone(),
        proxies: Proxies::new(&config.trusted_proxies),
        sources: Sources::default(),
        tls,
    };
    let serving = serve(listener, door, accepting.clone());
    lifecycle::spawn_essential("listener", accepting.clone(), serving);
    let serving = socket::serve(local, own.clone(), accepting.clone());
    lifecycle::spawn_essential("local listener", accepting.clone(), serving);
    tracing::info!(url = control.settings().public_url, %address, home = %home.dir.display(), "serves");
    greet(&control, &accounts).await?;
    lifecycle::service::ready("serves");
    let signal = lifecycle::termination().await;
    tracing::info!(signal, "ends; held reports are answered");
    lifecycle::service::stopping();
    accepting.cancel();
    draining.cancel();
    public.drained().await;
    own.drained().await;
    cancel.cancel();
    control.flush_at_end().await;
    Ok(())
}

/// Each host takes one for as long as its report is held, and a login shell's limit is 1,024.
fn raise_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn open(
    home: &Home,
    store: Store,
    key: Key,
    settings: Settings,
    draining: CancellationToken,
) -> Result<Control, Error> {
    let git = Asker::new(agentd_git::Config {
        git_program: "git".into(),
        state_dir: home.dir.join("git"),
        credentials: home.config.credentials(),
        known_hosts_file: home.dir.join("known_hosts"),
        settings_name: crate::config::FILE_NAME,
    })?;
    Ok(Control::open(store, key, settings, git, draining).await?)
}

/// A browser that comes by a proxy with TLS speaks TLS, though we do not.
fn listener_facts(has_tls: bool, public_url: &str) -> Listener {
    let (scheme, rest) = public_url.split_once("://").unwrap_or(("http", public_url));
    let authority = rest.split('/').next().unwrap_or(rest);
    let name =
        authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(authority, |(name, _)| name);
    let transport = if has_tls || scheme == "https" { Transport::Tls } else { Transport::Plain };
    Listener { transport, names: vec![name.to_owned()] }
}

/// While nobody has an account, each start says how to make one.
async fn greet(control: &Control, accounts: &Accounts) -> Result<(), Error> {
    if accounts.is_new().await? {
        let link = accounts.create_link(&Actor::Server).await?;
        let url = format!("{}{}", control.settings().public_url, link.path);
        tracing::info!("no owner yet; this link makes one, once, within a day: {url}");
    }
    Ok(())
}

/// What every connection from the network passes.
#[derive(Debug, Clone)]
struct Door {
    connections: Connections,
    proxies: Proxies,
    sources: Sources,
    tls: Option<Tls>,
}

async fn serve(listener: TcpListener, door: Door, cancel: CancellationToken) {
    loop {
        let Some(place) = door.connections.place().await else { return };
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // All come through a proxy, and through loopback those of a tunnel.
        let is_shared = peer.ip().to_canonical().is_loopback() || door.proxies.are_behind(peer.ip());
        let Some(share) = door.sources.take(peer.ip(), is_shared) else {
            tracing::debug!(%peer, "one source has too many connections; this one is closed");
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delays");
        }
        let door = door.clone();
        lifecycle::spawn("connection", async move {
            door.pass(Progress::new(stream), peer, place).await;
            drop(share);
        });
    }
}

impl Door {
    async fn pass(self, stream: Progress<TcpStream>, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let Self { connections, proxies, tls, .. } = self;
        let facts = move |request: &mut hyper::Request<Incoming>| {
            let caller = proxies.caller(peer, request.headers());
            request.extensions_mut().insert(ConnectInfo(caller));
        };
        let Some(tls) = tls else { return connections.serve(stream, facts, place).await };
        match tokio::time::timeout(HANDSHAKE_DEADLINE, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => connections.serve(stream, facts, place).await,
            Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
            Err(_) => tracing::debug!("a handshake took too long"),
        }
    }
}
