//! The socket, and who may use it.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use agentd_protocol::api::API_SOCKET;
use agentd_protocol::places::Layout;
use agentd_sys::files::SocketDir;
use nix::unistd::{Gid, Group};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

use super::Error;
use crate::lifecycle::{self, Pulse};

/// Pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whose members may call the agent of the machine.
const GROUP: &str = "agentd";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Root and this user, the manager's own.
    User(u32),
    /// Whoever the socket's mode lets in: root and this group's members.
    Group(Gid),
}

impl Who {
    fn of(layout: Layout) -> Self {
        let group = match layout {
            Layout::Home => None,
            // A machine without that group, which the package makes, has no members of it either.
            Layout::System => Group::from_name(GROUP).ok().flatten(),
        };
        group.map_or_else(|| Self::User(nix::unistd::geteuid().as_raw()), |group| Self::Group(group.gid))
    }

    fn includes(self, uid: u32) -> bool {
        match self {
            Self::User(own) => uid == 0 || uid == own,
            Self::Group(_) => true,
        }
    }
}

/// A listener that closes strangers' connections unread (SO_PEERCRED).
#[derive(Debug)]
pub struct Callers {
    listener: UnixListener,
    who: Who,
    pulse: Pulse,
}

/// Binds `<run>/agentd.sock`, replacing one that a dead manager left: the home lock makes us the only one.
pub fn bind(run_dir: &Path, layout: Layout) -> Result<Callers, Error> {
    let who = Who::of(layout);
    let listener = listen(run_dir, who)?;
    Ok(Callers { listener, who, pulse: lifecycle::pulse("api") })
}

fn listen(run_dir: &Path, who: Who) -> Result<UnixListener, Error> {
    let path = run_dir.join(API_SOCKET);
    let bound = || -> io::Result<UnixListener> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(SocketDir::open(run_dir)?.path_of(API_SOCKET))?;
        let mode = match who {
            Who::User(_) => 0o600,
            Who::Group(group) => {
                nix::unistd::chown(&path, None, Some(group))?;
                0o660
            }
        };
        std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(listener)
    };
    bound().map_err(|source| Error::Bind { path: path.clone(), source })
}

impl axum::serve::Listener for Callers {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            self.pulse.beat();
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.pulse.due() => continue,
            };
            match accepted {
                Ok((stream, address)) => match stream.peer_cred() {
                    Ok(peer) if self.who.includes(peer.uid()) => return (stream, address),
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_its_callers_alone() {
        let dir = tempfile::tempdir().unwrap();
        let own = nix::unistd::getegid();
        for (who, mode) in [(Who::User(7), 0o600), (Who::Group(own), 0o660)] {
            let _listener = listen(dir.path(), who).unwrap();
            let facts = std::fs::metadata(dir.path().join(API_SOCKET)).unwrap();
            assert_eq!((facts.mode() & 0o777, facts.gid()), (mode, own.as_raw()), "{who:?}");
        }
        assert!(Who::User(7).includes(7) && Who::User(7).includes(0) && !Who::User(7).includes(8));
        assert_eq!(Who::of(Layout::Home), Who::User(nix::unistd::geteuid().as_raw()));
    }
}
