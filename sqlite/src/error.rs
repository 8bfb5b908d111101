//! What can go wrong: with a file, and with one piece of work in it.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::ErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the database {path}: check that its folder exists and that this user may write there")]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot prepare the database {path}")]
    Prepare {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the database {path} is not readable as one; it was left untouched: put back a copy")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: Option<rusqlite::Error>,
    },
    #[error(
        "the database has schema {found} and this program knows up to {known}: it was written by a newer version; run \
         that version, or restore a copy from before the upgrade"
    )]
    Newer { found: u32, known: u32 },
    #[error("cannot {operation}: the disk of the database is full; free some space, then try again")]
    DiskFull {
        operation: &'static str,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error("cannot {operation} in the database; look at its disk")]
    Query {
        operation: &'static str,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error("cannot {operation}: a stored value is not what its column holds; restore a copy of the database")]
    Stored {
        operation: &'static str,
        #[source]
        source: StoredValue,
    },
    #[error("cannot {operation}: the database has no such row; it was removed meanwhile, or never written")]
    Missing { operation: &'static str },
}

/// Why a stored value could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum StoredValue {
    #[error("not the expected JSON")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Name(#[from] agentd_protocol::ids::BadName),
    #[error(transparent)]
    Digest(#[from] agentd_protocol::digest::BadDigest),
    #[error(transparent)]
    Key(#[from] agentd_protocol::control::key::BadKey),
    #[error("number out of range")]
    Number(#[from] std::num::TryFromIntError),
    #[error("unknown word in a column of fixed words")]
    Word,
}

/// What can go wrong inside one piece of work; the operation's name is added outside.
#[derive(Debug)]
pub enum Fault {
    Sql(rusqlite::Error),
    /// The transaction this was part of is gone.
    Lost(Arc<rusqlite::Error>),
    Stored(StoredValue),
    Missing,
}

impl Fault {
    /// What SQLite said can be told to others then, too.
    #[must_use]
    pub fn shared(self) -> Self {
        match self {
            Self::Sql(source) => Self::Lost(Arc::new(source)),
            other => other,
        }
    }

    /// Of one that is shared.
    pub fn cause(&self) -> Option<Arc<rusqlite::Error>> {
        match self {
            Self::Lost(source) => Some(Arc::clone(source)),
            Self::Sql(_) | Self::Stored(_) | Self::Missing => None,
        }
    }

    pub fn of(self, operation: &'static str) -> Error {
        let source = match self {
            Self::Stored(source) => return Error::Stored { operation, source },
            Self::Missing => return Error::Missing { operation },
            Self::Sql(source) => Arc::new(source),
            Self::Lost(source) => source,
        };
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Error::DiskFull { operation, source },
            _ => Error::Query { operation, source },
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sql(source)
    }
}

macro_rules! stored_value {
    ($($source:ty),+ $(,)?) => {$(
        impl From<$source> for Fault {
            fn from(source: $source) -> Self {
                Self::Stored(source.into())
            }
        }
    )+};
}
stored_value!(
    serde_json::Error,
    agentd_protocol::ids::BadName,
    agentd_protocol::digest::BadDigest,
    agentd_protocol::control::key::BadKey,
    std::num::TryFromIntError,
);
