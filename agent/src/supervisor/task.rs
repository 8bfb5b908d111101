//! The task of one instance. Owns the conversation with its shim and its health; takes orders, publishes a view. When
//! it ends, shim and program live on.

use std::future::{Future, pending};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::shim::wire::{Envelope, Message};
use agentd_sys::causes::chain;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::client::{Link, NoLink, Welcome};
use super::health::{Effect, host_is_starved};
use super::look::{Question, look};
use super::ports::Lease;
use super::room::Room;
use super::socket::SocketError;
use super::tracked::{Checked, Now, Tracked};

/// Between attempts to reach a shim, doubling from the first to the last.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// A shim that the keeper has just started binds its socket within milliseconds; adoption may read much of /proc first.
const SPAWNED_TIMEOUT: Duration = Duration::from_secs(2);
const SPAWNED_POLL: Duration = Duration::from_millis(20);
/// A probe asked for from outside comes no sooner after the last one: the edge may ask for every failed request.
const NUDGE_GAP: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) enum Order {
    Stop {
        timeout: Option<Duration>,
    },
    Restart,
    Start,
    /// The shim ends, and the task with it.
    Leave,
    Held,
}

/// Dropped unanswered when the shim is lost on the way: whether the order arrived is then unknown.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) order: Order,
    pub(super) reply: oneshot::Sender<Result<Reply, Error>>,
}

#[derive(Debug)]
pub(super) enum Reply {
    Done,
    Held(Vec<(String, OwnedFd)>),
}

pub(super) struct InstanceTask {
    pub(super) room: Arc<Room>,
    pub(super) dir: PathBuf,
    pub(super) tracked: Tracked,
    /// Events up to this one have a keeper already.
    pub(super) events_kept: u64,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) nudge: Arc<Notify>,
    /// Told once, when the shim has been reached for the first time.
    pub(super) welcomed: Option<oneshot::Sender<()>>,
    /// Keeps the port in the table for as long as the task lives.
    pub(super) _lease: Option<Lease>,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

enum Connection {
    Reaching(Boxed<Result<(Link, Welcome), NoLink>>),
    Open(Link),
    Waiting { until: Instant },
}

enum Progress {
    Reached(Result<(Link, Welcome), NoLink>),
    Received(Result<(Envelope, Vec<OwnedFd>), SocketError>),
    Waited,
}

impl Connection {
    /// Cancel-safe in every state.
    async fn progress(&mut self) -> Progress {
        match self {
            Self::Reaching(attempt) => Progress::Reached(attempt.await),
            Self::Open(link) => Progress::Received(link.receive().await),
            Self::Waiting { until } => {
                sleep_until(*until).await;
                Progress::Waited
            }
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Open(_) => true,
            Self::Reaching(_) | Self::Waiting { .. } => false,
        }
    }
}

/// What is under way: the connection, an unanswered order, a probe.
struct Running {
    connection: Connection,
    backoff: Duration,
    /// The number the answer will name. One at a time: a shim answers at once.
    asked: Option<(u32, Request)>,
    probe: Option<Boxed<Checked>>,
    probe_at: Option<Instant>,
    probed_at: Option<Instant>,
    /// When /proc was last searched for a listener elsewhere.
    hinted_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Go,
    End,
}

