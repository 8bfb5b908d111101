//! The end of it: nothing of ours stays in the kernel, in UFW or below `<state>/firewall`. Again is fine. Plain code.

use agentd_sys::causes::chain;

use super::transaction::Transactions;
use super::ufw::{Restored, Undone};
use super::{Policy, nft, ruleset};

/// One line each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    pub done: Vec<String>,
    /// With what to do instead.
    pub left: Vec<String>,
}

/// Goes on whatever fails. A manager that runs sees that nothing is confirmed any more, and puts nothing back.
pub fn remove(transactions: &Transactions) -> Removed {
    let mut removed = Removed::default();
    // Who never shut anything has no folder, and gets none.
    let _lock = match transactions.files.is_there().then(|| transactions.lock()).transpose() {
        Ok(lock) => lock,
        Err(error) => {
            removed.left.push(format!("{}; nothing was changed", chain(&error)));
            return removed;
        }
    };
    end_trial(transactions, &mut removed);
    remove_table(transactions, &mut removed);
    undo_allows(transactions, &mut removed);
    match transactions.files.remove_all() {
        Ok(true) => removed.done.push("what was confirmed is forgotten".to_owned()),
        Ok(false) => {}
        Err(error) => removed.left.push(chain(&error)),
    }
    removed
}

/// Its rules go with the table, and who guards it sees that it is over.
fn end_trial(transactions: &Transactions, removed: &mut Removed) {
    // One that cannot be read is removed with the other files; its watchdog finds nothing then.
    if let Ok(Some(pending)) = transactions.files.pending() {
        removed.done.push(format!("the trial of {} is ended", pending.to.mode));
    }
}

fn remove_table(transactions: &Transactions, removed: &mut Removed) {
    let kernel = transactions.kernel();
    let open = ruleset::confirmed(&Policy::open(), &kernel.facts());
    match kernel.table().and_then(|table| table.map(|_| kernel.apply(&open)).transpose()) {
        Ok(Some(())) => removed.done.push("the table `inet agentd` is removed".to_owned()),
        Ok(None) => {}
        // Nobody can have a table here, but who removed nft while ours was loaded: a restart ends that one.
        Err(nft::Error::Missing) => removed.done.push("nft is not installed: no table was looked for".to_owned()),
        Err(error) => {
            removed.left.push(format!("the table: {}; `nft delete table inet agentd` by hand", chain(&error)));
        }
    }
}

fn undo_allows(transactions: &Transactions, removed: &mut Removed) {
    let Some(ufw) = &transactions.ufw else { return };
    match ufw.undo(&transactions.files.journal_path()) {
        Ok(None) => {}
        Ok(Some(undone)) => told(&undone, removed),
        Err(error) => removed.left.push(format!(
            "allows in ufw: {}; `ufw status numbered` shows them by the comment `agentd:`",
            chain(&error)
        )),
    }
}

fn told(undone: &Undone, removed: &mut Removed) {
    removed.done.extend(undone.removed.iter().map(|allow| format!("ufw no longer allows {allow}")));
    let theirs = |allow| format!("ufw's allow of {allow} has become its owner's and stays");
    removed.done.extend(undone.left.iter().map(theirs));
    for file in &undone.files {
        let path = file.path.display();
        match &file.restored {
            Restored::Exactly => removed.done.push(format!("{path} is as it was before agentd")),
            Restored::SameRules => removed.done.push(format!("{path} has the rules of before agentd")),
            Restored::Differs { .. } => removed.done.push(format!("{path} keeps what others changed in it since")),
        }
    }
}

#[cfg(test)]
#[path = "remove_tests.rs"]
mod tests;
