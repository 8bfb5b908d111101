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
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("usage: agentd-shim keeper <run dir> [--detach] [--shim <path>]")]
    Usage,
    #[error("cannot make a process of its own; see the limits on tasks")]
    Detach(#[source] io::Error),
    #[error("cannot use the run folder; see its owner and mode")]
    RunDir(#[source] io::Error),
    #[error("another keeper holds keeper/lock, pid {}; use that one or end it", pid.unwrap_or_default())]
    Held { pid: Option<u32> },
    #[error("cannot take keeper/lock; see the run folder's owner and mode")]
    Lock(#[source] io::Error),
    #[error("cannot receive signals by descriptor")]
    Signals(#[source] io::Error),
    #[error("cannot listen on keeper/ctl.sock; see the run folder's owner and mode")]
    Socket(#[source] io::Error),
    #[error("cannot wait for events")]
    Poll(#[source] io::Error),
}
