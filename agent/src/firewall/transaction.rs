//! A change of the rules that undoes itself unless somebody confirms it, whoever dies when.
//!
//! begin:   check, `pending.json`, watchdog, allows in UFW, trial rules. The kernel's own timer runs from then on.
//! confirm: the plain rules, `active.json` (from here on it counts as confirmed), then the end.
//! revert:  the rules of before, then the end.
//! end:     UFW as the mode needs it, no `pending.json`, no watchdog.
//!
//! Each can be cut short at any point and be called again. Plain code: boot and the watchdog run it, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentd_protocol::api::Origin;
use agentd_protocol::security::{Mode, Security};
use agentd_sys::causes::chain;
use agentd_sys::files::Lock;
use serde_json::Value;

use super::files::{self, Active, Files, Moment, OpenedSsh, Pending};
use super::kernel::Kernel;
use super::ufw::{self, Ufw};
use super::watchdog::{self, Watchdog};
use super::{BreakGlass, Facts, Policy, Ruleset, nft, ruleset};

/// Longest wait for another process that changes the rules: one run of nft takes far less.
const LOCK_LIMIT: Duration = Duration::from_secs(15);
const LOCK_POLL: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Files(#[from] files::Error),
    #[error("the kernel does not take these rules; nothing was changed")]
    Check(#[source] nft::Error),
    #[error("the rules cannot be brought into the kernel; see `agentctl security status`")]
    Apply(#[source] nft::Error),
    #[error("our table cannot be read from the kernel")]
    Table(#[source] nft::Error),
    #[error("nothing was changed: the watchdog that would undo it cannot be started")]
    Watchdog(#[source] watchdog::Error),
    #[error(
        "a trial runs already, with {left_s} s left: `agentctl security confirm` or `agentctl security revert` first"
    )]
    TrialRuns { left_s: u64 },
    #[error("no trial runs, it may have ended by itself; `agentctl security status` says how")]
    NoTrial,
    #[error("the trial is over and the rules of before are back; `agentctl security apply` starts another")]
    TooLate,
    #[error("nothing is shut in `open`: SSH is as reachable as it ever was")]
    NothingShut,
    #[error("nothing was changed: an active UFW would drop what the mode lets in, and cannot be told not to")]
    Ufw(#[source] ufw::Error),
    #[error("the rules cannot be written down")]
    Json(#[source] serde_json::Error),
}

/// Where a test lets the process die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    PendingWritten,
    WatchdogArmed,
    UfwAllowed,
    TrialApplied,
    ConfirmedApplied,
    ActiveWritten,
    UfwSettled,
    PendingRemoved,
    RevertApplied,
}

/// What became of a trial that was to be reverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reverted {
    /// There was none of that name.
    Nothing,
    /// It had been confirmed but for the last strokes, which are done now.
    WasConfirmed,
    Done,
}

/// What somebody wants in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub to: Policy,
    pub by: Origin,
    /// The document's section when this was wished.
    pub document: Option<Security>,
}

#[derive(Debug, Clone)]
pub struct Transactions {
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) watchdog: Arc<dyn Watchdog>,
    pub(super) files: Files,
    /// `None`: an agent that has no say in UFW.
    pub(super) ufw: Option<Ufw>,
    /// Does nothing but in tests.
    reached: fn(Point),
}

impl Transactions {
    pub fn new(kernel: Arc<dyn Kernel>, watchdog: Arc<dyn Watchdog>, files: Files) -> Self {
        Self { kernel, watchdog, files, ufw: None, reached: |_| {} }
    }

    pub fn with_ufw(self, ufw: Option<Ufw>) -> Self {
        Self { ufw, ..self }
    }

    pub fn files(&self) -> &Files {
        &self.files
    }

    pub fn kernel(&self) -> &dyn Kernel {
        &*self.kernel
    }

    /// Waits for whoever changes the rules now.
    pub fn lock(&self) -> Result<Lock, Error> {
        let start = Instant::now();
        loop {
            match self.files.lock() {
                Err(files::Error::Busy { .. }) if start.elapsed() < LOCK_LIMIT => std::thread::sleep(LOCK_POLL),
                other => return Ok(other?),
            }
        }
    }

