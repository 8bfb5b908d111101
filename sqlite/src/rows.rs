//! Between columns and types.

use rusqlite::{Connection, Params, Row};

/// Every row of a query; `read` may fail on more than SQL.
pub fn rows<T, E: From<rusqlite::Error>>(
    connection: &Connection,
    query: &str,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, E>,
) -> Result<Vec<T>, E> {
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The first row of a query.
pub fn row<T, E: From<rusqlite::Error>>(
    connection: &Connection,
    query: &str,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, E>,
) -> Result<Option<T>, E> {
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// SQLite's integers are signed; ours count up from zero. What another machine says may be larger: it is the largest then.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A column of ours that counts up from zero.
pub fn unsigned(row: &Row<'_>, column: &str) -> Result<u64, rusqlite::Error> {
    let number = row.get(column)?;
    u64::try_from(number).or_else(|_| Err(out_of_range(row, column, number)))
}

/// The same, where there may be none.
pub fn unsigned_or_null(row: &Row<'_>, column: &str) -> Result<Option<u64>, rusqlite::Error> {
    let Some(number) = row.get::<_, Option<i64>>(column)? else { return Ok(None) };
    u64::try_from(number).map(Some).or_else(|_| Err(out_of_range(row, column, number)))
}

fn out_of_range(row: &Row<'_>, column: &str, number: i64) -> rusqlite::Error {
    match row.as_ref().column_index(column) {
        Ok(index) => rusqlite::Error::IntegralValueOutOfRange(index, number),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(sql: &str) -> Result<Vec<Option<u64>>, rusqlite::Error> {
        let connection = Connection::open_in_memory().unwrap();
        rows(&connection, sql, [], |row| unsigned_or_null(row, "n"))
    }

    #[test]
    fn numbers_below_zero_are_out_of_range_with_their_column() {
        assert_eq!(number("SELECT 7 AS n UNION ALL SELECT NULL").unwrap(), [Some(7), None]);
        let error = number("SELECT 'x' AS m, -1 AS n").unwrap_err();
        assert_eq!(error, rusqlite::Error::IntegralValueOutOfRange(1, -1));
        let connection = Connection::open_in_memory().unwrap();
        let first: Option<u64> = row(&connection, "SELECT 3 AS n", [], |row| unsigned(row, "n")).unwrap();
        assert_eq!(first, Some(3));
        let none: Option<u64> = row(&connection, "SELECT 3 AS n WHERE 0", [], |row| unsigned(row, "n")).unwrap();
        assert_eq!(none, None);
    }

    #[test]
    fn what_is_too_large_is_the_largest() {
        assert_eq!((signed(0), signed(u64::MAX)), (0, i64::MAX));
    }
}
