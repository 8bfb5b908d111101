//! What the tasks of all instances share.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use agentd_protocol::ids::{Epoch, InstanceId};
use agentd_protocol::shim::event::Event;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::client::NoLink;
use super::health::{Allowances, Prober};
use super::keeper;
use super::layout::Layout;
use super::view::InstanceView;

/// Shims that are reached at the same time, so that a start with hundreds of them is no storm.
pub(super) const REACHING_MAX: usize = 16;
/// Events waiting for the event log. A log that falls further behind loses history, never state.
pub(super) const EVENTS_MAX: usize = 4_096;
/// Spawns waiting for the keeper.
pub(super) const SPAWNS_MAX: usize = 64;

pub(super) type Views = Arc<BTreeMap<InstanceId, InstanceView>>;

/// The keeper is to start a shim; `held` goes along the first time, later the keeper has its own copies.
#[derive(Debug)]
pub(super) struct Spawn {
    pub(super) id: InstanceId,
    pub(super) held: Vec<(String, OwnedFd)>,
    pub(super) done: oneshot::Sender<Result<(), keeper::Error>>,
}

#[derive(Debug)]
pub(super) struct Room {
    pub(super) layout: Layout,
    pub(super) epoch: Epoch,
    pub(super) prober: Prober,
    pub(super) allowances: Allowances,
    pub(super) reaching: Semaphore,
    pub(super) views: watch::Sender<Views>,
    pub(super) events: mpsc::Sender<(InstanceId, Event)>,
    pub(super) spawns: mpsc::Sender<Spawn>,
}

impl Room {
    pub(super) fn publish(&self, view: InstanceView) {
        self.views.send_if_modified(|views| {
            if views.get(&view.id) == Some(&view) {
                return false;
            }
            Arc::make_mut(views).insert(view.id.clone(), view);
            true
        });
    }

    pub(super) fn withdraw(&self, id: &InstanceId) {
        self.views.send_if_modified(|views| views.contains_key(id) && Arc::make_mut(views).remove(id).is_some());
    }

    pub(super) fn tell(&self, id: &InstanceId, event: Event) {
        if self.events.try_send((id.clone(), event)).is_err() {
            tracing::warn!(instance = %id, seq = event.seq, "the event log does not keep up; an event is not recorded");
        }
    }

    pub(super) async fn spawn(&self, id: &InstanceId, held: Vec<(String, OwnedFd)>) -> Result<(), NoLink> {
        let (done, told) = oneshot::channel();
        self.spawns.send(Spawn { id: id.clone(), held, done }).await.map_err(|_| NoLink::Ending)?;
        told.await.map_err(|_| NoLink::Ending)?.map_err(NoLink::Spawn)
    }
}
