//! What the server must remember, in two SQLite files: `control.db`, which is precious, and `journal.db`, which holds what
//! hosts said and is bounded.
//!
//! Owns: the files, their schemas and migrations, one writing thread each, and what may be in one transaction. The only
//! room that names rusqlite. Everything is committed with `synchronous=FULL` before a call returns.
//! Must never know: what any of it is for, nor a secret: what comes here is sealed.
//! Called by: core (and auth, for its accounts), through [`Store`], which is cheap to clone.
//! Survives a restart: everything here. A call whose future is dropped may still take effect: the work was handed over.

mod accounts;
mod audit;
mod backup;
mod drafts;
mod hosts;
mod idempotency;
mod journal;
mod open;
mod reader;
mod stacks;
mod tokens;
mod versions;
mod writer;

use std::path::{Path, PathBuf};

pub use accounts::{NewApiToken, NewSession, StoredApiToken, StoredSession, StoredUser};
pub use audit::Entry;
pub use backup::{Contents, ContentsStack, inspect, restore};
pub use drafts::{NewDraft, SealedEnv, StoredDraft};
pub use hosts::{Admission, NewHost, StoredHost, StoredStanding};
pub use idempotency::Remembered;
pub use journal::{Arrival, Batch, Ingested, Live, StoredSnapshot};
pub use stacks::{HeadPut, NewHead, NewStackRow, Role, StoredKey, StoredStack};
pub use tokens::{NewTokenRow, StoredToken};
pub use versions::{NewVersion, ObjectKind, Put, StoredVersion};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Sqlite(#[from] agentd_sqlite::Error),
    #[error("cannot {operation}: too much waits for the disk")]
    Busy { operation: &'static str },
    #[error("cannot {operation}: the store has stopped; the log says why, and the server has to be started again")]
    Stopped { operation: &'static str },
    #[error("the copy {path} differs from the manifest in it: it was damaged or changed")]
    Changed { path: PathBuf },
}

impl Error {
    /// The same call may succeed in a moment.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Stopped { .. } | Self::Sqlite(agentd_sqlite::Error::DiskFull { .. }))
    }
}

#[derive(Debug, Clone)]
pub struct Store {
    control: writer::Writer,
    control_reads: reader::Reader,
    journal: writer::Writer,
    journal_reads: reader::Reader,
    pub(super) control_path: PathBuf,
}

pub const CONTROL_FILE: &str = "control.db";
pub const JOURNAL_FILE: &str = "journal.db";

impl Store {
    /// Blocks for as long as the disk takes: to be called before anything is served.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (control_path, journal_path) = (dir.join(CONTROL_FILE), dir.join(JOURNAL_FILE));
        Ok(Self {
            control: writer::Writer::open(&control_path, open::CONTROL, "control store")?,
            control_reads: reader::Reader::open(&control_path)?,
            journal: writer::Writer::open(&journal_path, open::JOURNAL, "journal store")?,
            journal_reads: reader::Reader::open(&journal_path)?,
            control_path,
        })
    }

    /// Returns when one of the files can be written no more. For an essential task to wait on.
    pub async fn stopped(&self) {
        tokio::select! {
            () = self.control.stopped() => {}
            () = self.journal.stopped() => {}
        }
    }
}
