//! The one who changes the rules while a manager runs: takes orders, follows the document, watches the kernel.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::api::{Awaiting, Drops, Origin, What};
use agentd_protocol::security::{Exposure, Mode};
use agentd_sys::causes::chain;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::beside::Beside;
use super::checks::{Answers, Targets};
use super::files::{Active, Moment, OpenedSsh, Pending};
use super::foreign::{Enforcement, Severity};
use super::handle::{Handle, ORDERS_MAX, Order};
use super::inspect::{self, Dropped, Found};
use super::repair::{Repairs, Verdict, judge};
use super::scales::Scales;
use super::surroundings::Surroundings;
use super::transaction::{self, Transactions};
use super::truth::Truth;
use super::watch::Changes;
use super::wishes::{Decision, Document, OwnerRules};
use super::{Policy, Revision, Ruleset, foreign, nft, ufw};
use crate::lifecycle::{self, Pulse};

/// Second belt beside the kernel's word, and how fresh counters and guests' interfaces are.
const LOOK: Duration = Duration::from_secs(10);
/// A change with as many allows of UFW as there may be. One that takes longer stands still.
const CHANGE_MAX: Duration = Duration::from_secs(300);
/// Several changes of one tool are one.
const SETTLE: Duration = Duration::from_millis(100);
/// A trial that runs out is noticed this much after the kernel's own timer.
const DEADLINE_SLACK: Duration = Duration::from_millis(100);
/// After a return or a repair that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Who else filters here changes when somebody installs something; asking takes two programs.
const SURVEY: Duration = Duration::from_secs(300);
/// Of what a mode cannot vouch for, told in the status; the plan has all.
const DOUBTS_MAX: usize = 2;

/// Where events go.
pub type Note = Arc<dyn Fn(What) + Send + Sync>;

