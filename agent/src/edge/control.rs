//! The edge's side of the control conversation: takes snapshots in, reports what became of backends.

use std::time::Duration;

use agentd_protocol::edge::{FromEdge, PROTOCOL, Snapshot, ToEdge};
use agentd_sys::causes::chain;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_util::bytes::BytesMut;

use super::Error;
use super::frame::{Link, decode};
use crate::dns::{self, Responder, Zone};
use crate::proxy::{self, BackendKey, Registry};

/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Where the process is in its life; told by `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Serving,
    /// The next edge accepts managers on the same socket: we stop, and keep the one we have.
    Draining,
    Drained {
        connections_left: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DrainOrder {
    pub(super) soft: Duration,
    pub(super) deadline: Duration,
}

/// What a snapshot reaches: the proxy's table and the names, which know nothing of each other.
#[derive(Debug)]
pub(super) struct Routing {
    pub(super) registry: Registry,
    pub(super) names: Responder,
}

/// Why a snapshot was not taken; the one in force stays.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotApplied {
    #[error(transparent)]
    Routes(#[from] proxy::Error),
    #[error(transparent)]
    Names(#[from] dns::Error),
}

impl Routing {
    /// All or nothing. A new name is known when its service is routed, not before.
    pub(super) fn apply(&mut self, snapshot: Snapshot) -> Result<(), NotApplied> {
        let names = snapshot.services.iter().map(|service| &service.name);
        let zone = Zone::new(&snapshot.suffix, names, snapshot.generation)?;
        self.registry.apply(snapshot)?;
        self.names.install(zone);
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Control {
    pub(super) routing: Routing,
    pub(super) unreachable: mpsc::Receiver<BackendKey>,
    pub(super) orders: mpsc::Sender<DrainOrder>,
    pub(super) life: watch::Receiver<Life>,
}

/// The one manager we talk to.
#[derive(Debug)]
struct Manager {
    link: Link,
    greeted: Greeted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeted {
    Yes,
    NotYet,
}

impl Control {
    pub(super) async fn run(mut self, listener: UnixListener) {
        let mut listener = Some(listener);
        let mut manager: Option<Manager> = None;
        let idle_changed = self.routing.registry.idle_changed();
        loop {
            let outcome = tokio::select! {
                stream = accept(listener.as_ref()) => {
                    manager = Some(Manager { link: Link::new(stream), greeted: Greeted::NotYet });
                    self.greet(&mut manager).await
                }
                frame = receive(&mut manager) => self.take(frame, &mut manager).await,
                () = idle_changed.notified() => self.report_idle(&mut manager).await,
                Some((instance, incarnation)) = self.unreachable.recv() => {
                    tell(&mut manager, &FromEdge::Unreachable { instance, incarnation }).await
                }
                Ok(()) = self.life.changed() => {
                    let life = *self.life.borrow_and_update();
                    match life {
                        Life::Serving => Ok(()),
                        Life::Draining => {
                            listener = None;
                            Ok(())
                        }
                        Life::Drained { connections_left } => {
                            // The process ends now, told or not.
                            let _ = tell(&mut manager, &FromEdge::Drained { connections_left }).await;
                            return;
                        }
                    }
                }
            };
            if let Err(error) = outcome {
                tracing::warn!(error = %chain(&error), "lost the manager; routing goes on by the last snapshot");
                manager = None;
            }
        }
    }

    async fn greet(&mut self, manager: &mut Option<Manager>) -> Result<(), Error> {
        // All that became idle is told below, from the list of those known.
        self.routing.registry.take_idle();
        let hello = FromEdge::Hello {
            protocol: PROTOCOL,
            build: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            generation: self.routing.registry.table().load().snapshot.as_ref().map(|snapshot| snapshot.generation),
            backends: self.routing.registry.in_use(),
        };
        tell(manager, &hello).await?;
        for (instance, incarnation) in self.routing.registry.known_idle() {
            let (instance, incarnation) = (instance.clone(), *incarnation);
            tell(manager, &FromEdge::Idle { instance, incarnation }).await?;
        }
        Ok(())
    }

    async fn report_idle(&mut self, manager: &mut Option<Manager>) -> Result<(), Error> {
        for (instance, incarnation) in self.routing.registry.take_idle() {
            tell(manager, &FromEdge::Idle { instance, incarnation }).await?;
        }
        Ok(())
    }

    async fn take(
        &mut self,
        frame: Result<Option<BytesMut>, Error>,
        manager: &mut Option<Manager>,
    ) -> Result<(), Error> {
        let Some(frame) = frame? else {
            tracing::info!("the manager went away; routing goes on by the last snapshot");
            *manager = None;
            return Ok(());
        };
        let greeted = manager.as_ref().map_or(Greeted::NotYet, |manager| manager.greeted);
        match (decode(frame).await?, greeted) {
            (ToEdge::Hello { protocol: PROTOCOL }, _) => {
                if let Some(manager) = manager {
                    manager.greeted = Greeted::Yes;
                }
                Ok(())
            }
            (ToEdge::Hello { protocol }, _) => {
                tracing::error!(
                    protocol,
                    ours = PROTOCOL,
                    "the manager speaks another version; it must replace this edge"
                );
                *manager = None;
                Ok(())
            }
            (ToEdge::Snapshot { snapshot }, Greeted::Yes) => {
                let answer = self.apply(snapshot);
                tell(manager, &answer).await
            }
            (ToEdge::Drain { soft_ms, deadline_ms }, Greeted::Yes) => {
                let order =
                    DrainOrder { soft: Duration::from_millis(soft_ms), deadline: Duration::from_millis(deadline_ms) };
                // Full: a drain is under way already, and its deadline stands.
                let _ = self.orders.try_send(order);
                Ok(())
            }
            (ToEdge::Snapshot { .. } | ToEdge::Drain { .. }, Greeted::NotYet) => {
                tracing::warn!("a manager gave orders without a Hello; dropped");
                *manager = None;
                Ok(())
            }
        }
    }

    fn apply(&mut self, snapshot: Snapshot) -> FromEdge {
        let generation = snapshot.generation;
        match self.routing.apply(snapshot) {
            Ok(()) => {
                tracing::info!(%generation, "snapshot applied");
                FromEdge::Applied { generation }
            }
            Err(error) => {
                tracing::error!(%generation, %error, "snapshot refused; the one in force stays");
                FromEdge::Rejected { generation, reason: error.to_string() }
            }
        }
    }
}

async fn tell(manager: &mut Option<Manager>, message: &FromEdge) -> Result<(), Error> {
    match manager {
        Some(manager) => manager.link.send(message).await,
        None => Ok(()),
    }
}

async fn receive(manager: &mut Option<Manager>) -> Result<Option<BytesMut>, Error> {
    match manager {
        Some(manager) => manager.link.next().await,
        None => std::future::pending().await,
    }
}

/// The next connection of root or of our own user.
async fn accept(listener: Option<&UnixListener>) -> UnixStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        let (stream, credentials) = match listener.accept().await {
            Ok((stream, _)) => {
                let credentials = stream.peer_cred();
                (stream, credentials)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a manager for now; look at the edge's descriptor limit");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match credentials {
            Ok(credentials) if credentials.uid() == 0 || credentials.uid() == nix::unistd::geteuid().as_raw() => {
                return stream;
            }
            Ok(credentials) => tracing::warn!(uid = credentials.uid(), "refused a control connection of another user"),
            Err(error) => tracing::warn!(%error, "refused a control connection without credentials"),
        }
    }
}
