//! Starting and ending of tasks. Owns: the only calls that start one, the signals that end the server, and what the
//! service manager is told of both. Must never know: any other room; all rooms may use it.
//! Nothing here survives a restart.

pub mod service;
mod signals;
mod tasks;

pub use signals::{hangup, termination};
pub use tasks::{spawn, spawn_blocking, spawn_essential};
