//! Follows what happens beside the workers, as long as the manager lives, and notes what is worth an event: words of
//! shims, readiness, the keeper, the stack file.

use std::sync::Arc;

use agentd_protocol::api::What;
use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::event::Event;
use agentd_sys::causes::chain;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::journal::Journal;
use super::lives::Lives;
use super::routing::Views;
use super::status::DocumentProblems;
use super::transitions;
use super::worker::Rooms;
use crate::lifecycle;
use crate::store::Store;
use crate::supervisor::{KeeperView, Label};

struct Observer {
    journal: Journal,
    store: Store,
    lives: Lives,
    events: mpsc::Receiver<(InstanceId, Event)>,
    views: watch::Receiver<Arc<Views>>,
    seen: Arc<Views>,
    keepers: watch::Receiver<KeeperView>,
    keeper: KeeperView,
    documents: watch::Receiver<Option<DocumentProblems>>,
    document: DocumentProblems,
}

/// Notes that the manager started, then whatever happens.
pub(super) async fn start(
    rooms: &Rooms,
    version: &str,
    documents: watch::Receiver<Option<DocumentProblems>>,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let recorded = rooms.store.shim_events_recorded().await?;
    let mut views = rooms.supervisor.view();
    let seen = views.borrow_and_update().clone();
    let gone: Vec<InstanceId> = recorded.keys().filter(|id| !seen.contains_key(*id)).cloned().collect();
    rooms.store.forget_shim_events(gone).await?;
    let mut keepers = rooms.supervisor.keeper();
    let keeper = *keepers.borrow_and_update();
    let instances = seen.values().filter(|view| matches!(view.label, Label::Instance { .. }));
    let what = What::HostStart { pid: std::process::id(), version: version.to_owned(), adopted: instances.count() };
    rooms.journal.host(what);
    let observer = Observer {
        journal: rooms.journal.clone(),
        store: rooms.store.clone(),
        lives: Lives::new(&seen, &recorded),
        events: rooms.supervisor.events().expect("this is the one reader"),
        views,
        seen,
        keepers,
        keeper,
        documents,
        document: DocumentProblems::default(),
    };
    let ended = cancel.clone();
    lifecycle::spawn_essential("observer", cancel.clone(), async move {
        // Cancelled: the manager ends; what happens from now on is told to the next one.
        let _ = ended.run_until_cancelled(observer.run()).await;
    });
    Ok(())
}

impl Observer {
    async fn run(mut self) {
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Some((id, event)) => self.told(&id, &event),
                    None => return,
                },
                changed = self.views.changed() => {
                    if changed.is_err() { return }
                    self.looked().await;
                }
                changed = self.keepers.changed() => {
                    if changed.is_err() { return }
                    self.met_keeper();
                }
                changed = self.documents.changed() => {
                    if changed.is_err() { return }
                    self.read();
                }
            }
        }
    }

    fn told(&mut self, id: &InstanceId, event: &Event) {
        let facts = self.lives.told(id, event, &self.views.borrow());
        facts.into_iter().for_each(|fact| self.journal.note(fact));
    }

    /// A word of a shim is in the queue before the view changes by it: so the words come first.
    async fn looked(&mut self) {
        let now = self.views.borrow_and_update().clone();
        while let Ok((id, event)) = self.events.try_recv() {
            let facts = self.lives.told(&id, &event, &now);
            facts.into_iter().for_each(|fact| self.journal.note(fact));
        }
        self.lives.seen(&self.seen, &now).into_iter().for_each(|fact| self.journal.note(fact));
        let gone = self.lives.forget_gone(&now);
        self.seen = now;
        if gone.is_empty() {
            return;
        }
        // What is still on its way to the store names these; it must not come after.
        self.journal.flush().await;
        if let Err(error) = self.store.forget_shim_events(gone).await {
            tracing::warn!(error = chain(&error), "gone instances are forgotten at the next start");
        }
    }

    fn met_keeper(&mut self) {
        let now = *self.keepers.borrow_and_update();
        let before = std::mem::replace(&mut self.keeper, now);
        if before.pid != now.pid {
            self.journal.host(What::HostKeeperReplaced { pid: now.pid, before: before.pid });
        }
    }

    fn read(&mut self) {
        // Nothing to note before sync has looked at the file.
        let Some(now) = self.documents.borrow_and_update().clone() else { return };
        let before = std::mem::replace(&mut self.document, now);
        transitions::document(&before, &self.document).into_iter().for_each(|fact| self.journal.note(fact));
    }
}
