//! The loop: one report under way, held while there is no news; a second one when something happens meanwhile; a look at
//! what the server hands out whenever that may have changed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::api::{ControlStatus, Status};
use agentd_protocol::control::ANSWER_BYTES_MAX;
use agentd_protocol::control::report::{GAP_KIND, HeadHint, OutboxReport, Reported, Seen};
use agentd_protocol::control::time::Time;
use agentd_protocol::ids::{EventId, Version};
use agentd_sys::causes::chain;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use reqwest::Method;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::{Answer, CALL_LIMIT, Call, Client, NoAnswer, host_signer};
use super::events::Stream;
use super::fetch::{Fetcher, Looked, REJECTED, until_look};
use super::fit::{Fit, Sent, TooLarge};
use super::readopt::{Asker, Heard};
use super::report::{From, Telling, Told, report};
use super::snapshot::{Beside, snapshot};
use super::step::{self, Course, Cure, Limits, Next, Outcome, State, outcome, step};
use super::{ClientError, Identity, Judge, MaskRecord, Note, SnapshotSource, status, unix_ms, unix_secs};
use crate::lifecycle;
use crate::store::{ControlState, Gap, Store, Waiting};

/// Events that come together are one report.
const GATHER: Duration = Duration::from_millis(150);
/// While a report is held: how often the host is looked at for what no event tells.
const GLANCE: Duration = Duration::from_secs(5);
/// Calls under way: the newest, and held ones that a server has not let go of yet.
const FLIGHTS_MAX: usize = 3;
/// Between two looks that answers ask for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Answers in a row that tell of a version which looking does not bring: after that the server is asked no more often than
/// the stack's `poll_interval`.
const SAME_NEWS_MAX: u32 = 3;
/// Over the time that a report is to be held: what is not answered then has been lost on its way.
const HOLD_MARGIN: Duration = Duration::from_secs(10);
/// Until a first version says otherwise.
const CEILING_DEFAULT: Duration = Duration::from_secs(15);

pub struct Setup {
    pub identity: Arc<Identity>,
    pub remembered: ControlState,
    pub store: Store,
    /// Told every version once it is stored.
    pub versions: mpsc::Sender<Version>,
    pub snapshot: SnapshotSource,
    pub judge: Judge,
    pub mask: MaskRecord,
    pub note: Note,
    /// `poll_interval` of the stack in force.
    pub ceiling: Option<Duration>,
    /// The newest version of this joining in the store.
    pub newest: Option<Version>,
    pub status: watch::Sender<Option<ControlStatus>>,
    pub cancel: CancellationToken,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("host", &self.identity.host).finish_non_exhaustive()
    }
}

/// A report under way.
struct Flight {
    seq: u64,
    rows: Vec<i64>,
    telling: Option<Telling>,
    carried: Sent,
    sent: Instant,
    is_held: bool,
}

/// What a report that was taken leaves to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Nothing,
    /// There may be more of them.
    Events,
    /// The server tells again and again of what this host cannot take.
    SameNews,
}

type Landed = (u64, Result<Answer, NoAnswer>);

