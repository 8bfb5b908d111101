//! `agentd edge`: from inherited sockets to a drained end.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::edge::{
    FRAME_BYTES_MAX, LISTEN_CONTROL, LISTEN_DNS_TCP, LISTEN_DNS_UDP, LISTEN_EXTERNAL, LISTEN_INTERNAL, Snapshot,
};
use agentd_sys::causes::chain;
use arc_swap::ArcSwap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::control::{Control, DrainOrder, Life, Routing};
use super::{Error, descriptors};
use crate::dns::Responder;
use crate::lifecycle;
use crate::proxy::{Entrance, Limits, Proxy, Registry, Table};

/// What SIGTERM means: longer than clients think between two requests, and what the default drain of a service is.
const TERMINATED: DrainOrder = DrainOrder { soft: Duration::from_secs(5), deadline: Duration::from_secs(30) };
/// For the last words to the manager.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Enough for the connections of [`Limits::default`] and as many to backends.
const DESCRIPTORS_WANTED: u64 = 16 * 1024;
/// Sockets, timers, epoll, log, DNS connections and the two pools of idle backend connections.
const DESCRIPTORS_OWN: u64 = 640;

#[derive(Debug)]
pub struct EdgeOptions {
    /// At least one; each is closed in this process when the drain begins. Those that are not listened on now may be
    /// later.
    pub external: Vec<TcpListener>,
    /// Bound to loopback.
    pub internal: TcpListener,
    pub dns_udp: UdpSocket,
    pub dns_tcp: TcpListener,
    pub control: UnixListener,
    /// The manager's copy of the snapshot in force.
    pub snapshot_file: Option<PathBuf>,
    pub limits: Limits,
}

impl EdgeOptions {
    /// Takes the sockets named in LISTEN_FDNAMES. To be called once, before anything else opens a descriptor.
    pub fn from_env(snapshot_file: Option<PathBuf>) -> Result<Self, Error> {
        let descriptors::Descriptors { external, internal, dns_udp, dns_tcp, control } = descriptors::take()?;
        Ok(Self { external, internal, dns_udp, dns_tcp, control, snapshot_file, limits: Limits::default() })
    }
}

/// Serves until SIGTERM or the manager's order, then drains and returns. One thread: measured to be as fast as several
/// on a small host, and it leaves the others to the services.
pub fn run(options: EdgeOptions) -> Result<(), Error> {
    let options = EdgeOptions { limits: within_descriptors(options.limits), ..options };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::Runtime)?;
        // Ctrl-C in a terminal reaches the whole group; it is the manager's. Catching it without listening ignores it.
        let _interrupt = signal(SignalKind::interrupt()).map_err(Error::Runtime)?;
        serve(options, async move { terminate.recv().await }).await
    })
}

pub(super) async fn serve(options: EdgeOptions, terminate: impl Future<Output = Option<()>>) -> Result<(), Error> {
    let table = Arc::new(ArcSwap::from_pointee(Table::default()));
    let mut routing = Routing { registry: Registry::new(Arc::clone(&table)), names: Responder::default() };
    if let Some(path) = &options.snapshot_file {
        load(&mut routing, path);
    }
    let (proxy, unreachable) = Proxy::new(table, options.limits);
    let ending = CancellationToken::new();
    for listener in options.external {
        nonblocking(&listener, LISTEN_EXTERNAL)?;
        lifecycle::spawn_essential("proxy accept", ending.clone(), proxy.clone().accept(listener, Entrance::External));
    }
    nonblocking(&options.internal, LISTEN_INTERNAL)?;
    let internal = proxy.clone().accept(options.internal, Entrance::Internal);
    lifecycle::spawn_essential("internal accept", ending.clone(), internal);
    answer_names(&routing.names, options.dns_udp, options.dns_tcp, &ending)?;
    let (orders, mut ordered) = mpsc::channel(1);
    let life = watch::Sender::new(Life::Serving);
    let control = Control { routing, unreachable, orders, life: life.subscribe() };
    let listener = control_listener(options.control)?;
    let control = lifecycle::spawn_essential("edge control", ending.clone(), control.run(listener));
    tracing::info!("edge is serving");

    let order = tokio::select! {
        _ = terminate => TERMINATED,
        // The control task holds the other end until we end.
        Some(order) = ordered.recv() => order,
    };
    tracing::info!(soft = ?order.soft, deadline = ?order.deadline, "edge is draining");
    ending.cancel();
    life.send_replace(Life::Draining);
    let left = proxy.drain(order.soft, order.deadline).await;
    let connections_left = u32::try_from(left).unwrap_or(u32::MAX);
    life.send_replace(Life::Drained { connections_left });
    if tokio::time::timeout(FAREWELL_TIMEOUT, control).await.is_err() {
        tracing::warn!("the manager did not read our last report");
    }
    tracing::info!(connections_left, "edge has drained");
    Ok(())
}