pub struct Setup {
    pub transactions: Transactions,
    pub surroundings: Arc<dyn Surroundings>,
    pub owner: OwnerRules,
    /// The proxy as loopback reaches it.
    pub proxy: std::net::SocketAddr,
    pub resolv_conf: std::path::PathBuf,
    /// `None` where the host has joined no control server.
    pub control: Option<Answers>,
    pub note: Note,
    pub cancel: CancellationToken,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("owner", &self.owner).field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

/// A handle to nobody: says everywhere why this agent leaves the firewall alone. `mode` was confirmed when it did not.
pub fn unmanaged(reason: String, mode: Mode) -> Handle {
    let enforcement = "not enforced".to_owned();
    let truth = Truth { unmanaged: Some(reason), mode, enforcement, ..Truth::unknown() };
    let ((orders, _), (questions, _)) = (mpsc::channel(1), mpsc::channel(1));
    Handle {
        orders,
        questions,
        documents: Arc::new(watch::Sender::new(None)),
        truth: Arc::new(watch::Sender::new(truth)),
    }
}

/// Adopts what the files and the kernel say; changes nothing that is right.
pub fn start(setup: Setup) -> Handle {
    let (orders_in, orders) = mpsc::channel(ORDERS_MAX);
    let (questions_in, questions) = mpsc::channel(ORDERS_MAX);
    let handle = Handle {
        orders: orders_in,
        questions: questions_in,
        documents: Arc::new(watch::Sender::new(None)),
        truth: Arc::new(watch::Sender::new(Truth::unknown())),
    };
    let changes = Changes::subscribe()
        .inspect_err(|error| tracing::warn!(%error, "changes of nftables are noticed every 10 s only"))
        .ok();
    let scales = Scales {
        targets: Targets {
            resolv_conf: setup.resolv_conf,
            proxy: setup.proxy,
            outbound: Vec::new(),
            control: setup.control,
        },
        core: setup.transactions,
        surroundings: setup.surroundings,
        owner: setup.owner,
        documents: handle.documents.subscribe(),
    };
    lifecycle::spawn_essential("firewall questions", setup.cancel.clone(), {
        let (scales, ended) = (scales.clone(), setup.cancel.clone());
        async move {
            // Cancelled: whoever asked is told that the agent ends.
            let _ = ended.run_until_cancelled(scales.answer(questions)).await;
        }
    });
    let task = Task {
        scales,
        changes,
        pulse: lifecycle::pulse("firewall"),
        is_surveying: false,
        beside: None,
        note: setup.note,
        truth: Arc::clone(&handle.truth),
        documents: handle.documents.subscribe(),
        state: State::Settled,
        expected: None,
        repairs: Repairs::default(),
        considered: None,
        enforcement: None,
        next_look: Instant::now(),
    };
    let (cancel, ended) = (setup.cancel.clone(), setup.cancel);
    lifecycle::spawn_essential("firewall", cancel, async move {
        // Cancelled: the manager ends, the rules stay.
        let _ = ended.run_until_cancelled(task.run(orders)).await;
    });
    handle
}

#[derive(Debug)]
pub(super) enum State {
    /// The kernel is to have what was confirmed.
    Settled,
    Trial(Box<Pending>),
    AwaitingConsent(Awaiting),
}

pub(super) struct Task {
    pub(super) scales: Scales,
    changes: Option<Changes>,
    pulse: Pulse,
    /// Who else filters is being asked: a look in between does not ask again.
    pub(super) is_surveying: bool,
    pub(super) beside: Option<Beside>,
    pub(super) note: Note,
    pub(super) truth: Arc<watch::Sender<Truth>>,
    pub(super) documents: watch::Receiver<Option<Document>>,
    pub(super) state: State,
    /// What this process last brought in, or found in order.
    pub(super) expected: Option<Revision>,
    repairs: Repairs,
    /// The wish that was dealt with: one that failed is not tried for ever.
    pub(super) considered: Option<Document>,
    /// What keeps the policy that is in force or on trial, when that was looked at, and its verdict.
    enforcement: Option<(Policy, Instant, foreign::Verdict)>,
    next_look: Instant,
}

/// What one look brings home.
struct Seen {
    found: Found,
    dropped: Dropped,
    pending: Option<Pending>,
    active: Option<Active>,
    opened: Option<OpenedSsh>,
    wanted: Ruleset,
    /// UFW has allows of ours that the mode does not need.
    has_allows_left: bool,
    ufw_stamp: Option<ufw::Stamp>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        self.look().await;
        loop {
            self.pulse.beat();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.carry_out(order).await,
                    None => return,
                },
                changed = self.documents.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = disturbed(self.changes.as_ref(), self.next_look) => self.look().await,
            }
            // A trial that is over, or that a person ended, was in its way.
            self.follow_document().await;
        }
    }

    /// Waits for `work` and keeps the rules meanwhile: what takes long is no time in which somebody may remove them.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            self.pulse.beat();
            tokio::select! {
                done = &mut work => return done,
                // A look may itself wait for something meanwhile, once.
                () = disturbed(self.changes.as_ref(), self.next_look) => Box::pin(self.look()).await,
            }
        }
    }

    /// Runs a change of the rules, whose lock nobody else gets meanwhile.
    pub(super) async fn blocking<T: Send + 'static>(&self, act: impl FnOnce(&Transactions) -> T + Send + 'static) -> T {
        let (start, mut work) = (Instant::now(), std::pin::pin!(self.scales.blocking(act)));
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.pulse.due(), if start.elapsed() < CHANGE_MAX => self.pulse.beat(),
            }
        }
    }

    /// Compares the kernel with what was confirmed, and puts right what is not.
    pub(super) async fn look(&mut self) {
        self.next_look = Instant::now() + LOOK;
        let mut seen = self.blocking(see).await;
        if let Ok(found) = &seen
            && !self.is_surveying
            && !matches!(self.verdict(found, &Moment::now()), Verdict::Repair(_) | Verdict::RevertTrial(_))
            && self.look_around(found).await
        {
            seen = self.blocking(see).await;
        }
        match seen {
            Ok(seen) => self.judge(seen).await,
            Err(error) => {
                if let Ok(true) = self.blocking(Transactions::end_illegible_trial).await {
                    self.settle("a trial whose record could not be read was ended".to_owned());
                    self.next_look = Instant::now();
                    return;
                }
                let cause = chain(&error);
                tracing::warn!(cause, "the firewall cannot be looked at");
                self.truth.send_if_modified(|truth| {
                    let altered = Some(cause);
                    let changed = truth.altered != altered;
                    truth.altered = altered;
                    changed
                });
            }
        }
    }

    async fn judge(&mut self, seen: Seen) {
        let now = Moment::now();
        self.adopt(&seen, &now);
        let verdict = self.verdict(&seen, &now);
        let held_back = match &verdict {
            Verdict::Repair(_) => self.repairs.may(Instant::now()).err(),
            Verdict::Right | Verdict::OnTrial | Verdict::Refresh | Verdict::Foreign(_) | Verdict::RevertTrial(_) => {
                None
            }
        };
        let altered = match (&verdict, held_back) {
            (Verdict::Right | Verdict::OnTrial | Verdict::Refresh, _) => None,
            (Verdict::Repair(cause), Some(_)) => Some(format!("{cause}; held back: somebody keeps changing our rules")),
            (Verdict::Repair(cause) | Verdict::Foreign(cause) | Verdict::RevertTrial(cause), _) => Some(cause.clone()),
        };
        self.publish(&seen, altered);
        match verdict {
            Verdict::Right => {
                self.expected = Some(seen.wanted.revision);
                if seen.has_allows_left
                    && let Err(error) = self.blocking(Transactions::settle_allows).await
                {
                    tracing::warn!(error = chain(&error), "ufw still has allows of ours");
                }
            }
            Verdict::OnTrial => {}
            Verdict::Foreign(_) => {}
            Verdict::Refresh => self.reapply(None).await,
            Verdict::Repair(cause) => match held_back {
                None => self.reapply(Some(cause)).await,
                Some(wait) => self.next_look = Instant::now() + wait,
            },
            Verdict::RevertTrial(cause) => {
                self.reconsider(seen.pending.as_ref());
                if let Err(error) = self.revert(cause).await {
                    // The watchdog may have been there first: the next look tells.
                    self.next_look = Instant::now() + RETRY;
                    tracing::error!(
                        error = chain(&error),
                        "a trial that is over cannot be reverted; the kernel's timer has"
                    );
                }
            }
        }
    }

    fn verdict(&self, seen: &Seen, now: &Moment) -> Verdict {
        let (pending, active, expected) = (seen.pending.as_ref(), seen.active.as_ref(), self.expected.as_ref());
        judge(&seen.found, pending, active, &seen.wanted.revision, expected, now)
    }

    /// A trial may have begun, or ended, without this process.
    fn adopt(&mut self, seen: &Seen, now: &Moment) {
        match (&self.state, &seen.pending) {
            (State::Trial(ours), None) => {
                let by = ours.by;
                let confirmed = seen.active.as_ref().is_some_and(|active| active.tx == ours.tx);
                if !confirmed {
                    let cause = "nobody confirmed it in time".to_owned();
                    (self.note)(What::SecurityReverted { from: ours.from.mode, to: ours.to.mode, cause });
                    self.say(format!("{} was not confirmed in time; {} is back", ours.to.mode, ours.from.mode));
                }
                self.state = State::Settled;
                if by == Origin::Local {
                    self.considered = None;
                }
            }
            (State::Settled | State::AwaitingConsent(_) | State::Trial(_), Some(pending)) => {
                self.state = State::Trial(Box::new(pending.clone()));
            }
            (State::Settled | State::AwaitingConsent(_), None) => {}
        }
        if let State::Trial(pending) = &self.state {
            let left = Duration::from_millis(pending.left_ms(now)) + DEADLINE_SLACK;
            self.next_look = self.next_look.min(Instant::now() + left);
        }
    }

    async fn reapply(&mut self, repair: Option<String>) {
        let start = Instant::now();
        let outcome = self.blocking(Transactions::reapply).await;
        let after_ms = u64::try_from((start.elapsed() + SETTLE).as_millis()).unwrap_or(u64::MAX);
        match (outcome, repair) {
            (Ok(rules), repair) => {
                self.expected = Some(rules.revision);
                if let Some(cause) = repair {
                    self.repaired(cause, after_ms);
                }
                self.truth.send_modify(|truth| truth.altered = None);
                self.publish_again().await;
            }
            // They were back, and somebody changed them before they could be read.
            (Err(transaction::Error::Apply(nft::Error::NotAsWritten)), Some(cause)) => {
                self.repaired(cause, after_ms);
                self.next_look = Instant::now();
            }
            (Err(error), cause) => {
                let cause = format!("{}{}", cause.map(|cause| format!("{cause}; ")).unwrap_or_default(), chain(&error));
                self.next_look = Instant::now() + RETRY;
                tracing::error!(cause, "the rules cannot be put back");
                (self.note)(What::SecurityUnrepaired { cause });
            }
        }
    }

    /// Counts what the kernel took, whatever somebody did to it then.
    fn repaired(&self, cause: String, after_ms: u64) {
        (self.note)(What::SecurityRepaired { cause, after_ms });
        self.truth.send_modify(|truth| truth.repairs += 1);
    }

    pub(super) async fn publish_again(&mut self) {
        match self.blocking(see).await {
            Ok(seen) => self.publish(&seen, None),
            Err(error) => tracing::warn!(error = chain(&error), "the firewall cannot be looked at"),
        }
    }

    fn publish(&self, seen: &Seen, altered: Option<String>) {
        let before = seen.pending.as_ref().map(|pending| &pending.from);
        let policy = seen.active.as_ref().map(|active| &active.policy).or(before);
        let mode = policy.map_or(Mode::Open, |policy| policy.mode);
        let of_this = |(of, ..): &&(Policy, Instant, foreign::Verdict)| *of == seen.policy();
        let verdict = self.enforcement.as_ref().filter(of_this).map(|(.., verdict)| verdict);
        let amiss = self.beside.as_ref().and_then(|beside| beside.amiss(&seen.policy()));
        let exposure = match verdict.map(|verdict| verdict.enforcement) {
            // Whatever else UFW's owner allows is open, too.
            Some(Enforcement::PartialUfw) => Exposure::Unmanaged,
            Some(Enforcement::Nftables | Enforcement::NftablesWithUfwAllows | Enforcement::Nothing) | None => {
                inspect::exposure(&seen.found)
            }
        };
        let drops = Drops { input: seen.dropped.input, forward: seen.dropped.forward };
        let truth = Truth {
            known: true,
            unmanaged: None,
            mode,
            exposure,
            enforcement: enforcement(&seen.found, verdict, amiss.as_deref()),
            ufw: amiss,
            lacking: verdict.map(|verdict| verdict.reason.clone()).filter(|reason| !reason.is_empty()),
            origin: seen.active.as_ref().map(|active| active.origin),
            ssh: policy.map(Policy::ssh_networks).unwrap_or_default(),
            trial: seen.pending.clone(),
            awaiting: match &self.state {
                State::AwaitingConsent(awaiting) => Some(awaiting.clone()),
                State::Settled | State::Trial(_) => None,
            },
            opened: seen.opened.clone(),
            altered,
            drops,
            repairs: 0,
            last: None,
        };
        self.truth.send_if_modified(|old| {
            let truth = Truth { repairs: old.repairs, last: old.last.take(), ..truth };
            let changed = *old != truth;
            *old = truth;
            changed
        });
    }

    pub(super) fn say(&self, last: String) {
        self.truth.send_modify(|truth| truth.last = Some(last));
    }

    pub(super) fn trial(&self) -> Option<&Pending> {
        match &self.state {
            State::Trial(pending) => Some(pending),
            State::Settled | State::AwaitingConsent(_) => None,
        }
    }

    /// After a person's trial the document has its say again; after its own it has had it.
    pub(super) fn reconsider(&mut self, trial: Option<&Pending>) {
        if trial.is_none_or(|pending| pending.by == Origin::Local) {
            self.considered = None;
        }
    }

    /// Once for each wish: what was refused is tried again when the document changes, or a manager starts.
    pub(super) async fn follow_document(&mut self) {
        self.follow_once().await;
        // What spoke against it only once it was tried out is told at once.
        self.follow_once().await;
    }

    async fn follow_once(&mut self) {
        let Some(document) = self.documents.borrow_and_update().clone() else { return };
        if self.trial().is_some() || self.considered.as_ref() == Some(&document) {
            return;
        }
        let (scales, asked) = (self.scales.clone(), document.clone());
        let decided = self.meanwhile(async move { scales.decide(asked).await }).await;
        match decided {
            Ok(decision) => {
                self.considered = Some(document);
                self.decided(decision).await;
            }
            Err(error) => self.say(format!("the document's wish cannot be followed: {}", chain(&error))),
        }
    }

    async fn decided(&mut self, decision: Decision) {
        self.state = State::Settled;
        match decision {
            Decision::Nothing => {}
            Decision::Await(awaiting) => {
                (self.note)(What::SecurityAwaitingConsent { mode: awaiting.mode, cause: awaiting.why.clone() });
                self.state = State::AwaitingConsent(awaiting);
            }
            Decision::Try(wish) => {
                let mode = wish.to.mode;
                if let Err(error) = self.try_by_itself(wish).await {
                    let cause = chain(&error);
                    self.say(format!("the document asks for {mode}: {cause}"));
                    (self.note)(What::SecurityRefused { mode, cause });
                }
            }
        }
        self.look().await;
    }

    /// What programs must be asked for, which may hang. `true`: the rules may have changed meanwhile.
    async fn look_around(&mut self, seen: &Seen) -> bool {
        let (policy, had) = (seen.policy(), self.beside.as_ref().map(|beside| beside.amiss(&seen.policy())));
        let asked = seen.pending.is_none() && self.keep_allows(&policy, seen.ufw_stamp.clone()).await;
        let is_other = had.is_some_and(|had| had != self.beside.as_ref().and_then(|beside| beside.amiss(&policy)));
        let is_due = asked || is_other || self.is_survey_due(&policy);
        if is_due {
            self.survey_enforcement(&policy).await;
        }
        is_due
    }

    /// Anew when another policy is to be kept, and now and then. Programs are asked, which may hang.
    async fn survey_enforcement(&mut self, policy: &Policy) {
        let surroundings = Arc::clone(&self.scales.surroundings);
        self.is_surveying = true;
        let scales = self.scales.clone();
        let asked = async move { scales.blocking(move |core| surroundings.seen(&core.host().guest_interfaces)).await };
        let seen = self.meanwhile(asked).await;
        self.is_surveying = false;
        let verdict = foreign::judge(&seen, policy);
        self.enforcement = Some((policy.clone(), Instant::now(), verdict));
    }

    fn is_survey_due(&self, policy: &Policy) -> bool {
        let is_fresh = |(of, at, _): &(Policy, Instant, _)| of == policy && at.elapsed() < SURVEY;
        !self.enforcement.as_ref().is_some_and(is_fresh)
    }
}

