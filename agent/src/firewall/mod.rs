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

mod command;
pub mod facts;
pub mod foreign;
pub mod guard;
pub mod inspect;
mod links;
pub mod nft;
pub mod policy;
pub mod ruleset;
mod sockets;
pub mod ufw;

pub use facts::{BreakGlass, Facts, Session};
pub use inspect::Found;
pub use nft::Nft;
pub use policy::Policy;
pub use ruleset::{Amendment, Revision, Ruleset, Stamp};
