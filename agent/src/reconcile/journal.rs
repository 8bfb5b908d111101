//! The way into the event log. Noting never waits: what happens is not held up by who writes it down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentd_protocol::api::{Event, What};
use agentd_protocol::ids::{EventId, ReleaseNumber, ServiceName};
use agentd_sys::causes::chain;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::budget::Budget;
use super::mask::{KnownSecrets, mask_event};
use super::transitions::Fact;
use super::worker::unix_ms;
use crate::lifecycle;
use crate::store::{EventQuery, NewEvent, Store};

/// Events that may wait for the disk; beyond that they are counted, not kept.
const QUEUE_MAX: usize = 1_024;
/// Events of one transaction.
const BATCH_MAX: usize = 128;
/// How long the end of the manager waits for its last events.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    queue: mpsc::Sender<Entry>,
    /// Events that found the queue full.
    lost: Arc<AtomicU64>,
    store: Store,
    secrets: Arc<KnownSecrets>,
}

#[derive(Debug)]
enum Entry {
    Event(NewEvent),
    /// Answered when everything before it is on disk.
    Flush(oneshot::Sender<()>),
}

impl Journal {
    pub(super) fn start(store: Store, secrets: Arc<KnownSecrets>, cancel: CancellationToken) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE_MAX);
        let journal = Self { queue, lost: Arc::default(), store: store.clone(), secrets };
        let writer = Writer {
            entries,
            lost: Arc::clone(&journal.lost),
            store,
            budget: Budget::new(Instant::now()),
            batch: Vec::new(),
        };
        let ended = cancel.clone();
        lifecycle::spawn_essential("journal", cancel, async move {
            // Cancelled: the manager ends; what it had to say was flushed before.
            let _ = ended.run_until_cancelled(writer.run()).await;
        });
        journal
    }

    /// About the host as a whole.
    pub fn host(&self, what: What) {
        self.note(Fact::host(what));
    }

    pub(super) fn service(&self, service: &ServiceName, release: Option<ReleaseNumber>, what: What) {
        self.note(Fact { release, ..Fact::service(service, what) });
    }

    pub(super) fn note(&self, fact: Fact) {
        let event = NewEvent {
            at_unix_ms: fact.at_unix_ms.unwrap_or_else(unix_ms),
            service: fact.service,
            release: fact.release,
            instance: fact.instance,
            suppressed: 0,
            shim_seq: fact.shim_seq,
            what: fact.what,
        };
        if self.queue.try_send(Entry::Event(event)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns when everything noted so far is on disk, or cannot be brought there in time.
    pub(super) async fn flush(&self) {
        let (reply, done) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Entry::Flush(reply)).await.is_ok() {
                // Dropped: the writer has ended, nothing is left to wait for.
                let _ = done.await;
            }
        };
        if tokio::time::timeout(FLUSH_LIMIT, flushed).await.is_err() {
            tracing::warn!("the last events are not on disk in time");
        }
    }

    /// Masked: an older manager may have written down what this one knows to be a secret.
    pub async fn events(&self, query: EventQuery) -> Result<Vec<Event>, Error> {
        let mut events = self.store.events(query).await?;
        let secrets = self.secrets.current();
        events.iter_mut().for_each(|event| mask_event(event, &secrets));
        Ok(events)
    }

    /// Changes whenever there are newer events to ask for.
    pub fn newest(&self) -> watch::Receiver<EventId> {
        self.store.newest_event()
    }
}

struct Writer {
    entries: mpsc::Receiver<Entry>,
    lost: Arc<AtomicU64>,
    store: Store,
    budget: Budget,
    batch: Vec<Entry>,
}

impl Writer {
    async fn run(mut self) {
        while self.entries.recv_many(&mut self.batch, BATCH_MAX).await > 0 {
            self.write().await;
        }
    }

    async fn write(&mut self) {
        let (mut events, mut flushes) = (Vec::new(), Vec::new());
        let now = Instant::now();
        for entry in self.batch.drain(..) {
            match entry {
                Entry::Flush(reply) => flushes.push(reply),
                Entry::Event(event) => {
                    if let Some(suppressed) = self.budget.take(event.service.as_ref(), &event.what, now) {
                        events.push(NewEvent { suppressed, ..event });
                    }
                }
            }
        }
        if let Some(first) = events.first_mut() {
            first.suppressed += self.lost.swap(0, Ordering::Relaxed);
            let count = events.len();
            if let Err(error) = self.store.record_events(events).await {
                tracing::warn!(count, error = chain(&error), "events are not in the event log");
            }
        }
        for reply in flushes {
            // Dropped: who asked no longer waits.
            let _ = reply.send(());
        }
    }
}