pub struct Control {
    client: Client,
    identity: Arc<Identity>,
    store: Store,
    snapshot: SnapshotSource,
    mask: MaskRecord,
    note: Note,
    status: watch::Sender<Option<ControlStatus>>,
    state: State,
    boot: u64,
    seq: u64,
    offset_s: i64,
    stream: Stream,
    fit: Fit,
    told: Told,
    readoption: Asker,
    ceiling: Duration,
    newest: Option<Version>,
    seen: Seen,
    /// The newest report, as long as it is under way.
    flight: Option<Flight>,
    flights: FuturesUnordered<BoxFuture<'static, Landed>>,
    due: Instant,
    /// Where it is not looking.
    fetcher: Option<Box<Fetcher>>,
    looking: Option<BoxFuture<'static, (Box<Fetcher>, Looked)>>,
    next_look: Instant,
    last_look: Instant,
    same_news: u32,
    last_hint: Option<HeadHint>,
    events: watch::Receiver<EventId>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("host", &self.identity.host).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Control {
    /// Runs until `cancel`.
    pub fn start(setup: Setup) -> Result<(), ClientError> {
        let Setup { identity, remembered, store, versions, snapshot, judge, mask, note, .. } = setup;
        let Setup { ceiling, newest, status, cancel, .. } = setup;
        let client = Client::new(&identity.reach)?;
        let seen = Seen {
            root: remembered.trust.root.version,
            epoch: remembered.trust.root.epoch,
            seen: remembered.trust.floor.map_or(Version(0), |floor| floor.version),
            applied: Version(0),
        };
        let mut first = status::first(&identity, unix_ms(), remembered.refusal);
        first.newest = newest;
        first.fresh_until_unix_ms = status::fresh_until(remembered.trust.fresh_until);
        status.send_replace(Some(first));
        let readoption = Asker::new(client.clone(), Arc::clone(&identity));
        let fetcher =
            Fetcher::new(client.clone(), Arc::clone(&identity), store.clone(), judge, versions, remembered.trust);
        let now = Instant::now();
        let control = Self {
            client,
            identity,
            events: store.newest_event(),
            store,
            snapshot,
            mask,
            note,
            status,
            state: State::new(),
            boot: remembered.boot,
            seq: 0,
            offset_s: 0,
            stream: Stream::new(),
            fit: Fit::FULL,
            told: Told::new(),
            readoption,
            ceiling: ceiling.unwrap_or(CEILING_DEFAULT),
            newest,
            seen,
            flight: None,
            flights: FuturesUnordered::new(),
            due: now,
            fetcher: Some(Box::new(fetcher)),
            looking: None,
            next_look: now,
            last_look: now,
            same_news: 0,
            last_hint: None,
        };
        lifecycle::spawn_essential("control", cancel.clone(), async move {
            // Cancelled: the manager ends. What was not acknowledged is sent by the next one.
            let _ = cancel.run_until_cancelled(control.run()).await;
        });
        Ok(())
    }

    async fn run(mut self) {
        let pulse = lifecycle::pulse("control");
        let mut glance = Instant::now() + GLANCE;
        loop {
            pulse.beat();
            let is_held = self.flight.as_ref().is_some_and(|flight| flight.is_held);
            let may_report = self.flight.is_none() || is_held;
            tokio::select! {
                Some((seq, answer)) = self.flights.next() => self.landed(seq, &answer).await,
                () = sleep_until(self.due), if may_report => self.report().await,
                heard = self.readoption.next(self.offset_s) => self.heard(heard),
                () = sleep_until(self.next_look), if self.fetcher.is_some() => self.start_look(),
                (fetcher, looked) = pending_or(&mut self.looking), if self.looking.is_some() => {
                    self.looking = None;
                    self.looked(fetcher, looked).await;
                }
                // Closed with the store, which ends the process.
                Ok(()) = self.events.changed() => self.hurry(),
                () = sleep_until(glance), if is_held => {
                    glance = Instant::now() + GLANCE;
                    self.glance().await;
                }
                () = pulse.due() => {}
            }
        }
    }

    /// Something happened. Not while the server is away, or does not want us.
    fn hurry(&mut self) {
        if self.state.course == Course::Steady {
            self.due = self.due.min(Instant::now() + GATHER);
        }
    }

    async fn glance(&mut self) {
        let Some((snapshot, _)) = self.look_at_host().await else { return };
        if self.fit.takes_snapshot() && (self.told.differs(&snapshot) || self.told.is_old(Instant::now())) {
            self.hurry();
        }
    }

    async fn look_at_host(&mut self) -> Option<(agentd_protocol::control::report::Snapshot, Status)> {
        let status = (self.snapshot)().await?;
        let outbox = self.outbox().await;
        self.tell(|told| told.outbox = outbox);
        let told = self.status.borrow().clone();
        let (refused, clock_skew_ms) = told.map(|told| (told.refused, told.clock_skew_ms)).unwrap_or_default();
        let beside = Beside { refused, outbox, clock_skew_ms };
        Some((snapshot(&status, &beside, self.fit.detail(Instant::now())), status))
    }

    async fn outbox(&mut self) -> OutboxReport {
        self.store.outbox_report().await.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "what waits for the control server cannot be counted");
            OutboxReport::default()
        })
    }

    async fn report(&mut self) {
        let now = Instant::now();
        let waiting = self.waiting().await;
        let mut snapshot = None;
        if let Some((found, status)) = self.look_at_host().await {
            self.seen.applied = status.stack.applied_version.unwrap_or(Version(0));
            let applied = status.stack.applied_version;
            self.tell(|told| told.applied = applied);
            let is_due = self.fit.takes_snapshot() && (self.told.differs(&found) || self.told.is_old(now));
            snapshot = Some(found).filter(|_| is_due);
        }
        let mut events = self.stream.number(&waiting);
        events.iter_mut().for_each(|record| (self.mask)(record));
        let hold_s = self.state.wait_s(self.ceiling);
        let carried = Sent { records: events.len(), snapshot: snapshot.is_some() };
        // What is news to the server is not to wait there; nor is the first, which tells how it stands.
        let is_held = carried.is_nothing() && self.fit.is_whole() && self.seq > 0 && hold_s > 0;
        self.seq += 1;
        let from =
            From { boot: self.boot, seq: self.seq, machine: self.identity.machine(), stream: self.stream.id.clone() };
        let (report, telling) = report(from, self.seen, snapshot, events, &self.told);
        let body = serde_json::to_vec(&report).expect("a report is plain JSON");
        let rows = waiting.iter().map(|one| one.row).collect();
        let flight = Flight { seq: self.seq, rows, telling, carried, sent: now, is_held };
        self.launch(flight, body, hold_s);
    }

    /// What of the events goes with this report.
    async fn waiting(&mut self) -> Vec<Waiting> {
        let Some((records_max, bytes_max)) = self.fit.events() else { return Vec::new() };
        let batch = self.store.outbox_batch(records_max, bytes_max).await;
        batch.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "events cannot be read; they are sent later");
            Vec::new()
        })
    }

    fn launch(&mut self, flight: Flight, body: Vec<u8>, hold_s: u64) {
        if self.flights.len() >= FLIGHTS_MAX {
            self.flights.clear();
        }
        let (client, identity, seq) = (self.client.clone(), Arc::clone(&self.identity), flight.seq);
        let (headers, limit) = if flight.is_held {
            (vec![("prefer", format!("wait={hold_s}"))], HOLD_MARGIN + Duration::from_secs(hold_s))
        } else {
            (Vec::new(), CALL_LIMIT)
        };
        let created = unix_secs().saturating_add_signed(self.offset_s);
        self.flights.push(Box::pin(async move {
            let call =
                Call { method: Method::POST, path: "/v1/report", body, headers, bytes_max: ANSWER_BYTES_MAX, limit };
            let signer = host_signer(identity.host.as_str(), &identity.key);
            (seq, client.send(call, created, &[signer]).await)
        }));
        if flight.is_held && self.is_unsettled() {
            // What was let go just before the server held this would wake nobody.
            self.next_look = self.next_look.min(Instant::now() + LOOK_AGAIN);
        }
        self.flight = Some(flight);
        self.due = Instant::now() + Duration::from_secs(86_400);
    }

    /// A reply to an older report says nothing that the newest will not say.
    async fn landed(&mut self, seq: u64, answer: &Result<Answer, NoAnswer>) {
        let Some(flight) = self.flight.take_if(|flight| flight.seq == seq) else { return };
        let now = Instant::now();
        let outcome = self.weighed(outcome(answer), flight.carried).await;
        let took = now.duration_since(flight.sent);
        let limits = Limits { ceiling: self.ceiling, took, asked: flight.is_held, random: fastrand::f64() };
        let (state, next) = step(self.state, &outcome, limits);
        self.state = state;
        let mut more = More::Nothing;
        if let Outcome::Taken { reported, .. } = &outcome {
            more = self.taken(reported, flight, now).await;
        }
        self.note_link(&outcome, answer.is_ok());
        self.note_readoption(&outcome, now);
        match (next, more) {
            (Next::Report { .. }, More::Events) => self.due = now,
            (Next::Report { after }, More::Nothing) => {
                self.due = now + self.readoption.state.report_within().map_or(after, |most| after.min(most));
            }
            (Next::Report { after }, More::SameNews) => self.due = now + after.max(self.ceiling),
            (Next::Cure { cure, after }, _) => {
                self.due = now + after;
                self.cure(cure).await;
            }
        }
        // What came while it was under way.
        if self.state.course == Course::Steady && self.events.has_changed().unwrap_or(false) {
            self.hurry();
        }
    }

    /// What was too large is sent in smaller parts; what is not its size's fault is a failure like others.
    async fn weighed(&mut self, outcome: Outcome, carried: Sent) -> Outcome {
        if outcome != Outcome::TooLarge {
            return outcome;
        }
        let (fit, verdict) = self.fit.too_large(carried, Instant::now());
        self.fit = fit;
        let given_up = match verdict {
            TooLarge::Smaller => return outcome,
            TooLarge::GiveUp => self.give_up_first().await,
            TooLarge::Anything => false,
        };
        if given_up {
            return outcome;
        }
        Outcome::Later { cause: "it answers that a report of the smallest size is too large".to_owned(), after: None }
    }

    async fn taken(&mut self, reported: &Reported, flight: Flight, now: Instant) -> More {
        let mut more = if self.fit.is_whole() { More::Nothing } else { More::Events };
        self.fit = self.fit.taken(flight.carried);
        if !flight.rows.is_empty() {
            self.stream.acknowledged(&flight.rows);
            more = More::Events;
            if let Err(error) = self.store.outbox_acknowledged(flight.rows).await {
                // They are sent again, which the server sees by their ids.
                tracing::warn!(error = chain(&error), "acknowledged events are not dropped yet");
            }
        }
        if let Some(telling) = flight.telling {
            self.told.note(telling, now);
        }
        if reported.full {
            self.told.forget();
        }
        let hint = reported.head;
        let is_news = hint.version > self.seen.seen || hint.root > self.seen.root || hint.epoch > self.seen.epoch;
        // One that went back is worth a look as well: the database may be an older one, which people are to be told of.
        let is_other = self.last_hint.replace(hint) != Some(hint);
        if is_news || is_other || self.is_unsettled() {
            self.next_look = self.next_look.min(now.max(self.last_look + LOOK_AGAIN));
        }
        self.same_news = if is_news { self.same_news.saturating_add(1) } else { 0 };
        if self.same_news > SAME_NEWS_MAX { More::SameNews } else { more }
    }

    /// There is a version that this host did not take, and may take later.
    fn is_unsettled(&self) -> bool {
        self.status.borrow().as_ref().is_some_and(|told| told.held.is_some() || told.refused.is_some())
    }

    fn note_link(&mut self, outcome: &Outcome, answered: bool) {
        let now_unix_ms = unix_ms();
        let server = match outcome {
            Outcome::Taken { reported, .. } => Some(reported.time),
            Outcome::Skewed { server } => Some(*server),
            Outcome::Later { .. }
            | Outcome::Regressed { .. }
            | Outcome::Gap { .. }
            | Outcome::TooLarge
            | Outcome::Refused { .. }
            | Outcome::Forgotten { .. } => None,
        };
        let link = status::link(outcome);
        let mut event = None;
        self.tell(|told| {
            if answered {
                told.last_answer_unix_ms = Some(now_unix_ms);
            }
            if let Some(server) = server {
                told.clock_skew_ms = status::skew_ms(server, now_unix_ms);
            }
            if let Some(link) = link {
                event = status::told(&told.link, &link);
                if std::mem::discriminant(&told.link) != std::mem::discriminant(&link) {
                    told.since_unix_ms = now_unix_ms;
                }
                told.link = link;
            }
        });
        if let Some(event) = event {
            (self.note)(event);
        }
    }

    async fn cure(&mut self, cure: Cure) {
        let stored = match cure {
            Cure::Clock(server) => {
                let host = Time::from_unix_secs(i64::try_from(unix_secs()).unwrap_or(i64::MAX));
                self.offset_s = step::offset_s(server, host);
                if let Some(fetcher) = &mut self.fetcher {
                    fetcher.offset_s = self.offset_s;
                }
                Ok(())
            }
            Cure::Boot(boot) => {
                self.boot = step::boot_after(self.boot, boot);
                (self.seq, self.stream) = (0, Stream::new());
                self.told.forget();
                self.store.set_boot(self.boot).await
            }
            Cure::Gap { expected } => {
                let count = self.stream.lost(expected);
                self.stream = Stream::new();
                let at = unix_ms();
                let gap =
                    Gap { count, from_unix_ms: at, to_unix_ms: at, reason: "the control server went back in time" };
                if count > 0 { self.store.outbox_prepend_gap(gap).await } else { Ok(()) }
            }
            // Done when it was weighed.
            Cure::Smaller => Ok(()),
        };
        if let Err(error) = stored {
            tracing::warn!(error = chain(&error), "tried again with the next report");
        }
    }

    /// The first that waits, for a record that tells of it; not where it is such a record itself.
    async fn give_up_first(&mut self) -> bool {
        let first = self.store.outbox_batch(1, 1).await.unwrap_or_default();
        let Some(one) = first.first().filter(|one| one.record.kind != GAP_KIND) else { return false };
        tracing::warn!(eid = one.record.eid, kind = one.record.kind, "an event is too large for the control server");
        let given_up = self.store.outbox_give_up(one.row, "too large for the control server").await;
        given_up.inspect_err(|error| tracing::warn!(error = chain(error), "tried again with the next report")).is_ok()
    }

    fn note_readoption(&mut self, outcome: &Outcome, now: Instant) {
        match outcome {
            Outcome::Forgotten { .. } => self.readoption.forgotten(now, fastrand::f64()),
            // Who does not answer may have forgotten this host as before.
            Outcome::Later { .. } | Outcome::Skewed { .. } => return,
            Outcome::Taken { .. }
            | Outcome::Regressed { .. }
            | Outcome::Gap { .. }
            | Outcome::TooLarge
            | Outcome::Refused { .. } => self.readoption.known(),
        }
        self.tell_readoption();
    }

    fn heard(&mut self, heard: Heard) {
        let now = Instant::now();
        tracing::info!(?heard, "asked the control server to take this host back");
        match &heard {
            Heard::Skewed { server } => {
                let host = Time::from_unix_secs(i64::try_from(unix_secs()).unwrap_or(i64::MAX));
                self.offset_s = step::offset_s(*server, host);
            }
            Heard::Known => self.due = now,
            Heard::Pending { .. } | Heard::Denied { .. } | Heard::Nothing { .. } => {}
        }
        self.readoption.hear(heard, now, fastrand::f64());
        if let Some(within) = self.readoption.state.report_within() {
            self.due = self.due.min(now + within);
        }
        self.tell_readoption();
    }

    fn tell_readoption(&self) {
        let readoption = self.readoption.state.told();
        self.tell(|told| told.readoption = readoption);
    }

    fn start_look(&mut self) {
        let Some(mut fetcher) = self.fetcher.take() else { return };
        self.last_look = Instant::now();
        self.looking = Some(Box::pin(async move {
            let looked = fetcher.look().await;
            (fetcher, looked)
        }));
    }

    async fn looked(&mut self, mut fetcher: Box<Fetcher>, looked: Looked) {
        fetcher.offset_s = self.offset_s;
        let trust = &fetcher.trust;
        (self.seen.root, self.seen.epoch) = (trust.root.version, trust.root.epoch);
        self.seen.seen = trust.floor.map_or(Version(0), |floor| floor.version);
        let fresh = status::fresh_until(trust.fresh_until);
        self.next_look = Instant::now() + until_look(trust.fresh_until, &looked, self.ceiling);
        self.fetcher = Some(fetcher);
        self.tell(|told| told.fresh_until_unix_ms = fresh);
        match looked {
            Looked::Nothing => {}
            Looked::Unanswered { cause, .. } => tracing::debug!(cause, "nothing was learnt of the head"),
            Looked::Current => self.settle(None).await,
            Looked::Held { offered } => {
                self.seen.seen = offered;
                self.settle(Some(offered)).await;
            }
            Looked::Adopted { version, poll_interval } => {
                (self.newest, self.ceiling) = (Some(version), poll_interval);
                self.settle(None).await;
                self.hurry();
            }
            Looked::Refused { version, kind, reasons } => self.refuse(version, kind, &reasons).await,
        }
    }

    /// What is in force is current, or is meant to stay for now.
    async fn settle(&mut self, held: Option<Version>) {
        let newest = self.newest.max(held);
        let mut was_refused = false;
        self.tell(|told| {
            was_refused = told.refused.take().is_some();
            (told.held, told.newest) = (held, newest);
        });
        if was_refused {
            self.keep_refusal(None).await;
            self.hurry();
        }
    }

    async fn refuse(&mut self, version: Option<Version>, kind: &str, reasons: &[String]) {
        if let (Some(version), REJECTED) = (version, kind) {
            self.seen.seen = version;
        }
        let before = self.status.borrow().as_ref().and_then(|told| told.refused.clone());
        let (refusal, is_other) = status::refusal(before.as_ref(), version, kind, reasons, unix_ms());
        if !is_other {
            return;
        }
        tracing::warn!(?version, kind, reasons = reasons.join("; "), "not taken; what runs runs on");
        (self.note)(status::event(&refusal));
        let newest = self.newest.max(version);
        self.tell(|told| (told.refused, told.newest, told.held) = (Some(refusal.clone()), newest, None));
        self.keep_refusal(Some(&refusal)).await;
        self.hurry();
    }

    async fn keep_refusal(&mut self, refusal: Option<&agentd_protocol::control::report::Refusal>) {
        if let Err(error) = self.store.keep_refusal(refusal).await {
            tracing::warn!(error = chain(&error), "what was refused is told again at the next start");
        }
    }

    fn tell(&self, change: impl FnOnce(&mut ControlStatus)) {
        self.status.send_modify(|told| {
            if let Some(told) = told {
                change(told);
            }
        });
    }
}

async fn pending_or<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