/// Takes all the descriptors we may have, and no more clients than they serve: each needs one, and one to its backend.
fn within_descriptors(limits: Limits) -> Limits {
    let available = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(DESCRIPTORS_WANTED);
        if soft < wanted { setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map(|()| wanted) } else { Ok(soft) }
    });
    match available {
        Ok(available) => {
            let pairs = usize::try_from(available.saturating_sub(DESCRIPTORS_OWN) / 2).unwrap_or(usize::MAX);
            let connections_max = limits.connections_max.min(pairs.max(1));
            if connections_max < limits.connections_max {
                tracing::warn!(connections_max, "fewer connections than wanted; look at the edge's descriptor limit");
            }
            Limits { connections_max, ..limits }
        }
        Err(error) => {
            tracing::warn!(%error, "cannot read or raise the descriptor limit; keeping the default number of connections");
            limits
        }
    }
}

/// Until the drain begins: the next edge answers on the same sockets.
fn answer_names(names: &Responder, udp: UdpSocket, tcp: TcpListener, ending: &CancellationToken) -> Result<(), Error> {
    udp.set_nonblocking(true).map_err(|source| Error::BadDescriptor { name: LISTEN_DNS_UDP, source })?;
    let tcp = into_tokio(tcp, LISTEN_DNS_TCP)?;
    let (udp, tcp) = (names.clone().serve_udp(udp), names.clone().serve_tcp(tcp));
    lifecycle::spawn_essential("dns udp", ending.clone(), while_serving(ending.clone(), udp));
    lifecycle::spawn_essential("dns tcp", ending.clone(), while_serving(ending.clone(), tcp));
    Ok(())
}

async fn while_serving(ending: CancellationToken, work: impl Future<Output = ()>) {
    // `None`: the drain has begun.
    let _ = ending.run_until_cancelled(work).await;
}

/// A missing or broken copy is no reason not to serve: the manager sends the snapshot again.
fn load(routing: &mut Routing, path: &Path) {
    match read(path) {
        Ok(snapshot) => {
            let generation = snapshot.generation;
            match routing.apply(snapshot) {
                Ok(()) => tracing::info!(%generation, "routing by the snapshot on disk"),
                Err(error) => tracing::error!(%error, path = %path.display(), "the snapshot on disk is not usable"),
            }
        }
        Err(Error::ReadSnapshot { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            tracing::info!(path = %path.display(), "no snapshot on disk yet");
        }
        Err(error) => tracing::error!(error = %chain(&error), "going on without the snapshot on disk"),
    }
}

fn read(path: &Path) -> Result<Snapshot, Error> {
    let unreadable = |source| Error::ReadSnapshot { path: path.into(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = Vec::new();
    file.take(FRAME_BYTES_MAX.into()).read_to_end(&mut text).map_err(unreadable)?;
    serde_json::from_slice(&text).map_err(|source| Error::ParseSnapshot { path: path.into(), source })
}

fn nonblocking(listener: &TcpListener, name: &'static str) -> Result<(), Error> {
    listener.set_nonblocking(true).map_err(|source| Error::BadDescriptor { name, source })
}

fn into_tokio(listener: TcpListener, name: &'static str) -> Result<tokio::net::TcpListener, Error> {
    nonblocking(&listener, name)?;
    tokio::net::TcpListener::from_std(listener).map_err(|source| Error::BadDescriptor { name, source })
}

fn control_listener(listener: UnixListener) -> Result<tokio::net::UnixListener, Error> {
    let bad = |source| Error::BadDescriptor { name: LISTEN_CONTROL, source };
    listener.set_nonblocking(true).map_err(bad)?;
    tokio::net::UnixListener::from_std(listener).map_err(bad)
}
