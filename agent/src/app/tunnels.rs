//! Wires the tunnel: its settings, its program, its state and events.

use tokio_util::sync::CancellationToken;

use super::{Error, search_path};
use crate::config::{Home, RunUser, Settings};
use crate::store::{EVENTS_KEPT, EventQuery, Store};
use crate::supervisor::Supervisor;
use crate::tunnel::{self, Told, Tunnel};
use crate::tunnel_launch::{self, TunnelPlace};
use crate::{lifecycle, reconcile};

/// Watches the tunnel, where there is one; what was said of it last is no news.
pub(super) async fn watch(
    tunnel: Option<&Tunnel>,
    origin_port: u16,
    store: &Store,
    cancel: &CancellationToken,
) -> Result<Option<tunnel::Handle>, Error> {
    let (metrics, managed) = match tunnel {
        None => return Ok(None),
        Some(Tunnel::Watched { metrics }) => (*metrics, None),
        Some(Tunnel::Managed(managed)) => (managed.metrics, Some(managed.clone())),
    };
    let newest = store.events(EventQuery { limit: EVENTS_KEPT, ..EventQuery::default() }).await?;
    let told = newest.iter().rev().find_map(|event| Told::of(&event.what));
    let watched = tunnel::Watched { metrics, origin_port, managed, told };
    Ok(Some(tunnel::start(watched, cancel.clone())?))
}

/// Runs its program where it is ours to run, and notes what becomes of it.
pub(super) fn run(
    settings: &Settings,
    watching: Option<tunnel::Handle>,
    supervisor: &Supervisor,
    home: &Home,
    origin_port: u16,
    reconcile: &reconcile::Handle,
    cancel: &CancellationToken,
) -> tunnel_launch::Running {
    let told = watching.map(|tunnel::Handle { mut events, restarts, trouble, .. }| {
        let journal = reconcile.journal().clone();
        lifecycle::spawn("tunnel events", async move {
            while let Some(what) = events.recv().await {
                journal.host(what);
            }
        });
        (restarts, trouble)
    });
    let place = TunnelPlace { dir: home.tunnel_dir(), search_path: search_path(None), origin_port };
    tunnel_launch::start(supervisor.clone(), managed(settings.tunnel()).cloned(), place, told, cancel)
}

pub(super) fn managed(tunnel: Option<&Tunnel>) -> Option<&tunnel::Managed> {
    match tunnel {
        Some(Tunnel::Managed(managed)) => Some(managed),
        Some(Tunnel::Watched { .. }) | None => None,
    }
}

pub(super) fn shared_secret(tunnel: Option<&Tunnel>, run_user: Option<&RunUser>) -> Option<String> {
    managed(tunnel)?;
    let user = run_user.map_or_else(|| "the user who started agentd".to_owned(), |chosen| format!("`{}`", chosen.name));
    Some(format!("services run as {user}, as cloudflared does: they can take the tunnel's secret out of its memory"))
}
