//! The keeper as a process.

mod alone;
mod host;
mod real;