    /// What was last confirmed; before that, nothing is shut. Of what cannot be read, what boot would make of it.
    pub fn policy(&self) -> Result<Policy, Error> {
        match self.files.active() {
            Err(error) if error.is_illegible() => Ok(Policy::shut_but_ssh()),
            active => Ok(active?.map_or_else(Policy::open, |active| active.policy)),
        }
    }

    /// For whoever is about to write it anew: one that cannot be read is none.
    fn legible_active(&self) -> Result<Option<Active>, Error> {
        match self.files.active() {
            Err(error) if error.is_illegible() => Ok(None),
            active => Ok(active?),
        }
    }

    /// Whether what was confirmed is known; otherwise no order is "in force already".
    pub fn is_known(&self) -> bool {
        self.files.active().is_ok()
    }

    /// What the kernel lets in now, if nobody meddled: on trial or confirmed.
    pub fn policy_in_force(&self) -> Result<Policy, Error> {
        match self.files.pending()?.filter(|pending| pending.left_ms(&Moment::now()) > 0) {
            Some(pending) => Ok(pending.to),
            None => self.policy(),
        }
    }

    /// What the host is like, SSH that was let in for a while included.
    pub fn facts(&self, now: &Moment) -> Result<Facts, Error> {
        let mut facts = self.host();
        facts.break_glass = self.legible_opened()?.and_then(|opened| {
            let left = Duration::from_millis(opened.left_ms(now));
            (!left.is_zero()).then_some(BreakGlass { ssh: opened.networks, left })
        });
        Ok(facts)
    }

    /// Writes down where SSH is, for when it is not: a look then must not shut it out, nor a boot.
    pub(super) fn remember_ssh(&self) {
        let found = self.kernel.facts().ssh_ports;
        if !found.is_empty()
            && found != self.files.ssh_ports()
            && let Err(error) = self.files.write_ssh_ports(&found)
        {
            // No reason to leave the rules as somebody made them.
            tracing::warn!(error = chain(&error), "where SSH listens cannot be written down");
        }
    }

    /// What the host is like, and where SSH was if nobody listens for it now.
    pub(super) fn host(&self) -> Facts {
        self.kernel.facts().with_ssh_known(&self.files.ssh_ports())
    }

    /// The rules that should be in the kernel while no trial runs.
    pub fn wanted(&self, now: &Moment) -> Result<Ruleset, Error> {
        Ok(ruleset::confirmed(&self.policy()?, &self.facts(now)?))
    }

    /// Whether the kernel and UFW would take it; changes nothing.
    pub fn check(&self, to: &Policy, window: Duration) -> Result<(), Error> {
        let (from, facts) = (self.policy()?, self.facts(&Moment::now())?);
        self.check_rules(&ruleset::trial(&from, to, &facts, window), to).map_err(Error::Check)?;
        self.check_ufw(&from, to, &facts)
    }

    pub fn begin(&self, wish: &Wish, consent: Option<String>, window: Duration) -> Result<Pending, Error> {
        let _lock = self.lock()?;
        let now = Moment::now();
        self.clear_way(&now)?;
        self.remember_ssh();
        let (from, facts) = (self.policy()?, self.facts(&now)?);
        let trial = ruleset::trial(&from, &wish.to, &facts, window);
        self.check_rules(&trial, &wish.to).map_err(Error::Check)?;
        self.check_ufw(&from, &wish.to, &facts)?;
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let pending = Pending {
            tx: new_tx(),
            from,
            to: wish.to.clone(),
            by: wish.by,
            document: wish.document.clone(),
            boot_id: now.boot_id.clone(),
            deadline_boot_ms: now.boot_ms.saturating_add(window_ms),
            deadline_unix_ms: now.unix_ms.saturating_add(window_ms),
            window_ms,
            consent,
            sessions: facts.survivors.iter().copied().collect(),
        };
        self.files.write_pending(&pending)?;
        (self.reached)(Point::PendingWritten);
        if let Err(error) = self.watchdog.arm(&pending.tx, self.files.state_dir()) {
            self.files.remove_pending()?;
            return Err(Error::Watchdog(error));
        }
        (self.reached)(Point::WatchdogArmed);
        let widened = self.widen_ufw(&pending.from, &pending.to, &facts);
        (self.reached)(Point::UfwAllowed);
        if let Err(error) = widened {
            self.end(&pending.from, &facts)?;
            return Err(error);
        }
        if let Err(error) = self.bring_in(&trial, &pending.to) {
            // The kernel may have taken them all the same, as when they could not be read back.
            if let Err(also) = self.revert_locked(&pending) {
                tracing::error!(error = chain(&also), "the rules of before are back at the trial's deadline");
            }
            return Err(Error::Apply(error));
        }
        (self.reached)(Point::TrialApplied);
        Ok(pending)
    }

