//! The publisher: one task that reads, asks, decides and stores, and waits for the next reason to.

use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentd_protocol::ids::{Commit, Version};
use agentd_protocol::stack::{Span, Stack};
use agentd_sys::causes::chain;
use futures_util::StreamExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::decide::{Published, decide};
use super::questions::{Known, Question, Wake, jittered};
use super::read::{FileProblem, ReadStack, read};
use super::watch::{Wakes, Watch};
use super::{Error, Judge, Resolve, SyncHandle, SyncStatus, Unresolved};
use crate::lifecycle;
use crate::reconcile::Reading;
use crate::store::{Put, Store};

/// An editor's write is several events; the file is read once they end.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The file is read although events go on, for a writer that never rests.
const DEBOUNCE_MAX: Duration = Duration::from_millis(500);
/// A file that does not parse may be half written: it is read once more before anybody is told.
const SECOND_LOOK: Duration = Duration::from_millis(200);
/// Repositories asked at once: enough to hide latency, few enough for a small host's processes.
pub(super) const RESOLVES_MAX: usize = 8;
/// For one ref, connecting included.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(20);
/// Until the file has been read once and says otherwise.
const POLL_DEFAULT: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub struct FileConfig {
    pub path: PathBuf,
    pub read: ReadStack,
    pub judge: Judge,
}

impl fmt::Debug for FileConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileConfig").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", RESOLVE_DEADLINE.as_secs())]
struct NoAnswer;

#[derive(Debug, thiserror::Error)]
#[error("the file is valid, but its version cannot be stored; it is tried again at the next poll")]
struct NotStored(#[source] crate::store::Error);

#[derive(Debug, thiserror::Error)]
#[error("the last version cannot be read back, without which nothing is published; it is tried again")]
struct NotRemembered(#[source] crate::store::Error);

/// Publishes a stack file as versions.
pub struct FilePublisher {
    config: FileConfig,
    resolver: Arc<dyn Resolve>,
    store: Store,
    versions: mpsc::Sender<Version>,
    status: watch::Sender<SyncStatus>,
    wakes: Arc<Wakes>,
    watch: Arc<Watch>,
    poke: Arc<Notify>,
    known: Known,
    previous: Option<Published>,
    is_published: bool,
    /// What the file held last, and how often that was something else.
    content: Option<(Reading, Stack)>,
    poll_interval: Duration,
}

impl fmt::Debug for FilePublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilePublisher").field("path", &self.config.path).finish_non_exhaustive()
    }
}

impl FilePublisher {
    /// Sends every new version to `versions` once it is stored. Runs until `cancel`, or until nobody receives them.
    pub fn start(
        config: FileConfig,
        resolver: Arc<dyn Resolve>,
        store: Store,
        versions: mpsc::Sender<Version>,
        cancel: CancellationToken,
    ) -> Result<SyncHandle, Error> {
        if config.path.file_name().is_none() {
            return Err(Error::NoFile { path: config.path });
        }
        let (status, status_seen) = watch::channel(SyncStatus::default());
        let poke = Arc::new(Notify::new());
        let wakes = Arc::new(Wakes::default());
        let publisher = Self {
            watch: Arc::new(Watch::new(&config.path, Arc::clone(&wakes))),
            config,
            resolver,
            store,
            versions,
            status,
            wakes,
            poke: Arc::clone(&poke),
            known: Known::default(),
            previous: None,
            is_published: false,
            content: None,
            poll_interval: POLL_DEFAULT,
        };
        lifecycle::spawn_essential("publisher", cancel.clone(), publisher.run(cancel));
        Ok(SyncHandle { status: status_seen, poke })
    }

