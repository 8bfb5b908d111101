//! Between columns and types.

use std::str::FromStr;

use rusqlite::{Connection, Params, Row};

use super::Fault;

/// Every row of a query; `read` may fail on more than SQL.
pub fn rows<T>(
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

/// The first row of a query.
pub fn row<T>(
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
pub fn some_row(changed: usize) -> Result<(), Fault> {
    if changed == 0 { Err(Fault::Missing) } else { Ok(()) }
}

/// SQLite's integers are signed; ours count up from zero. What another machine says may be larger: it is the largest then.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub fn unsigned(row: &Row<'_>, column: &str) -> Result<u64, Fault> {
    Ok(u64::try_from(row.get::<_, i64>(column)?)?)
}

pub fn unsigned_or_null(row: &Row<'_>, column: &str) -> Result<Option<u64>, Fault> {
    Ok(row.get::<_, Option<i64>>(column)?.map(u64::try_from).transpose()?)
}

pub fn text(row: &Row<'_>, column: &str) -> Result<String, Fault> {
    Ok(row.get(column)?)
}

/// A column of text that has a type of its own.
pub fn parsed<T>(row: &Row<'_>, column: &str) -> Result<T, Fault>
where
    T: FromStr,
    Fault: From<T::Err>,
{
    Ok(row.get::<_, String>(column)?.parse()?)
}

pub fn parsed_or_null<T>(row: &Row<'_>, column: &str) -> Result<Option<T>, Fault>
where
    T: FromStr,
    Fault: From<T::Err>,
{
    Ok(row.get::<_, Option<String>>(column)?.map(|text| text.parse()).transpose()?)
}

pub fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<T, Fault> {
    Ok(serde_json::from_str(&row.get::<_, String>(column)?)?)
}

/// # Panics
/// On a map whose keys are no texts.
pub fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("our types have keys that are texts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoredValue;

    #[test]
    fn numbers_count_up_from_zero() {
        let connection = Connection::open_in_memory().unwrap();
        let read = |sql: &str| rows(&connection, sql, [], |row| unsigned_or_null(row, "n"));
        assert_eq!(read("SELECT 7 AS n UNION ALL SELECT NULL").unwrap(), [Some(7), None]);
        assert!(matches!(read("SELECT -1 AS n"), Err(Fault::Stored(StoredValue::Number(_)))));
        assert!(matches!(read("SELECT 'x' AS n"), Err(Fault::Sql(_))));
        assert_eq!((signed(0), signed(u64::MAX)), (0, i64::MAX));
    }

    #[test]
    fn a_row_that_is_not_there_is_none() {
        let connection = Connection::open_in_memory().unwrap();
        assert_eq!(row(&connection, "SELECT 3 AS n", [], |row| unsigned(row, "n")).unwrap(), Some(3));
        assert_eq!(row(&connection, "SELECT 3 AS n WHERE 0", [], |row| unsigned(row, "n")).unwrap(), None);
        assert!(matches!(some_row(0), Err(Fault::Missing)));
    }
}
