//! Starting and ending of tasks. Owns: the only calls that start one, and the signals that end the manager.
//! Must never know: any other room; all rooms may use it.
//! Nothing here survives a restart.

mod signals;
mod tasks;

pub use signals::termination;
pub use tasks::{spawn, spawn_blocking, spawn_essential};
