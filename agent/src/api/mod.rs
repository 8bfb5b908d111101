//! The local API: HTTP with JSON over the Unix socket `<run>/agentd.sock` (protocol::api has the table of paths).
//!
//! Owns: who may call, the mapping of answers to HTTP. Must never know: how anything is done; it asks reconcile's
//! handle. Caller: agentctl. Nothing here survives a restart; the socket is bound anew.

mod events;
mod listener;
mod logs;
mod refs;
mod releases;
mod routes;
mod security;

pub use listener::{Callers, bind};
pub use refs::ResolveRefs;
pub use routes::{Api, MakeGitKey, serve};

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API socket {path} cannot be bound: is the run folder writable?")]
    Bind {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the API stopped serving")]
    Serve(#[source] io::Error),
}
