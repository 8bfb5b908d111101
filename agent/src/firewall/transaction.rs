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

    /// What was last confirmed; before that, nothing is shut.
    pub fn policy(&self) -> Result<Policy, Error> {
        Ok(self.files.active()?.map_or_else(Policy::open, |active| active.policy))
    }

    /// What the host is like, SSH that was let in for a while included.
    pub fn facts(&self, now: &Moment) -> Result<Facts, Error> {
        let mut facts = self.host();
        facts.break_glass = self.files.opened()?.and_then(|opened| {
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
        if let Some(pending) = self.files.pending()? {
            match pending.left_ms(&now) {
                0 => drop(self.revert_locked(&pending)?),
                left_ms => return Err(Error::TrialRuns { left_s: left_ms / 1_000 }),
            }
        }
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
        if let Err(error) = self.watchdog.arm(&pending.tx, window, self.files.state_dir()) {
            self.files.remove_pending()?;
            return Err(Error::Watchdog(error));
        }
        (self.reached)(Point::WatchdogArmed);
        let widened = self.widen_ufw(&pending.from, &pending.to, &facts);
        (self.reached)(Point::UfwAllowed);
        if let Err(error) = widened {
            self.end(&pending.tx, &pending.from, &facts)?;
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

    /// Good for as long as the trial runs; once it is confirmed, calling again changes nothing.
    pub fn confirm(&self, tx: &str) -> Result<Active, Error> {
        let _lock = self.lock()?;
        let now = Moment::now();
        let active = self.files.active()?;
        let pending = match (self.files.pending()?, active) {
            (None, Some(active)) if active.tx == tx => return Ok(active),
            (Some(pending), Some(active)) if pending.tx == tx && active.tx == tx => {
                self.end(&pending.tx, &active.policy, &self.facts(&now)?)?;
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
        self.end(&active.tx, &active.policy, &facts)?;
        Ok(active)
    }

    /// `None`: whichever trial there is.
    pub fn revert(&self, tx: Option<&str>) -> Result<Reverted, Error> {
        let _lock = self.lock()?;
        match self.files.pending()? {
            Some(pending) if tx.is_none_or(|tx| tx == pending.tx) => self.revert_locked(&pending),
            Some(_) | None => Ok(Reverted::Nothing),
        }
    }

    fn revert_locked(&self, pending: &Pending) -> Result<Reverted, Error> {
        let active = self.files.active()?;
        let now = Moment::now();
        let was_confirmed = active.as_ref().is_some_and(|active| active.tx == pending.tx);
        let back = if was_confirmed { &pending.to } else { &pending.from };
        let facts = self.facts(&now)?;
        let rules = ruleset::confirmed(back, &facts);
        if let Err(error) = self.bring_in(&rules, back) {
            // The rules as they were when they were confirmed: what the host is like now may be what nft chokes on.
            let stored = active.filter(|active| active.policy == *back).and_then(|active| stored(&active));
            let stored = stored.ok_or(Error::Apply(error))?;
            self.kernel.apply(&stored).map_err(Error::Apply)?;
        }
        (self.reached)(Point::RevertApplied);
        self.end(&pending.tx, back, &facts)?;
        Ok(if was_confirmed { Reverted::WasConfirmed } else { Reverted::Done })
    }

    fn end(&self, tx: &str, policy: &Policy, facts: &Facts) -> Result<(), Error> {
        self.settle_ufw(policy, facts);
        (self.reached)(Point::UfwSettled);
        self.files.remove_pending()?;
        (self.reached)(Point::PendingRemoved);
        self.watchdog.disarm(tx);
        Ok(())
    }

    /// The confirmed rules once more, as this host needs them now; what boot loads follows when they are others.
    pub fn reapply(&self) -> Result<Ruleset, Error> {
        let _lock = self.lock()?;
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

    /// SSH for a while; the kernel ends it.
    pub fn open_ssh(&self, networks: Vec<ipnet::IpNet>, time: Duration) -> Result<(), Error> {
        {
            let _lock = self.lock()?;
            let now = Moment::now();
            if self.policy()?.mode == Mode::Open {
                return Err(Error::NothingShut);
            }
            let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let until_boot_ms = now.boot_ms.saturating_add(ms);
            self.files.write_opened(&OpenedSsh { networks, boot_id: now.boot_id, until_boot_ms })?;
        }
        self.reapply().map(drop)
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
