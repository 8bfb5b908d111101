//! The socket, and who may use it.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use agentd_protocol::api::API_SOCKET;
use agentd_sys::files::SocketDir;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

use super::Error;

/// Pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that closes strangers' connections unread: root and the manager's own user may call (SO_PEERCRED).
#[derive(Debug)]
pub struct Callers {
    listener: UnixListener,
    own_uid: u32,
}

/// Binds `<run>/agentd.sock`, 0600, replacing one that a dead manager left: the home lock makes us the only one.
pub fn bind(run_dir: &Path) -> Result<Callers, Error> {
    let path = run_dir.join(API_SOCKET);
    let bound = || -> io::Result<UnixListener> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(SocketDir::open(run_dir)?.path_of(API_SOCKET))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let listener = bound().map_err(|source| Error::Bind { path: path.clone(), source })?;
    Ok(Callers { listener, own_uid: nix::unistd::geteuid().as_raw() })
}

impl axum::serve::Listener for Callers {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == 0 || peer.uid() == self.own_uid => return (stream, address),
                    Ok(peer) => tracing::warn!(uid = peer.uid(), pid = peer.pid(), "API call refused"),
                    Err(error) => tracing::warn!(%error, "API caller cannot be identified"),
                },
                Err(error) => {
                    tracing::warn!(%error, "API connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