    async fn run(mut self, cancel: CancellationToken) {
        let work = async {
            let mut wake = Wake::File;
            self.remember().await;
            // `Break`: nobody receives versions any more.
            while self.pass(wake).await.is_continue() {
                wake = self.next_wake().await;
            }
        };
        // A pass may be left at any point: what is stored is found again, what is not was never promised.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = work => {}
        }
    }

    async fn next_wake(&self) -> Wake {
        let poll = Instant::now() + jittered(self.poll_interval, fastrand::f64());
        let tick = self.known.next().map_or(poll, |next| next.min(poll));
        tokio::select! {
            () = self.poke.notified() => Wake::Poke,
            () = self.wakes.file.notified() => {
                settle(&self.wakes.file).await;
                Wake::File
            }
            () = self.wakes.repo.notified() => {
                settle(&self.wakes.repo).await;
                Wake::Repo
            }
            () = tokio::time::sleep_until(tick) => Wake::Tick,
        }
    }

    async fn pass(&mut self, wake: Wake) -> ControlFlow<()> {
        let problem = match self.read_twice().await {
            Ok(stack) => {
                self.note_content(&stack);
                Span(self.poll_interval) = stack.stack.poll_interval;
                self.ask(&stack, wake).await;
                match self.publish(&stack).await {
                    Ok(None) => return ControlFlow::Continue(()),
                    Ok(Some(version)) => {
                        let sent = self.versions.send(version).await;
                        return if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
                    }
                    Err(error) => chain(&NotStored(error)),
                }
            }
            Err(problem) => {
                self.known.rest(Instant::now() + self.poll_interval);
                problem.to_string()
            }
        };
        self.tell(|status| status.file_problem = Some(problem));
        ControlFlow::Continue(())
    }

    fn note_content(&mut self, stack: &Stack) {
        if self.content.as_ref().is_some_and(|(_, known)| known == stack) {
            return;
        }
        let number = self.content.as_ref().map_or(1, |(reading, _)| reading.number + 1);
        self.content = Some((Reading { number, services: stack.service.len() }, stack.clone()));
    }

    /// The newest version, on which decisions build. Without it a passing failure to resolve would leave services out,
    /// so nothing is decided before it is read.
    async fn remember(&mut self) {
        loop {
            match self.store.latest_version().await {
                Ok(Some(latest)) => {
                    // What an earlier era left in force is no version of this file yet, though it may hold the same.
                    self.is_published = latest.is_current;
                    self.tell(|status| status.version = Some(latest.version).filter(|_| latest.is_current));
                    self.previous = Some(Published { stack: latest.stack, refs: latest.refs });
                    return;
                }
                Ok(None) => return,
                Err(error) => {
                    let problem = chain(&NotRemembered(error));
                    self.tell(|status| status.file_problem = Some(problem));
                    sleep(self.poll_interval).await;
                }
            }
        }
    }

    async fn read_twice(&self) -> Result<Stack, FileProblem> {
        match self.read_once().await {
            Ok(stack) => Ok(stack),
            Err(_first) => {
                sleep(SECOND_LOOK).await;
                self.read_once().await
            }
        }
    }

    async fn read_once(&self) -> Result<Stack, FileProblem> {
        let (config, watch) = (self.config.clone(), Arc::clone(&self.watch));
        let reading = lifecycle::spawn_blocking("read the stack file", move || {
            // Watched before it is read: a change after the reading is an event.
            watch.ensure(None);
            let stack = read(&config.path, config.read, &config.judge);
            watch.ensure(stack.as_ref().ok());
            stack
        });
        reading.await.expect("reading a file does not panic")
    }

    async fn ask(&mut self, stack: &Stack, wake: Wake) {
        let due = self.known.due(stack, wake, Instant::now());
        let resolver = &self.resolver;
        let asking = due.into_iter().map(|question| async move {
            let answer = resolve(resolver.as_ref(), &question).await;
            (question, answer)
        });
        let mut answers = futures_util::stream::iter(asking).buffer_unordered(RESOLVES_MAX);
        while let Some((question, answer)) = answers.next().await {
            self.known.learn(question, answer, self.poll_interval, Instant::now(), fastrand::f64());
        }
    }

    /// The version that is new, if there is one.
    async fn publish(&mut self, stack: &Stack) -> Result<Option<Version>, crate::store::Error> {
        let decision = decide(stack, &self.known.answers(), self.previous.as_ref());
        let (mut new, mut problem) = (None, None);
        match decision.publish {
            Err(clash) => problem = Some(clash),
            Ok(publish) if self.is_published && self.previous.as_ref() == Some(&publish) => {}
            Ok(publish) => {
                let put = self.store.put_version(&publish.stack, &publish.refs).await?;
                (self.previous, self.is_published) = (Some(publish), true);
                if let Put::New(version) = put {
                    tracing::info!(%version, "published");
                    new = Some(version);
                }
            }
        }
        let reading = self.content.as_ref().map(|(reading, _)| *reading);
        self.tell(|status| {
            status.file_problem = problem;
            status.unresolved = decision.unresolved;
            status.stale = decision.stale;
            status.reading = reading;
            status.version = new.or(status.version);
        });
        Ok(new)
    }

    /// Every state of the file goes through here. Wakes nobody when only the time of reading changed.
    fn tell(&self, change: impl FnOnce(&mut SyncStatus)) {
        self.status.send_if_modified(|status| {
            let before = SyncStatus { last_read_unix_ms: None, ..status.clone() };
            let is_first = status.last_read_unix_ms.is_none();
            change(status);
            status.last_read_unix_ms = None;
            let changed = is_first || *status != before;
            status.last_read_unix_ms = Some(unix_ms());
            changed
        });
    }
}

pub(super) async fn resolve(resolver: &dyn Resolve, question: &Question) -> Result<Commit, Unresolved> {
    let answer = resolver.resolve(&question.repo, question.auth.as_deref(), &question.reference);
    timeout(RESOLVE_DEADLINE, answer).await.unwrap_or_else(|_elapsed| Err(Unresolved::new(&NoAnswer)))
}

/// Returns once no event came for [`DEBOUNCE`].
async fn settle(events: &Notify) {
    let quiet = async { while timeout(DEBOUNCE, events.notified()).await.is_ok() {} };
    // Elapsed: the writer does not rest, and the file is read as it is.
    let _ = timeout(DEBOUNCE_MAX, quiet).await;
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
