//! What boot does before any interface is up: the confirmed rules into the kernel. Plain code: no database, no network,
//! no tokio, no thread.

use agentd_protocol::security::Mode;

use super::files::{self, Active};
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
    transactions.files().remove_opened()?;
    let active = match transactions.files().active() {
        Ok(None) => return Ok(Loaded::Nothing),
        Ok(Some(active)) => active,
        Err(files::Error::Foreign { .. } | files::Error::Unreadable { .. } | files::Error::TooLarge { .. }) => {
            return shut_but_ssh(transactions);
        }
        Err(error) => return Err(error.into()),
    };
    let mode = active.policy.mode;
    if mode == Mode::Open {
        return Ok(Loaded::Nothing);
    }
    let bare_facts = bare_facts(transactions);
    for (rules, loaded) in candidates(&active, &bare_facts) {
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

fn candidates(active: &Active, bare_facts: &Facts) -> Vec<(Ruleset, Loaded)> {
    let mode = active.policy.mode;
    let plain = ruleset::confirmed(&active.policy, bare_facts);
    stored(active)
        .map(|rules| (rules, Loaded::Confirmed(mode)))
        .into_iter()
        .chain([(plain, Loaded::Minimal(mode))])
        .collect()
}

fn shut_but_ssh(transactions: &Transactions) -> Result<Loaded, Error> {
    if transactions.kernel().table().map_err(Error::Table)?.is_some() {
        // A host that runs: what it has is better than what we would guess.
        return Ok(Loaded::ShutButSsh);
    }
    let anyone = ["0.0.0.0/0", "::/0"].map(|network| network.parse().expect("a network"));
    let policy = Policy { mode: Mode::DaemonPort, ssh: anyone.to_vec(), ..Policy::open() };
    transactions.kernel().apply(&ruleset::confirmed(&policy, &bare_facts(transactions))).map_err(Error::Apply)?;
    Ok(Loaded::ShutButSsh)
}

/// SSH where it was, nothing else known.
fn bare_facts(transactions: &Transactions) -> Facts {
    Facts::default().with_ssh_known(&transactions.files().ssh_ports())
}
