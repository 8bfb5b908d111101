//! What boot does before any interface is up: the confirmed rules into the kernel. Plain code: no database, no network,
//! no tokio, no thread.

use agentd_protocol::security::Mode;

use super::files::{Active, Moment};
use super::transaction::{Error, Reverted, Transactions, stored};
use super::{Facts, Policy, Ruleset, ruleset};

/// What the kernel has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// Nothing was ever confirmed, or `open` was.
    Nothing,
    /// To the letter as confirmed.
    Confirmed(Mode),
    /// The same mode, but for what names this host's interfaces and connections.
    Minimal(Mode),
    /// What was confirmed cannot be read: everything is shut but SSH, whose own doors hold.
    ShutButSsh,
}

/// A trial that the last boot did not finish is forgotten first (C3).
pub fn load(transactions: &Transactions) -> Result<Loaded, Error> {
    match transactions.revert(None) {
        Ok(Reverted::Nothing | Reverted::WasConfirmed | Reverted::Done) => {}
        // Its rules are in no kernel that has just booted; what was confirmed counts.
        Err(Error::Files(_) | Error::Apply(_)) => transactions.files().remove_pending()?,
        Err(other) => return Err(other),
    }
    let _lock = transactions.lock()?;
    let now = Moment::now();
    // SSH let in for a while ends with the boot it was let in, and not with a load in between.
    if transactions.legible_opened()?.is_none_or(|opened| opened.left_ms(&now) == 0) {
        transactions.files().remove_opened()?;
    }
    let active = match transactions.files().active() {
        Ok(None) => return Ok(Loaded::Nothing),
        Ok(Some(active)) => active,
        Err(error) if error.is_illegible() => return shut_but_ssh(transactions),
        Err(error) => return Err(error.into()),
    };
    let mode = active.policy.mode;
    if mode == Mode::Open {
        return Ok(Loaded::Nothing);
    }
    let bare_facts = bare_facts(transactions);
    for (rules, loaded) in candidates(transactions, &active, &bare_facts, &now)? {
        match transactions.bring_in(&rules, &active.policy) {
            Ok(()) => return Ok(loaded),
            Err(error) => tracing::warn!(%error, "rules cannot be loaded; trying simpler ones"),
        }
    }
    let bare = Policy { mode, ..Policy::open() };
    let bare = ruleset::confirmed(&bare, &bare_facts);
    transactions.kernel().apply(&bare).map_err(Error::Apply)?;
    Ok(Loaded::Minimal(mode))
}

fn candidates(
    transactions: &Transactions,
    active: &Active,
    bare_facts: &Facts,
    now: &Moment,
) -> Result<Vec<(Ruleset, Loaded)>, Error> {
    let mode = active.policy.mode;
    // A host that runs has connections and SSH let in for a while, which stay.
    let live = match transactions.kernel().table() {
        Ok(Some(_)) => Some(transactions.wanted(now)?),
        // What cannot be read cannot be written either: the first that is tried says why.
        Ok(None) | Err(_) => None,
    };
    let plain = ruleset::confirmed(&active.policy, bare_facts);
    Ok([live, stored(active)]
        .into_iter()
        .flatten()
        .map(|rules| (rules, Loaded::Confirmed(mode)))
        .chain([(plain, Loaded::Minimal(mode))])
        .collect())
}

fn shut_but_ssh(transactions: &Transactions) -> Result<Loaded, Error> {
    if transactions.kernel().table().map_err(Error::Table)?.is_some() {
        // A host that runs: what it has is better than what we would guess.
        return Ok(Loaded::ShutButSsh);
    }
    let rules = ruleset::confirmed(&Policy::shut_but_ssh(), &bare_facts(transactions));
    transactions.kernel().apply(&rules).map_err(Error::Apply)?;
    Ok(Loaded::ShutButSsh)
}

/// SSH where it was, nothing else known.
fn bare_facts(transactions: &Transactions) -> Facts {
    Facts::default().with_ssh_known(&transactions.files().ssh_ports())
}
