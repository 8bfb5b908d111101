//! Policy and facts to rules, purely. Every set, chain and rule of our table is written here and nowhere else.
//!
//! The text of a rule's comment begins with the number of docs/security-modes.md it implements. Chains and sets stay,
//! rules and elements are replaced in one transaction; every closed chain ends in a drop of its own, because a base
//! chain that is new lets everything in until late in the commit (nft_chain_commit_drop_policy, nf_tables_api.c).

pub(super) mod layout;
mod rules;
mod stamp;
#[cfg(test)]
mod tests;
mod words;

use std::time::Duration;

use nftables::schema::Nftables;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::layout::Transaction;
use self::rules::{Names, Rules, Side};
pub use self::stamp::{Revision, Stamp};
use super::facts::BreakGlass;
use super::{Facts, Policy};
use agentd_protocol::security::Mode;

/// One transaction for nft that replaces all we have in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    pub nft: Nftables<'static>,
    /// Of the rules that shall stay; of a trial those on trial.
    pub revision: Revision,
}

/// One transaction that changes elements of the table in the kernel, and no rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amendment {
    pub nft: Nftables<'static>,
}

/// The rules of a closed mode as they stay; for `open` the removal of our table.
pub fn confirmed(policy: &Policy, facts: &Facts) -> Ruleset {
    if policy.mode == Mode::Open {
        return removal();
    }
    let rules = Rules::of(policy, facts, &Names::BASE);
    let revision = rules.stamp.revision.clone();
    let mut transaction = Transaction::begin(Side::closed(policy.mode));
    transaction.start_trial();
    transaction.empty();
    transaction.end_trial();
    transaction.remember(facts);
    transaction.write(rules);
    transaction.write_shared();
    Ruleset { nft: transaction.commit(), revision }
}

/// `to` for as long as the kernel's timer runs, then `from`. Either may be `open`.
pub fn trial(from: &Policy, to: &Policy, facts: &Facts, window: Duration) -> Ruleset {
    let before = Rules::of(from, facts, &Names::BASE);
    let after = Rules::of(to, facts, &Names::TRIAL);
    let revision = after.stamp.revision.clone();
    // With `from` open the policy stays accept: whoever flushes our rules is back where he was.
    let mut transaction = Transaction::begin(Side::closed(from.mode));
    transaction.start_trial();
    transaction.empty();
    transaction.arm(window);
    transaction.remember(facts);
    transaction.branch(&after.stamp);
    transaction.write(before);
    transaction.write(after);
    transaction.write_shared();
    Ruleset { nft: transaction.commit(), revision }
}

/// Our table and every trace of it gone (C7), whether it was there or not.
pub fn removal() -> Ruleset {
    Ruleset { nft: layout::removal(), revision: Rules::open().stamp.revision }
}

/// SSH let in for a while on top of the rules there are (T2). Replaces what an earlier one left; without networks it
/// ends it. The table must be there.
pub fn open_ssh(glass: &BreakGlass) -> Amendment {
    Amendment { nft: layout::glass(glass) }
}

impl Ruleset {
    /// The same in a table made anew within the same transaction: whatever was in the old one is gone with it.
    pub fn anew(&self) -> Self {
        let Nftables { objects: removal } = layout::removal();
        let objects = removal.iter().chain(self.nft.objects.iter()).cloned().collect::<Vec<_>>();
        Self { nft: Nftables { objects: objects.into() }, revision: self.revision.clone() }
    }

    /// What nft reads, the same bytes for the same rules.
    pub fn text(&self) -> String {
        text(&self.nft)
    }
}

impl Amendment {
    pub fn text(&self) -> String {
        text(&self.nft)
    }
}

fn text(nft: &Nftables<'static>) -> String {
    let mut value = serde_json::to_value(nft).expect("nft's types are plain JSON");
    settle(&mut value);
    value.to_string()
}

/// The types keep a set's flags in a hash set, whose order differs from run to run, and write options nobody set.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Array(flags)) = fields.get_mut("flags") {
                flags.sort_by_key(Value::to_string);
            }
            for option in ["timeout", "expires", "comment", "counter"] {
                if fields.get(option).is_some_and(Value::is_null) {
                    fields.shift_remove(option);
                }
            }
            fields.values_mut().for_each(settle);
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
