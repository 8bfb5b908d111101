//! What the host lets in: the rules of docs/security-modes.md, brought into the kernel and kept there.
//!
//! Owns: the policy (data), the ruleset (a pure function of it), our own nftables table and nobody else's, what was
//! last confirmed (on disk), a trial and its return, the allows an active UFW needs beside our table.
//! Must never know: the stack document, the store, the proxy, other rooms. A policy is handed in; what the kernel has is
//! handed out. Everything that boot and the watchdog need (`load`, `rollback`) is plain synchronous code: no database,
//! no network, no tokio.
//! Called by: app (wiring), and `agentd firewall` on its own.
//! Survives a restart: the kernel's table; `active.json`, `pending.json`, `journal.json`. A manager that starts reads
//! them and the kernel, and changes nothing that is right.

mod allows;
mod beside;
pub mod checks;
mod command;
pub mod consent;
pub mod facts;
pub mod files;
pub mod foreign;
pub mod guard;
mod handle;
pub mod inspect;
pub mod kernel;
mod links;
pub mod load;
pub mod nft;
mod orders;
pub mod policy;
pub mod remove;
mod repair;
pub mod ruleset;
mod scales;
pub mod selftest;
mod sockets;
pub mod surroundings;
mod task;
pub mod transaction;
pub mod truth;
pub mod ufw;
mod watch;
pub mod watchdog;
pub mod wishes;

pub use facts::{BreakGlass, Facts, Session};
pub use handle::Handle;
pub use inspect::Found;
pub use nft::Nft;
pub use policy::Policy;
pub use ruleset::{Amendment, Revision, Ruleset, Stamp};
pub use task::{Note, Setup, start, unmanaged};
pub use transaction::Transactions;
pub use truth::Truth;
pub use wishes::{DocumentMay, OwnerRules};

use std::net::SocketAddr;

use agentd_protocol::api::CheckName;

/// What a caller of [`Handle`] is told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this agent leaves the firewall alone: {0}")]
    Unmanaged(String),
    #[error("the firewall's task has ended; the agent is about to restart")]
    Ended,
    #[error(transparent)]
    Transaction(#[from] transaction::Error),
    #[error("{who}; {ssh}to end their sessions on purpose, add --phrase \"{phrase}\"")]
    Stranded { who: String, ssh: String, phrase: String },
    #[error("nothing was changed: {findings}; to go on all the same, where anything here can keep the mode: --force")]
    Refused { findings: String },
    #[error("nothing was changed, since a person must agree first: {findings}; to agree: --accept")]
    NotAccepted { findings: String },
    #[error("nothing was changed, since nobody can tell who is on SSH")]
    Guard(#[source] guard::Error),
    #[error(
        "nothing was changed, since this host has no connectivity at all, before any rule of ours: {red}; mend its \
         network first (`ip route`, `resolvectl status`), or, if it is meant to have none, leave these checks out: {without}"
    )]
    NoConnectivity { red: String, without: String },
    #[error(
        "nothing was changed, since this host does not work as it is: {red}; to go on all the same: --without-check {name}"
    )]
    RedBefore { red: String, name: CheckName },
    #[error("the rules of before are back, since this host did not work with the new ones: {red}")]
    RedAfter { red: String },
    #[error(
        "this session ({peer}) was there before the trial, so it proves nothing: log in anew and confirm from there, or \
         at the console"
    )]
    OldSession { peer: SocketAddr },
    #[error("{0} networks: name between 1 and 64")]
    TooManyNetworks(usize),
    #[error("a trial lasts between 2 s and 1 h")]
    Window,
    #[error("SSH is let in for between 1 ms and 24 h; for longer, name the network in the mode itself")]
    OpenTime,
    #[error(transparent)]
    Selftest(#[from] selftest::Error),
}
