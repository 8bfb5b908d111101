//! Between columns and types.

use std::time::{SystemTime, UNIX_EPOCH};

use agentd_protocol::ids::{ReleaseNumber, ServiceName};
use rusqlite::types::FromSql;
use rusqlite::{Connection, Params, Row};

use super::{Error, StoredValue};

/// What can go wrong inside one piece of work; the operation's name is added outside.
#[derive(Debug)]
pub(super) enum Fault {
    Sql(rusqlite::Error),
    Stored(StoredValue),
    Missing,
}

impl Fault {
    pub(super) fn of(self, operation: &'static str) -> Error {
        match self {
            Self::Sql(source) if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => {
                Error::DiskFull { operation, source }
            }
            Self::Sql(source) => Error::Query { operation, source },
            Self::Stored(source) => Error::Stored { operation, source },
            Self::Missing => Error::Missing { operation },
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sql(source)
    }
}

macro_rules! stored_value {
    ($($source:ty),+) => {$(
        impl From<$source> for Fault {
            fn from(source: $source) -> Self {
                Self::Stored(source.into())
            }
        }
    )+};
}
stored_value!(serde_json::Error, agentd_protocol::ids::BadName, super::BadDigest, std::num::TryFromIntError);

/// Every row of a query; `read` may fail on more than SQL.
pub(super) fn rows<T>(
    connection: &Connection,
    query: &str,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// At least one row changed, or the row was not there.
pub(super) fn some_row(changed: usize) -> Result<(), Fault> {
    if changed == 0 { Err(Fault::Missing) } else { Ok(()) }
}

/// SQLite's integers are signed; ours count up from zero and never come near 2^63.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(row: &Row<'_>, column: &str) -> Result<u64, Fault> {
    Ok(u64::try_from(row.get::<_, i64>(column)?)?)
}

pub(super) fn unsigned_or_null(row: &Row<'_>, column: &str) -> Result<Option<u64>, Fault> {
    Ok(row.get::<_, Option<i64>>(column)?.map(u64::try_from).transpose()?)
}

/// A column of text that has a type of its own.
pub(super) fn parsed<T>(row: &Row<'_>, column: &str) -> Result<T, Fault>
where
    T: std::str::FromStr,
    T::Err: Into<StoredValue>,
{
    row.get::<_, String>(column)?.parse().map_err(|error: T::Err| Fault::Stored(error.into()))
}

pub(super) fn plain<T: FromSql>(row: &Row<'_>, column: &str) -> Result<T, Fault> {
    Ok(row.get(column)?)
}

pub(super) fn service_or_null(row: &Row<'_>, column: &str) -> Result<Option<ServiceName>, Fault> {
    Ok(row.get::<_, Option<String>>(column)?.map(ServiceName::new).transpose()?)
}

pub(super) fn release_or_null(row: &Row<'_>, column: &str) -> Result<Option<ReleaseNumber>, Fault> {
    Ok(unsigned_or_null(row, column)?.map(ReleaseNumber))
}

/// Unix time, ms. A clock before 1970 counts as 1970: the time is shown to people, nothing is decided by it.
pub(super) fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