impl InstanceTask {
    /// Ends with `cancel`, which is its own, or cancels it when it ends with its shim.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut running = Running {
            connection: Connection::Reaching(self.reach()),
            backoff: RECONNECT_MIN,
            asked: None,
            probe: None,
            probe_at: None,
            probed_at: None,
            hinted_at: None,
        };
        loop {
            self.room.publish(self.tracked.view());
            let may_ask = running.connection.is_open() && running.asked.is_none();
            let flow = tokio::select! {
                () = cancel.cancelled() => Flow::End,
                progress = running.connection.progress() => self.progressed(&mut running, progress).await,
                request = self.requests.recv(), if may_ask => match request {
                    Some(request) => self.ask(&mut running, request).await,
                    None => Flow::End,
                },
                () = self.nudge.notified() => Self::nudged(&mut running),
                checked = finish(&mut running.probe) => {
                    running.probe = None;
                    self.checked(&mut running, checked).await
                }
                () = at(running.probe_at), if running.probe.is_none() => {
                    self.probe(&mut running);
                    Flow::Go
                }
            };
            if flow == Flow::End {
                break;
            }
        }
        self.room.allowances.settled(&self.tracked.record.service, &self.tracked.record.id);
        cancel.cancel();
    }

    /// Connects; asks the keeper for a shim where none lives.
    fn reach(&self) -> Boxed<Result<(Link, Welcome), NoLink>> {
        let room = Arc::clone(&self.room);
        let (dir, id, after) = (self.dir.clone(), self.tracked.record.id.clone(), self.tracked.mirror.event_seq);
        let after = after.max(self.events_kept);
        Box::pin(async move {
            let _turn = room.reaching.acquire().await.expect("never closed");
            match Link::open(&dir, room.epoch, after).await {
                Err(NoLink::Dead) => {}
                other => return other,
            }
            if after == 0 {
                tracing::debug!(instance = %id, "the keeper starts its first shim");
            } else {
                tracing::info!(instance = %id, "shim is gone; the keeper starts one");
            }
            room.spawn(&id, Vec::new()).await?;
            let opened = async {
                loop {
                    match Link::open(&dir, room.epoch, after).await {
                        Err(NoLink::Dead) => sleep(SPAWNED_POLL).await,
                        other => return other,
                    }
                }
            };
            timeout(SPAWNED_TIMEOUT, opened).await.unwrap_or(Err(NoLink::Hung))
        })
    }

    async fn progressed(&mut self, running: &mut Running, progress: Progress) -> Flow {
        match progress {
            Progress::Waited => running.connection = Connection::Reaching(self.reach()),
            Progress::Reached(Ok((link, welcome))) => {
                running.connection = Connection::Open(link);
                running.backoff = RECONNECT_MIN;
                let effect = self.tracked.welcomed(welcome.shim_pid, &welcome.state, Now::read());
                if let Some(told) = self.welcomed.take() {
                    // Published first: who is told may look at the view at once. Gone: nobody waits any more.
                    self.room.publish(self.tracked.view());
                    let _ = told.send(()); // nobody waits any more
                }
                self.plan_probe(running);
                self.act(running, effect).await;
            }
            Progress::Reached(Err(error)) => {
                self.tracked.unsupervised(chain(&error));
                running.connection = Connection::Waiting { until: Instant::now() + running.backoff };
                running.backoff = (running.backoff * 2).min(RECONNECT_MAX);
            }
            Progress::Received(Ok((envelope, fds))) => return self.received(running, envelope, fds).await,
            Progress::Received(Err(error)) => return self.lost(running, &error),
        }
        Flow::Go
    }

    fn lost(&mut self, running: &mut Running, error: &SocketError) -> Flow {
        tracing::info!(instance = %self.tracked.record.id, error = %chain(error), "connection to the shim is lost");
        // Taken and dropped, any other order leaves its caller without an answer.
        if let Some((_, request)) = running.asked.take()
            && matches!(request.order, Order::Leave)
        {
            // The shim may have left before its answer was read. Dropped: nobody waits any more.
            let _ = request.reply.send(Ok(Reply::Done));
            return Flow::End;
        }
        self.tracked.disconnected();
        running.connection = Connection::Reaching(self.reach());
        Flow::Go
    }

    async fn received(&mut self, running: &mut Running, envelope: Envelope, fds: Vec<OwnedFd>) -> Flow {
        let answered = running.asked.take_if(|(seq, _)| *seq == envelope.re);
        match (envelope.message, answered) {
            (Message::Event(event), _) => {
                self.room.tell(&self.tracked.record.id, event);
                let before = self.tracked.mirror.incarnation;
                self.tracked.event(&event, Now::read());
                if before != self.tracked.mirror.incarnation || running.probe_at.is_none() {
                    self.plan_probe(running);
                }
                // The room's own reader has it now; what a crash of ours may lose is history, never state.
                return self.say(running, Message::Ack { event_seq: event.seq }).await;
            }
            (message, Some((_, request))) => {
                let leaving = matches!((&message, &request.order), (Message::Done, Order::Leave));
                let answer = self.answer(message, &request.order, fds);
                // Dropped: the caller's deadline has passed.
                let _ = request.reply.send(answer);
                if leaving {
                    return Flow::End;
                }
            }
            (Message::Refused { reason, text }, None) => {
                tracing::warn!(instance = %self.tracked.record.id, ?reason, text, "shim refuses");
            }
            (message, None) => tracing::debug!(instance = %self.tracked.record.id, ?message, "not waited for"),
        }
        Flow::Go
    }

    fn answer(&mut self, message: Message, order: &Order, fds: Vec<OwnedFd>) -> Result<Reply, Error> {
        let id = self.tracked.record.id.clone();
        match message {
            Message::Held { names } => Ok(Reply::Held(names.into_iter().zip(fds).collect())),
            Message::Refused { reason, text } => Err(Error::Refused { id, reason, text }),
            _ => {
                match order {
                    Order::Restart => self.count_asked(),
                    Order::Start if !self.tracked.mirror.is_running() => self.count_asked(),
                    Order::Start | Order::Stop { .. } | Order::Leave | Order::Held => {}
                }
                Ok(Reply::Done)
            }
        }
    }

    fn count_asked(&mut self) {
        // The first start of all was asked for by the launch and is not counted.
        if self.tracked.mirror.incarnation.0 == 0 {
            return;
        }
        let count = self.tracked.asked_restart();
        if let Err(error) = self.room.layout.set_asked_restarts(&self.tracked.record.id, count) {
            tracing::warn!(error = %chain(&error), "a restart that was asked for will count as one that was not");
        }
    }

    async fn ask(&mut self, running: &mut Running, request: Request) -> Flow {
        let Connection::Open(link) = &mut running.connection else { return Flow::Go };
        let message = match &request.order {
            Order::Stop { timeout } => Message::Stop { timeout_ms: timeout.map(millis) },
            Order::Restart => Message::Restart,
            Order::Start => Message::Start,
            Order::Leave => Message::Leave,
            Order::Held => Message::AskHeld { instance: None },
        };
        match link.send(message).await {
            Ok(seq) => {
                running.asked = Some((seq, request));
                Flow::Go
            }
            Err(error) => self.lost(running, &error),
        }
    }

    async fn say(&mut self, running: &mut Running, message: Message) -> Flow {
        let Connection::Open(link) = &mut running.connection else { return Flow::Go };
        match link.send(message).await {
            Ok(_) => Flow::Go,
            Err(error) => self.lost(running, &error),
        }
    }

    fn nudged(running: &mut Running) -> Flow {
        if let Some(at) = running.probe_at {
            let soonest = running.probed_at.map_or_else(Instant::now, |probed| probed + NUDGE_GAP);
            running.probe_at = Some(at.min(soonest));
        }
        Flow::Go
    }

    fn plan_probe(&self, running: &mut Running) {
        let now = Instant::now();
        let Tracked { health, record, .. } = &self.tracked;
        running.probe_at = health.next_probe(self.tracked.gate(), now, &record.probe, fastrand::f64());
    }

    fn probe(&self, running: &mut Running) {
        let now = Instant::now();
        running.probe_at = None;
        running.probed_at = Some(now);
        let Some(question) = Question::about(&self.tracked, now, running.hinted_at) else { return };
        if question.wants_hint() {
            running.hinted_at = Some(now);
        }
        running.probe = Some(Box::pin(look(self.room.prober.clone(), question)));
    }

    async fn checked(&mut self, running: &mut Running, checked: Checked) -> Flow {
        let effect = self.tracked.checked(checked, Now::read());
        self.plan_probe(running);
        self.act(running, effect).await
    }

    async fn act(&mut self, running: &mut Running, effect: Option<Effect>) -> Flow {
        match effect {
            None => Flow::Go,
            Some(Effect::MarkReady) => {
                self.room.allowances.settled(&self.tracked.record.service, &self.tracked.record.id);
                self.tracked.marked_ready(Now::read());
                self.say(running, Message::MarkReady { incarnation: self.tracked.mirror.incarnation.0 }).await
            }
            Some(Effect::Restart) => self.restart_failing(running).await,
        }
    }

    async fn restart_failing(&mut self, running: &mut Running) -> Flow {
        let record = &self.tracked.record;
        if host_is_starved() || !self.room.allowances.take(&record.service, &record.id, Instant::now()) {
            tracing::info!(instance = %record.id, service = %record.service, "fails its probes; no leave to restart it");
            return Flow::Go;
        }
        tracing::warn!(instance = %record.id, service = %record.service, "fails its probes for long; restarting it");
        self.say(running, Message::Restart).await
    }
}

async fn finish(probe: &mut Option<Boxed<Checked>>) -> Checked {
    match probe {
        Some(probe) => probe.await,
        None => pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
