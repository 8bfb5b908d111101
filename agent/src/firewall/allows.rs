//! UFW in step with the modes: what a trial and its return need of it, what a mode needs for good, and the mode that it
//! keeps alone where nft is missing or cannot be used. Plain code.

use std::collections::BTreeSet;
use std::path::PathBuf;

use agentd_protocol::security::Mode;
use agentd_sys::causes::chain;

use super::files::Moment;
use super::inspect::{Dropped, Found};
use super::transaction::{Error, Transactions};
use super::ufw::{self, Allow, State, Ufw, Wanted};
use super::{Facts, Policy, Ruleset, Stamp, nft, ruleset};

/// What an active UFW makes of a mode that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Allows {
    /// It drops nothing of what the mode lets in: it is off, or the mode lets nothing in.
    NotNeeded,
    InPlace,
    Missing(BTreeSet<Allow>),
    /// The owner has a rule that says otherwise, or ufw gives no answer.
    Refused(String),
}

impl Transactions {
    pub(super) fn ufw_stamp(&self) -> Option<ufw::Stamp> {
        self.ufw.as_ref().map(Ufw::stamp)
    }

    /// Changes nothing.
    pub(super) fn allows(&self, policy: &Policy) -> Allows {
        let wanted = either(policy, policy, &self.host());
        let (Some(ufw), Some(wanted)) = (&self.ufw, wanted) else { return Allows::NotNeeded };
        match ufw.missing(&wanted) {
            Ok(None) => Allows::NotNeeded,
            Ok(Some(missing)) if missing.is_empty() => Allows::InPlace,
            Ok(Some(missing)) => Allows::Missing(missing),
            Err(error) => Allows::Refused(chain(&error)),
        }
    }

    /// Gives UFW once more what the confirmed mode needs, and no more; a trial has seen to it itself.
    pub(super) fn settle_allows(&self) -> Result<(), Error> {
        let _lock = self.lock()?;
        let (Some(ufw), None) = (&self.ufw, self.files.pending()?) else { return Ok(()) };
        let policy = self.policy()?;
        match either(&policy, &policy, &self.host()) {
            Some(wanted) => ufw.ensure(&wanted, &self.journal_path()).map(drop).map_err(Error::Ufw),
            None => ufw.undo(&self.journal_path()).map(drop).map_err(Error::Ufw),
        }
    }

    fn journal_path(&self) -> PathBuf {
        self.files.journal_path()
    }

    /// Allows of ours that no confirmed mode needs: taking them back failed.
    pub fn has_allows_left(&self, mode: Mode) -> bool {
        self.ufw.is_some() && mode != Mode::DaemonPort && self.journal_path().exists()
    }

    /// Refused by the owner's own rules before anything is changed.
    pub(super) fn check_ufw(&self, from: &Policy, to: &Policy, facts: &Facts) -> Result<(), Error> {
        match (&self.ufw, either(from, to, facts)) {
            (Some(ufw), Some(wanted)) => ufw.check(&wanted).map_err(Error::Ufw),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// For both modes of a trial: the kernel's timer returns to the old one without telling UFW.
    pub(super) fn widen_ufw(&self, from: &Policy, to: &Policy, facts: &Facts) -> Result<(), Error> {
        match (&self.ufw, either(from, to, facts)) {
            (Some(ufw), Some(wanted)) => ufw.ensure(&wanted, &self.journal_path()).map(drop).map_err(Error::Ufw),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// What `policy` needs and no more. A failure only leaves UFW more open than our table is: the next look tries again.
    pub(super) fn settle_ufw(&self, policy: &Policy, facts: &Facts) {
        let Some(ufw) = &self.ufw else { return };
        let settled = match either(policy, policy, facts) {
            Some(wanted) => ufw.ensure(&wanted, &self.journal_path()).map(drop),
            None => ufw.undo(&self.journal_path()).map(drop),
        };
        if let Err(error) = settled {
            tracing::warn!(error = chain(&error), "ufw's rules are not as the mode needs them");
        }
    }

    pub(super) fn check_rules(&self, rules: &Ruleset, policy: &Policy) -> Result<(), nft::Error> {
        match self.kernel.check(rules) {
            Err(error) if error.is_unusable() && self.is_kept_without_nft(policy) => Ok(()),
            answer => answer,
        }
    }

    pub(super) fn bring_in(&self, rules: &Ruleset, policy: &Policy) -> Result<(), nft::Error> {
        match self.kernel.apply(rules) {
            Err(error) if error.is_unusable() && self.is_kept_without_nft(policy) => Ok(()),
            answer => answer,
        }
    }

    /// Where nobody can have made a table of ours: `open`, and `daemon-port` by UFW alone, which is partial.
    pub(super) fn is_kept_without_nft(&self, policy: &Policy) -> bool {
        let is_active = |ufw: &Ufw| matches!(ufw.state(), Ok(State::Active));
        match policy.mode {
            Mode::Open => true,
            Mode::DaemonPort => self.ufw.as_ref().is_some_and(is_active),
            Mode::Tunnel => false,
        }
    }

    /// What the kernel has; where nft cannot be used, what UFW keeps in its place.
    pub fn look(&self) -> Result<(Found, Dropped), Error> {
        let unusable = match self.kernel.look() {
            Err(error) if error.is_unusable() => error,
            other => return other.map_err(Error::Table),
        };
        let now = Moment::now();
        let (policy, facts) = (self.policy()?, self.facts(&now)?);
        let stamp =
            |policy: &Policy| Stamp { mode: policy.mode, revision: ruleset::confirmed(policy, &facts).revision };
        let found = match self.files.pending()? {
            Some(pending) => Found::Trial {
                from: stamp(&pending.from),
                to: stamp(&pending.to),
                left: std::time::Duration::from_millis(pending.left_ms(&now)),
            },
            None if policy.mode == Mode::Open => Found::Absent,
            None if self.is_kept_without_nft(&policy) => {
                let Stamp { mode, revision } = stamp(&policy);
                Found::Confirmed { mode, revision }
            }
            None => return Err(Error::Table(unusable)),
        };
        Ok((found, Dropped::default()))
    }
}

fn either(one: &Policy, other: &Policy, facts: &Facts) -> Option<Wanted> {
    let wanted = Wanted::by(one, facts).and(Wanted::by(other, facts));
    (wanted != Wanted::default() && [one, other].iter().any(|policy| policy.mode == Mode::DaemonPort)).then_some(wanted)
}
