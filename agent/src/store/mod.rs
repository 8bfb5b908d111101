//! What the manager must remember: versions of the stack, releases, pins, deploys, events, counters; while
//! the host is joined also what it believes of its control server, and the events on their way there.
//!
//! Owns: the SQLite file, its schema and migrations, and the thread that alone writes to it. The only room that names
//! rusqlite. Everything is committed with `synchronous=FULL` before a call returns.
//! Must never know: what any of it is for. It decides nothing but identity ("is this the same document?") and bounds.
//! Called by: sync (publishing) and reconcile, through [`Store`], which is cheap to clone.
//! Survives a restart: everything here. A call whose future is dropped may still take effect: the work was handed over.
//! Env values stand in the `env_objects` table only; documents and release entries hold names.

mod control;
mod convert;
mod counters;
mod deploys;
mod events;
mod migrations;
mod outbox;
mod outbox_clock;
mod releases;
mod restarts;
mod services;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod user_ids;
mod versions;
mod writer;

use std::path::PathBuf;

pub use agentd_protocol::digest::{BadDigest, Digest};
pub use agentd_protocol::published::entry_digest;
pub use control::{ControlState, Joining, VerifiedVersion};
pub use deploys::{DEPLOYS_KEPT, DeployEnd, DeployId, NewDeploy, StoredDeploy};
pub use events::{EVENTS_KEPT, EventQuery, NewEvent};
pub use outbox::{Gap, OUTBOX_BYTES_MAX, OUTBOX_MS_MAX, Waiting};
pub use releases::{NewRelease, ReleaseState, StoredRelease};
pub use restarts::PastRestarts;
pub use services::{Pin, StoredService};
pub use user_ids::Holder;
pub use versions::{Put, Refs, StoredVersion, VERSIONS_KEPT};
pub use writer::Store;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the database {path} is not readable as one; it was left untouched and services run on: put back a copy, or \
         move it and its -wal and -shm files away and start again (version and release numbers then begin anew)"
    )]
    Unreadable {
        path: PathBuf,
        #[source]
        source: Option<rusqlite::Error>,
    },
    #[error(transparent)]
    Sqlite(agentd_sqlite::Error),
    #[error("cannot {operation}: the store has stopped; the log says why, and the agent has to be started again")]
    Stopped { operation: &'static str },
}

impl From<agentd_sqlite::Error> for Error {
    fn from(error: agentd_sqlite::Error) -> Self {
        match error {
            agentd_sqlite::Error::Unreadable { path, source } => Self::Unreadable { path, source },
            error => Self::Sqlite(error),
        }
    }
}
