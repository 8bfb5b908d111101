//! The edge: the process that carries the traffic, and the manager's handle to it.
//!
//! Owns: finding the listening sockets the shim hands over (`descriptors`), the control conversation on both sides
//! (`frame`, `control`, `client`), the process from start to drained end (`run`).
//! It gives each snapshot to proxy and dns, which know nothing of each other.
//! Must never know: processes, builds, files other than the snapshot copy. `client` runs in the manager and shares only
//! the frame codec with the rest, which runs in the edge alone. The edge never starts a process and opens no file but
//! the snapshot copy.
//! A restarted edge routes by that copy at once; a restarted manager connects and publishes again. Requests in flight do
//! not survive the edge, everything else survives the manager.

mod client;
mod control;
mod descriptors;
mod frame;
mod run;
#[cfg(test)]
mod tests;

pub use client::{BackendKey, EdgeClient, EdgeProcess, EdgeView, Idleness};
pub use run::{EdgeOptions, run};

use std::io;
use std::path::PathBuf;

use agentd_protocol::ids::Generation;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no descriptors were handed over; the edge is started by its shim, with LISTEN_FDS and LISTEN_FDNAMES set")]
    NoDescriptors,
    #[error("no descriptor is named `{name}` in LISTEN_FDNAMES; look at the edge's spec")]
    MissingDescriptor { name: &'static str },
    #[error("cannot use the descriptor named `{name}` as a listening socket")]
    BadDescriptor {
        name: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the edge's runtime; look at the limits on threads and descriptors")]
    Runtime(#[source] io::Error),
    #[error("cannot connect to the edge at {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the control connection broke")]
    Connection(#[source] io::Error),
    #[error("a control message is no valid JSON for this version; are manager and edge of one build?")]
    Message(#[source] serde_json::Error),
    #[error("a control message of {bytes} bytes exceeds the limit of a frame; is the stack too large?")]
    MessageTooLarge { bytes: usize },
    #[error("cannot read the snapshot copy {}", path.display())]
    ReadSnapshot {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the snapshot copy {} is no snapshot of this version", path.display())]
    ParseSnapshot {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot write the snapshot copy {}", path.display())]
    WriteSnapshot {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the edge is not connected; generation {generation} is on disk and is applied when the edge is back")]
    NotConnected { generation: Generation },
    #[error("the edge did not apply generation {generation} in time; look at its log")]
    NoAnswer { generation: Generation },
    #[error("the edge refused generation {generation}: {reason}")]
    Rejected { generation: Generation, reason: String },
    #[error("generation {generation} was overtaken by a newer one before the edge answered")]
    Superseded { generation: Generation },
    #[error("the edge's client has ended; the agent is stopping")]
    Stopped,
}
