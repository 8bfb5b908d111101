//! Between columns and types.

use std::str::FromStr;
use std::sync::Arc;

use rusqlite::{Connection, Params, Row};

use super::{Error, StoredValue};

/// What can go wrong inside one piece of work; the operation's name is added outside.
#[derive(Debug)]
pub(crate) enum Fault {
    Sql(rusqlite::Error),
    /// The transaction this was part of is gone.
    Lost(Arc<rusqlite::Error>),
    Stored(StoredValue),
    Missing,
}

impl Fault {
    pub(super) fn of(self, operation: &'static str) -> Error {
        let source = match self {
            Self::Stored(source) => return Error::Stored { operation, source },
            Self::Missing => return Error::Missing { operation },
            Self::Sql(source) => Arc::new(source),
            Self::Lost(source) => source,
        };
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Error::DiskFull { operation, source },
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
    ($($source:ty),+) => {$(
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
    std::num::TryFromIntError
);

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

pub(super) fn row<T>(
    connection: &Connection,
    query: &str,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// At least one row changed, or the row was not there.
pub(super) fn some_row(changed: usize) -> Result<(), Fault> {
    if changed == 0 { Err(Fault::Missing) } else { Ok(()) }
}

/// SQLite's integers are signed; ours count up from zero. What a host says may be larger: it is the largest then.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(row: &Row<'_>, column: &str) -> Result<u64, Fault> {
    Ok(u64::try_from(row.get::<_, i64>(column)?)?)
}

pub(super) fn unsigned_or_null(row: &Row<'_>, column: &str) -> Result<Option<u64>, Fault> {
    Ok(row.get::<_, Option<i64>>(column)?.map(u64::try_from).transpose()?)
}

pub(super) fn text(row: &Row<'_>, column: &str) -> Result<String, Fault> {
    Ok(row.get(column)?)
}

/// A column of text that has a type of its own.
pub(super) fn parsed<T>(row: &Row<'_>, column: &str) -> Result<T, Fault>
where
    T: FromStr,
    Fault: From<T::Err>,
{
    Ok(row.get::<_, String>(column)?.parse()?)
}

pub(super) fn parsed_or_null<T>(row: &Row<'_>, column: &str) -> Result<Option<T>, Fault>
where
    T: FromStr,
    Fault: From<T::Err>,
{
    Ok(row.get::<_, Option<String>>(column)?.map(|text| text.parse()).transpose()?)
}

pub(super) fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<T, Fault> {
    Ok(serde_json::from_str(&row.get::<_, String>(column)?)?)
}

pub(super) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("our types have keys that are texts")
}
