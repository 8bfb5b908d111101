//! Starting and ending of the tasks of a daemon. Owns: the only calls that start one, the signals a daemon listens to, and
//! what the service manager is told of both. Must never know: whose daemon it is.
//! Nothing here survives a restart.

pub mod service;
mod signals;
mod tasks;

pub use signals::{hangup, termination};
pub use tasks::{spawn, spawn_blocking, spawn_essential};
