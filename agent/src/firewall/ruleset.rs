//! Policy and facts to rules, purely. Every set, chain and rule of our table is written here and nowhere else.

use std::time::Duration;

use nftables::schema::Nftables;

use super::{Facts, Policy};

/// Names what a ruleset says, survivors and timers aside: 16 hexadecimal digits of a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(pub String);

/// One transaction for nft.
#[derive(Debug, Clone)]
pub struct Ruleset {
    pub nft: Nftables<'static>,
    pub revision: Revision,
}

/// The rules of a closed mode as they stay; for `open` the removal of our table.
pub fn confirmed(_policy: &Policy, _facts: &Facts) -> Ruleset {
    panic!("not written yet")
}

/// `to` for as long as the kernel's timer runs, then `from`.
pub fn trial(_from: &Policy, _to: &Policy, _facts: &Facts, _window: Duration) -> Ruleset {
    panic!("not written yet")
}
