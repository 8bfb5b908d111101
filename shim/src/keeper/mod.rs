//! `agentd-shim keeper <run dir>`: one per host, the parent of the shims.
//!
//! Owns: the shims as children, a duplicate of every log pipe and of every descriptor an instance holds, what programs
//! leave behind when their shim dies (`keeper/exits`), and the rate of starts on the host. It is what makes a dead shim
//! harmless: the pipe keeps its bytes, the exit status is written down, and a new shim adopts the program.
//! Must never know: what a program is, when it should restart, what a log line is. It never reads a pipe, and of
//! `state` only whether a program should be there.
//! Called by: the manager (Spawn, List, AskHeld, Forget, Shutdown) and shims (AskStart), over `keeper/ctl.sock`.
//! When it is killed, services and shims run on; the next keeper finds the living shims by their locks, asks them for
//! the held descriptors, and starts shims for programs that have none. Nothing but `exits` and `boot` is on disk.
//!
//! One thread, one poll(2). Nothing from outside makes it panic; a connection that misbehaves is closed.

mod args;
mod bucket;
mod event_loop;
mod exits;
mod fleet;
mod instance;
mod launch;
mod reap;
mod requests;
mod respawn;
mod setup;
mod takeover;

use std::io;

pub(crate) use event_loop::run;

/// Why the keeper could not begin. Once it runs, failures are messages and it goes on.
#[derive(Debug)]
enum Error {
    Usage,
    Detach(io::Error),
    RunDir(io::Error),
    /// Another keeper holds the lock.
    Held {
        pid: Option<u32>,
    },
    Lock(io::Error),
    Signals(io::Error),
    Socket(io::Error),
    /// poll(2) itself failed.
    Poll(io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage => write!(f, "usage: agentd-shim keeper <run dir> [--detach] [--shim <path>]"),
            Self::Detach(cause) => write!(f, "a process of its own cannot be made; see the limits on tasks: {cause}"),
            Self::RunDir(cause) => write!(f, "the run folder cannot be used; see its owner and mode: {cause}"),
            Self::Held { pid: Some(pid) } => write!(f, "another keeper runs as pid {pid}; stop it or use that one"),
            Self::Held { pid: None } => write!(f, "another keeper holds keeper/lock; see fuser on that file"),
            Self::Lock(cause) => write!(f, "keeper/lock cannot be taken; see the run folder's mode: {cause}"),
            Self::Signals(cause) => write!(f, "signals cannot be received by descriptor: {cause}"),
            Self::Socket(cause) => write!(f, "keeper/ctl.sock cannot be bound; see the run folder's mode: {cause}"),
            Self::Poll(cause) => write!(f, "waiting for events failed: {cause}"),
        }
    }
}