    /// A trial that is over, or cannot be read, is in nobody's way.
    fn clear_way(&self, now: &Moment) -> Result<(), Error> {
        match self.files.pending() {
            Ok(None) => Ok(()),
            Ok(Some(pending)) => match pending.left_ms(now) {
                0 => self.revert_locked(&pending).map(drop),
                left_ms => Err(Error::TrialRuns { left_s: left_ms / 1_000 }),
            },
            Err(error) if error.is_illegible() => self.revert_illegible(&error).map(drop),
            Err(error) => Err(error.into()),
        }
    }

    /// Good for as long as the trial runs; once it is confirmed, calling again changes nothing.
    pub fn confirm(&self, tx: &str) -> Result<Active, Error> {
        let _lock = self.lock()?;
        let now = Moment::now();
        let active = self.legible_active()?;
        let pending = match (self.files.pending()?, active) {
            (None, Some(active)) if active.tx == tx => return Ok(active),
            (Some(pending), Some(active)) if pending.tx == tx && active.tx == tx => {
                self.end(&active.policy, &self.facts(&now)?)?;
                return Ok(active);
            }
            (Some(pending), _) if pending.tx == tx => pending,
            (Some(_) | None, _) => return Err(Error::NoTrial),
        };
        if pending.left_ms(&now) == 0 {
            self.revert_locked(&pending)?;
            return Err(Error::TooLate);
        }
        let facts = self.facts(&now)?;
        self.bring_in(&ruleset::confirmed(&pending.to, &facts), &pending.to).map_err(Error::Apply)?;
        (self.reached)(Point::ConfirmedApplied);
        let active = active_of(pending.to, pending.by, pending.tx, pending.document, facts.clone())?;
        self.files.write_active(&active)?;
        (self.reached)(Point::ActiveWritten);
        self.end(&active.policy, &facts)?;
        Ok(active)
    }