impl Seen {
    /// What is to be kept now.
    fn policy(&self) -> Policy {
        match (&self.pending, &self.active) {
            (Some(pending), _) => pending.to.clone(),
            (None, Some(active)) => active.policy.clone(),
            (None, None) => Policy::open(),
        }
    }
}

/// Until the rules are to be looked at: somebody changed nftables, or it is time.
async fn disturbed(changes: Option<&Changes>, next_look: Instant) {
    tokio::select! {
        told = changed(changes) => {
            if let Err(error) = told {
                tracing::warn!(%error, "the kernel does not tell of changes");
            }
            tokio::time::sleep(SETTLE).await;
        }
        () = tokio::time::sleep_until(next_look) => {}
    }
}

/// For ever where there is nobody to tell.
async fn changed(changes: Option<&Changes>) -> std::io::Result<()> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

fn see(core: &Transactions) -> Result<Seen, transaction::Error> {
    // Nobody is between two strokes of a change while this is held.
    let _lock = core.lock()?;
    core.remember_ssh();
    let (found, dropped) = core.look()?;
    let now = Moment::now();
    let pending = core.files().pending()?;
    Ok(Seen {
        ufw_stamp: core.ufw_stamp(),
        has_allows_left: core.has_allows_left(core.policy()?.mode),
        found,
        dropped,
        active: match core.files().active() {
            // A trial that is confirmed writes it anew.
            Err(error) if error.is_illegible() && pending.is_some() => None,
            active => active?,
        },
        pending,
        opened: core.legible_opened()?,
        wanted: core.wanted(&now)?,
    })
}

