//! From the command line to a drained end.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;

use super::Error;
use super::answer::answer;
use super::folder::Folder;
use crate::lifecycle;

/// Threads that wait for the disk: more would only queue there, and each costs memory.
const BLOCKING_THREADS_MAX: usize = 4;

#[derive(Debug)]
pub struct Options {
    /// Below the folder we are started in.
    pub root: PathBuf,
    pub fallback: Option<PathBuf>,
}

/// Serves on $HOST:$PORT until SIGTERM, and answers what it has accepted by then. One thread: the kernel does the work.
pub fn run(options: Options) -> Result<(), Error> {
    let address = SocketAddr::new(variable::<IpAddr>("HOST", "IP address")?, variable::<u16>("PORT", "port")?);
    let folder = Folder::open(&options.root, options.fallback)
        .map_err(|source| Error::Root { path: options.root.clone(), source })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(serve(address, Arc::new(folder), async {
        lifecycle::termination().await;
    }))
}

async fn serve(
    address: SocketAddr,
    folder: Arc<Folder>,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    tracing::info!(%address, "serving files");
    let listener = listener.tap_io(|stream| {
        // Only slower without.
        let _ = stream.set_nodelay(true);
    });
    let router = Router::new().fallback(move |request: Request| answer(Arc::clone(&folder), request));
    axum::serve(listener, router).with_graceful_shutdown(ended).await.map_err(Error::Serve)
}

fn variable<T: std::str::FromStr>(variable: &'static str, what: &'static str) -> Result<T, Error> {
    let value = std::env::var(variable).ok().and_then(|value| value.parse().ok());
    value.ok_or(Error::Address { variable, what })
}
