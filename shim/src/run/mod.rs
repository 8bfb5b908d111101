//! `agentd-shim run <instance dir>`: the parent of one program.
//!
//! Owns one instance directory (see `agentd_protocol::shim` for its files) and the log folder the spec names. Starts
//! the program behind a gate, moves its output to disk, records how it ends, starts it again by the policy, stops its
//! whole process tree, and does what managers ask over `ctl.sock`. One thread, one poll loop, no panic on what comes
//! from outside. May be killed at any instant: the program runs on, and the next shim on the directory takes over.
//! Must never know: releases, routes, health, the network. Called by the keeper alone.
//!
//! Pure: `policy` and `instance`. What acts: `supervise` (the loop), `exec` (gate and child), `tree` (finding
//! all of it), `sweep` (ending it), `program` (start, adoption, end), `orders` (messages), `ended` (how it ended), `logs`, `events`, `control` (connections), `grant` (start rate), `hosts` (private /etc/hosts).

mod control;
mod ended;
mod events;
mod exec;
mod grant;
mod hosts;
mod instance;
mod logs;
mod orders;
mod policy;
mod program;
mod setup;
mod supervise;
mod sweep;
mod tmp;
mod tree;

use std::io;
use std::path::PathBuf;

use agentd_protocol::shim::tlv::Malformed;

pub(crate) use hosts::{enter as enter_hosts, renew as renew_hosts};
pub(crate) use supervise::run;

/// Why a shim cannot begin its work; once it has, nothing ends it but `Leave` and SIGTERM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot take the lock in {dir}; does the directory exist and is it ours?")]
    Lock { dir: PathBuf, source: io::Error },
    #[error("cannot read {path}; the manager writes it before it asks for a shim")]
    ReadSpec { path: PathBuf, source: io::Error },
    #[error("{path} is {bytes} bytes, over the limit of a spec; start with a smaller environment")]
    SpecTooLong { path: PathBuf, bytes: u64 },
    #[error("{path} is no spec this shim understands; was it written by a newer agentd?")]
    DecodeSpec { path: PathBuf, source: Malformed },
    #[error("the spec's {what} holds a zero byte; correct it in the service's definition")]
    ZeroByte { what: &'static str },
    #[error("{variable} names descriptor {number}, which is not open; the keeper hands it over at exec")]
    HeldFd { variable: &'static str, number: i32, source: io::Error },
    #[error("{variable} names {count} descriptors, over the limit; hold fewer listeners")]
    HeldFds { variable: &'static str, count: usize },
    #[error("cannot open {path}; look at its owner and at the space in the run folder")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot set up signals and process attributes")]
    Process(#[source] io::Error),
    #[error("cannot listen on ctl.sock in {dir}; look at the owner of the folder")]
    Listen { dir: PathBuf, source: io::Error },
    #[error("cannot wait for events")]
    Poll(#[source] io::Error),
}
