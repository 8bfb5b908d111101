//! Between columns and the agent's own types.

use std::time::{SystemTime, UNIX_EPOCH};

use agentd_protocol::ids::{ReleaseNumber, ServiceName};
use agentd_sqlite::{Fault, parsed_or_null, unsigned_or_null};
use rusqlite::Row;
use rusqlite::types::FromSql;

pub(super) fn plain<T: FromSql>(row: &Row<'_>, column: &str) -> Result<T, Fault> {
    Ok(row.get(column)?)
}

pub(super) fn service_or_null(row: &Row<'_>, column: &str) -> Result<Option<ServiceName>, Fault> {
    parsed_or_null(row, column)
}

pub(super) fn release_or_null(row: &Row<'_>, column: &str) -> Result<Option<ReleaseNumber>, Fault> {
    Ok(unsigned_or_null(row, column)?.map(ReleaseNumber))
}

/// Unix time, ms. A clock before 1970 counts as 1970: the time is shown to people, nothing is decided by it.
pub(super) fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
