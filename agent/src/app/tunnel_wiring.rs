//! What the tunnel has to do with other rooms: its status and events, its secret, whom the edge believes.

use std::path::PathBuf;

use agentd_protocol::api::TunnelStatus;
use agentd_protocol::edge::ForwardedBy;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::config::{Home, RunUser};
use crate::lifecycle;
use crate::reconcile;
use crate::store::{EVENTS_KEPT, EventQuery, Store};
use crate::supervisor::Supervisor;
use crate::tunnel::{self, Managed, Told, Tunnel, Watched};
use crate::tunnel_launch::{self, TunnelPlace};

/// With nothing in it where the settings name no tunnel.
pub(super) struct TunnelWiring {
    tunnel: Option<Tunnel>,
    watching: Option<tunnel::Handle>,
    origin_port: u16,
}

impl TunnelWiring {
    /// Watches from here on; what was said last, also by a manager before this one, is no news.
    pub(super) async fn start(
        tunnel: Option<&Tunnel>,
        origin_port: u16,
        store: &Store,
        cancel: &CancellationToken,
    ) -> Result<Self, Error> {
        let (metrics, managed) = match tunnel {
            None => return Ok(Self { tunnel: None, watching: None, origin_port }),
            Some(Tunnel::Watched { metrics }) => (*metrics, None),
            Some(Tunnel::Managed(managed)) => (managed.metrics, Some(managed.clone())),
        };
        let newest = store.events(EventQuery { limit: EVENTS_KEPT, ..EventQuery::default() }).await?;
        let told = newest.iter().rev().find_map(|event| Told::of(&event.what));
        let watching = tunnel::start(Watched { metrics, origin_port, managed, told }, cancel.clone())?;
        Ok(Self { tunnel: tunnel.cloned(), watching: Some(watching), origin_port })
    }

    fn managed(&self) -> Option<&Managed> {
        match &self.tunnel {
            Some(Tunnel::Managed(managed)) => Some(managed),
            Some(Tunnel::Watched { .. }) | None => None,
        }
    }

    pub(super) fn believed(&self) -> ForwardedBy {
        if self.tunnel.is_some() { ForwardedBy::Cloudflare } else { ForwardedBy::Nobody }
    }

    pub(super) fn secret_file(&self) -> Option<PathBuf> {
        self.managed().map(|managed| managed.identity.file().clone())
    }

    pub(super) fn seen(&self) -> watch::Receiver<Option<TunnelStatus>> {
        self.watching.as_ref().map_or_else(|| watch::channel(None).1, |tunnel| tunnel.status.clone())
    }

    pub(super) fn limitation(&self, run_user: Option<&RunUser>) -> Option<String> {
        self.managed()?;
        let user =
            run_user.map_or_else(|| "the user who started agentd".to_owned(), |chosen| format!("`{}`", chosen.name));
        Some(format!("services run as {user}, as cloudflared does: they can take the tunnel's secret from it"))
    }

    /// Runs its program where it is ours to run, and notes what becomes of it.
    pub(super) fn run(
        self,
        supervisor: &Supervisor,
        home: &Home,
        reconcile: &reconcile::Handle,
        cancel: &CancellationToken,
    ) -> tunnel_launch::Running {
        let managed = self.managed().cloned();
        let told = self.watching.map(|tunnel::Handle { mut events, restarts, trouble, .. }| {
            let journal = reconcile.journal().clone();
            lifecycle::spawn("tunnel events", async move {
                while let Some(what) = events.recv().await {
                    journal.host(what);
                }
            });
            (restarts, trouble)
        });
        let place = TunnelPlace {
            dir: home.tunnel_dir(),
            search_path: super::search_path(None),
            origin_port: self.origin_port,
        };
        tunnel_launch::start(supervisor.clone(), managed, place, told, cancel)
    }
}