    /// `None`: whichever trial there is. One that cannot be read is over, whatever it was called.
    pub fn revert(&self, tx: Option<&str>) -> Result<Reverted, Error> {
        let _lock = self.lock()?;
        match self.files.pending() {
            Ok(Some(pending)) if tx.is_none_or(|tx| tx == pending.tx) => self.revert_locked(&pending),
            Ok(Some(_) | None) => Ok(Reverted::Nothing),
            Err(error) if error.is_illegible() => self.revert_illegible(&error),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there was a trial that nobody can read, which is over now.
    pub fn end_illegible_trial(&self) -> Result<bool, Error> {
        match self.files.pending() {
            Err(error) if error.is_illegible() => self.revert(None).map(|_| true),
            Ok(_) | Err(_) => Ok(false),
        }
    }

    /// A trial starts from what was confirmed, and its confirmation writes that first: so that is what to return to.
    fn revert_illegible(&self, why: &files::Error) -> Result<Reverted, Error> {
        tracing::warn!(error = chain(why), "a trial that cannot be read is over");
        self.bring_back(&self.policy()?, self.legible_active()?)?;
        Ok(Reverted::Done)
    }

    fn revert_locked(&self, pending: &Pending) -> Result<Reverted, Error> {
        let active = self.legible_active()?;
        let was_confirmed = active.as_ref().is_some_and(|active| active.tx == pending.tx);
        let back = if was_confirmed { &pending.to } else { &pending.from };
        self.bring_back(back, active)?;
        Ok(if was_confirmed { Reverted::WasConfirmed } else { Reverted::Done })
    }

    fn bring_back(&self, back: &Policy, active: Option<Active>) -> Result<(), Error> {
        let facts = self.facts(&Moment::now())?;
        let rules = ruleset::confirmed(back, &facts);
        if let Err(error) = self.bring_in(&rules, back) {
            // The rules as they were when they were confirmed: what the host is like now may be what nft chokes on.
            let stored = active.filter(|active| active.policy == *back).and_then(|active| stored(&active));
            let stored = stored.ok_or(Error::Apply(error))?;
            self.kernel.apply(&stored).map_err(Error::Apply)?;
        }
        (self.reached)(Point::RevertApplied);
        self.end(back, &facts)
    }

    fn end(&self, policy: &Policy, facts: &Facts) -> Result<(), Error> {
        self.settle_ufw(policy, facts);
        (self.reached)(Point::UfwSettled);
        self.files.remove_pending()?;
        (self.reached)(Point::PendingRemoved);
        Ok(())
    }

    /// The confirmed rules once more, as this host needs them now; what boot loads follows when they are others.
    pub fn reapply(&self) -> Result<Ruleset, Error> {
        let _lock = self.lock()?;
        self.reapply_locked()
    }

    fn reapply_locked(&self) -> Result<Ruleset, Error> {
        if let Some(pending) = self.files.pending()? {
            return Err(Error::TrialRuns { left_s: pending.left_ms(&Moment::now()) / 1_000 });
        }
        self.remember_ssh();
        let facts = self.facts(&Moment::now())?;
        let Some(active) = self.files.active()? else { return Err(Error::NoTrial) };
        let rules = ruleset::confirmed(&active.policy, &facts);
        self.bring_in(&rules, &active.policy).map_err(Error::Apply)?;
        self.settle_ufw(&active.policy, &facts);
        let fresh = active_of(active.policy.clone(), active.origin, active.tx.clone(), active.document.clone(), facts)?;
        if fresh != active {
            self.files.write_active(&fresh)?;
        }
        Ok(rules)
    }

    /// SSH for a while; the kernel ends it. What was refused is not recorded: a later change of rules must not open it.
    pub fn open_ssh(&self, networks: Vec<ipnet::IpNet>, time: Duration) -> Result<(), Error> {
        let _lock = self.lock()?;
        let now = Moment::now();
        self.clear_way(&now)?;
        if self.policy()?.mode == Mode::Open {
            return Err(Error::NothingShut);
        }
        let before = self.legible_opened()?;
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let until_boot_ms = now.boot_ms.saturating_add(ms);
        self.files.write_opened(&OpenedSsh { networks, boot_id: now.boot_id, until_boot_ms })?;
        self.reapply_locked().map(drop).inspect_err(|_| self.record_opened(before.as_ref()))
    }

    fn record_opened(&self, opened: Option<&OpenedSsh>) {
        let recorded = match opened {
            Some(opened) => self.files.write_opened(opened),
            None => self.files.remove_opened(),
        };
        if let Err(error) = recorded {
            tracing::error!(error = chain(&error), "SSH that was not let in is recorded as if it were, until it ends");
        }
    }

    /// One that cannot be read lets nobody in.
    pub(super) fn legible_opened(&self) -> Result<Option<OpenedSsh>, Error> {
        match self.files.opened() {
            Err(error) if error.is_illegible() => Ok(None),
            opened => Ok(opened?),
        }
    }
}

/// What is loaded at boot: neither old connections nor timers.
fn active_of(
    policy: Policy,
    origin: Origin,
    tx: String,
    document: Option<Security>,
    facts: Facts,
) -> Result<Active, Error> {
    let lasting = Facts { survivors: Default::default(), break_glass: None, ..facts };
    let rules = ruleset::confirmed(&policy, &lasting);
    let nft = match policy.mode {
        Mode::Open => Value::Null,
        Mode::DaemonPort | Mode::Tunnel => serde_json::to_value(&rules.nft).map_err(Error::Json)?,
    };
    Ok(Active { policy, origin, tx, document, revision: rules.revision.0, nft })
}

/// The rules as they were written down; `None` where this version cannot make sense of them.
pub fn stored(active: &Active) -> Option<Ruleset> {
    let nft = serde_json::from_value(active.nft.clone()).ok()?;
    Some(Ruleset { nft, revision: super::Revision(active.revision.clone()) })
}

/// Names a trial; only ever compared with others of this host.
fn new_tx() -> String {
    format!("{:012x}", fastrand::u64(..) & 0xffff_ffff_ffff)
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
