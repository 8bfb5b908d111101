//! The agent's own part of starting and ending: whether its loops turn, and who is told. Tasks, signals and the words to the
//! service manager are those of every daemon here (crate agentd-lifecycle). Must never know: any other room; all rooms may
//! use it. Nothing here survives a restart.

mod heart;
mod watchdog;

pub use agentd_lifecycle::{service, spawn, spawn_blocking, spawn_essential, termination};
pub use heart::{BEAT_INTERVAL, Pulse, pulse};
pub use watchdog::start_watchdog;
