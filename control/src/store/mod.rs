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
mod damaged;
mod drafts;
mod hosts;
mod idempotency;
mod journal;
mod open;
mod reader;
mod stacks;
mod tokens;
mod versions;
mod volumes;
mod writer;

use std::path::{Path, PathBuf};

pub use accounts::{NewApiToken, NewSession, StoredApiToken, StoredSession, StoredUser};
pub use audit::Entry;
pub use backup::{Contents, ContentsHost, ContentsStack, Prove, Restored, inspect, restore};
pub use damaged::SetAside;
pub use drafts::{NewDraft, SealedEnv, StoredDraft};
pub use hosts::{Admission, NewHost, StoredHost, StoredStanding};
pub use idempotency::Remembered;
pub use journal::{Arrival, Batch, Ingested, Live, StoredSnapshot};
pub use stacks::{HeadPut, NewHead, NewStackRow, Role, StoredKey, StoredStack};
pub use tokens::{NewTokenRow, StoredToken};
pub use versions::{NewVersion, ObjectKind, Put, StoredVersion};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the database {path} is damaged, or is none; it was left untouched: move it away, then `controld restore` a backup \
         (`controld restore --dry-run FILE` says what would come back)"
    )]
    Unreadable {
        path: PathBuf,
        #[source]
        source: Option<rusqlite::Error>,
    },
    #[error(transparent)]
    Sqlite(agentd_sqlite::Error),
    #[error("cannot {operation}: too much waits for the disk")]
    Busy { operation: &'static str },
    #[error("cannot {operation}: the store has stopped; the log says why, and the server has to be started again")]
    Stopped { operation: &'static str },
    #[error("a backup cannot be sealed")]
    Prove(#[source] crate::seal::Error),
    #[error("the copy {path} differs from the manifest in it: it was damaged or changed")]
    Changed { path: PathBuf },
}

impl From<agentd_sqlite::Error> for Error {
    fn from(error: agentd_sqlite::Error) -> Self {
        match error {
            agentd_sqlite::Error::Unreadable { path, source } => Self::Unreadable { path, source },
            error => Self::Sqlite(error),
        }
    }
}

impl Error {
    /// The same call may succeed in a moment.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Stopped { .. })
    }

    pub fn is_full(&self) -> bool {
        matches!(self, Self::Sqlite(agentd_sqlite::Error::DiskFull { .. }))
    }

    /// What the caller is told. A call that was not answered may have taken effect all the same.
    pub fn said(&self) -> &'static str {
        match self {
            Self::Sqlite(agentd_sqlite::Error::DiskFull { .. }) => {
                "the server's disk is full: nothing was changed, reading goes on; free some space there, then try again"
            }
            Self::Busy { .. } => "too much waits for the server's disk: nothing was changed; try again in a moment",
            Self::Stopped { .. } => "the server is ending: look whether it was done before you try again",
            _ => "the server failed, its log says why; look whether it was done before you try again",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Store {
    control: writer::Writer,
    control_reads: reader::Reader,
    journal: writer::Writer,
    journal_reads: reader::Reader,
    tally: audit::Tally,
    /// What had to be put out of the way when this was opened.
    set_aside: Option<SetAside>,
    pub(super) control_path: PathBuf,
}

pub const CONTROL_FILE: &str = "control.db";
pub const JOURNAL_FILE: &str = "journal.db";

impl Store {
    /// Blocks for as long as the disk takes: to be called before anything is served.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (control_path, journal_path) = (dir.join(CONTROL_FILE), dir.join(JOURNAL_FILE));
        let control = writer::Writer::open(&control_path, open::CONTROL, "control store")?;
        let (journal, set_aside) = damaged::open_journal(&journal_path)?;
        Ok(Self {
            control,
            control_reads: reader::Reader::open(&control_path)?,
            journal,
            journal_reads: reader::Reader::open(&journal_path)?,
            tally: audit::Tally::default(),
            set_aside,
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

    /// No further page comes into the precious file, until it is called with `false`.
    #[cfg(test)]
    pub(crate) async fn fill_disk(&self, is_full: bool) {
        let pages = if is_full { 1 } else { 1_000_000 };
        let limit = move |connection: &rusqlite::Connection| {
            Ok(connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?)
        };
        self.control.write("limit the pages", limit).await.unwrap();
        let row = |number: u32| Entry {
            at_unix_ms: 1,
            actor: String::new(),
            action: "fill",
            target: number.to_string(),
            detail: serde_json::Value::Null,
            alarm: false,
        };
        let mut number = 0;
        while is_full && self.append_audit(row(number)).await.is_ok() {
            number += 1;
        }
    }
}