fn enforcement(found: &Found, verdict: Option<&foreign::Verdict>, ufw: Option<&str>) -> String {
    let Some(verdict) = verdict else { return "not known yet".to_owned() };
    let by = match (verdict.enforcement, ufw) {
        (Enforcement::NftablesWithUfwAllows, Some(_)) => Enforcement::Nftables,
        (by, _) => by,
    };
    let reason = if verdict.reason.is_empty() { String::new() } else { format!(": {}", verdict.reason) };
    let doubts = verdict.findings.iter().filter(|finding| finding.severity == Severity::CannotVouch);
    let doubts = doubts.take(DOUBTS_MAX).map(|doubt| format!("; cannot vouch: {}", doubt.text));
    let doubts: String = ufw.iter().map(|amiss| format!("; {amiss}")).chain(doubts).collect();
    match (found, by) {
        (Found::Absent, Enforcement::Nothing) => format!("nothing, nor could it be{reason}"),
        (Found::Absent, _) => format!("none: no table of ours is in the kernel{}", reason.replacen(": ", "; ", 1)),
        (Found::Confirmed { .. }, _) => format!("{by}{reason}{doubts}"),
        (Found::Trial { .. }, _) => format!("{by}, on trial{reason}{doubts}"),
        (Found::Altered { .. }, _) => format!("{by}, changed by somebody else{reason}{doubts}"),
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
