//! Starting and ending of tasks. Owns: the only calls that start one, the signals that end the manager, and what the
//! service manager is told of both. Must never know: any other room; all rooms may use it.
//! Nothing here survives a restart.

mod heart;
pub mod service;
mod signals;
mod tasks;

pub use heart::{BEAT_INTERVAL, Pulse, pulse};
pub use signals::termination;
pub use tasks::{spawn, spawn_blocking, spawn_essential};
