//! From the stack file to numbered versions: reads it, resolves its refs to commits, publishes. Or, in [`control`], from
//! a control server, which has done so.
//!
//! Owns: the watch on the file and on local repositories, the clock of asking, and what is wrong with the file now.
//! Must never know: what a version does to services, or how a ref is looked up (that is [`Resolve`]).
//! Called by: the app, which hands the versions on to reconcile. Uses the store room.
//! Survives a restart: nothing of its own; versions and the refs they came from are in the store.

pub mod control;
mod decide;
mod file;
mod once;
mod questions;
mod read;
#[cfg(test)]
mod tests;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use agentd_protocol::ids::{Commit, ServiceName, Version};
use agentd_protocol::stack::Stack;
use agentd_sys::causes::chain;
use tokio::sync::Notify;

use crate::reconcile::Reading;

pub use file::{FileConfig, FilePublisher};
pub use once::resolve_all;
pub use read::ReadStack;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{path}` cannot be a stack file: it names no file in a folder")]
    NoFile { path: PathBuf },
}

/// What the host's owner forbids of a document, each in a sentence. Blocks: it reads policy.toml.
pub type Judge = Arc<dyn Fn(&Stack) -> Result<(), Vec<String>> + Send + Sync>;

/// Looks up what a branch or tag points at.
#[async_trait::async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// `auth` names a credential of the host's settings.
    async fn resolve(&self, repo: &str, auth: Option<&str>, reference: &str) -> Result<Commit, Unresolved>;
}

/// Why a ref has no commit now, in the words of whoever looked it up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Unresolved {
    text: String,
}

impl Unresolved {
    /// The error and its causes, in one line.
    pub fn new(error: &dyn std::error::Error) -> Self {
        Self { text: chain(error) }
    }
}

/// What the operator should know about the file; empty when all is well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncStatus {
    /// Why the file is not in force as it stands; the last version is.
    pub file_problem: Option<String>,
    /// Services whose entry is not in force, since its ref was never resolved: new ones are left out, known ones stay
    /// as they were.
    pub unresolved: Vec<(ServiceName, String)>,
    /// Services at the commit their ref had before, since it cannot be asked now.
    pub stale: Vec<(ServiceName, String)>,
    /// The last good content of the file.
    pub reading: Option<Reading>,
    /// `None`: not read yet.
    pub last_read_unix_ms: Option<u64>,
    /// The newest version in the store.
    pub version: Option<Version>,
}

#[derive(Debug, Clone)]
pub struct SyncHandle {
    pub status: tokio::sync::watch::Receiver<SyncStatus>,
    poke: Arc<Notify>,
}

impl SyncHandle {
    /// Reads the file and asks for every ref now, also those that wait after a failure.
    pub fn poke(&self) {
        self.poke.notify_one();
    }
}
