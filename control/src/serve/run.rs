//! From an empty folder to a server, and back to nothing without losing an answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use agentd_git::Asker;
use axum::extract::ConnectInfo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::connections::Connections;
use super::tls::Tls;
use super::{Error, Home, router, socket};
use crate::core::{Control, Settings};
use crate::lifecycle;
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
    let control = open(&home, &options, settings, draining.clone()).await?;
    control.start(&cancel);
    let local = socket::bind(&home.dir)?;
    let public = Connections::new(router::public(&control), draining.clone());
    let own = Connections::new(router::local(&control), draining.clone());
    let accepting = CancellationToken::new();
    if let Some(tls) = tls.clone() {
        lifecycle::spawn_essential("certificates", cancel.clone(), tls.keep_current(cancel.clone()));
    }
    let serving = serve(listener, tls, public.clone(), accepting.clone());
    lifecycle::spawn_essential("listener", accepting.clone(), serving);
    let serving = socket::serve(local, own.clone(), accepting.clone());
    lifecycle::spawn_essential("local listener", accepting.clone(), serving);
    tracing::info!(url = control.settings().public_url, %address, home = %home.dir.display(), "serves");
    lifecycle::service::ready();
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

async fn open(
    home: &Home,
    options: &Options,
    settings: Settings,
    draining: CancellationToken,
) -> Result<Control, Error> {
    let key = home.key(options.key_file.as_deref())?;
    let store = Store::open(&home.dir)?;
    let git = Asker::new(agentd_git::Config {
        git_program: "git".into(),
        state_dir: home.dir.join("git"),
        credentials: home.config.credentials(),
        known_hosts_file: home.dir.join("known_hosts"),
        settings_name: crate::config::FILE_NAME,
    })?;
    Ok(Control::open(store, key, settings, git, draining).await?)
}

async fn serve(listener: TcpListener, tls: Option<Tls>, connections: Connections, cancel: CancellationToken) {
    loop {
        let Some(place) = connections.place().await else { return };
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
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delays");
        }
        let facts = move |extensions: &mut http::Extensions| {
            extensions.insert(ConnectInfo(peer));
        };
        let (connections, tls) = (connections.clone(), tls.clone());
        lifecycle::spawn("connection", async move {
            match tls {
                None => connections.serve(stream, facts, place).await,
                Some(tls) => match tokio::time::timeout(HANDSHAKE_DEADLINE, tls.acceptor().accept(stream)).await {
                    Ok(Ok(stream)) => connections.serve(stream, facts, place).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                    Err(_) => tracing::debug!("a handshake took too long"),
                },
            }
        });
    }
}
