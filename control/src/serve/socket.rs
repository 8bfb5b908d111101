//! The Unix socket of the home: who may open it as root or as the server's own user is an operator.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use agentd_sys::files::SocketDir;
use hyper::body::Incoming;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::connections::Connections;
use crate::core::Actor;
use crate::lifecycle;

pub const SOCKET: &str = "controld.sock";
/// After an accept that failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn bind(dir: &Path) -> Result<UnixListener, Error> {
    let path = dir.join(SOCKET);
    let failed = |source| Error::Socket { path: path.clone(), source };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let short = SocketDir::open(dir).map_err(failed)?;
    let listener = UnixListener::bind(short.path_of(SOCKET)).map_err(failed)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

pub(super) async fn serve(listener: UnixListener, connections: Connections, cancel: CancellationToken) {
    let own = nix::unistd::geteuid().as_raw();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let uid = match stream.peer_cred() {
            Ok(peer) if [0, own].contains(&peer.uid()) => peer.uid(),
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), "a call over the socket was refused");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "a caller over the socket cannot be identified");
                continue;
            }
        };
        let Some(place) = connections.place().await else { return };
        let connections = connections.clone();
        let facts = move |request: &mut hyper::Request<Incoming>| {
            request.extensions_mut().insert(Actor::Local { uid });
        };
        lifecycle::spawn("local call", async move { connections.serve(stream, facts, place).await });
    }
}
