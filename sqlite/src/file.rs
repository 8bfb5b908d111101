//! Opening a file: is it ours, is it whole, do we know its schema; then migrate.
//!
//! Nothing is written before those questions are answered, so a file we refuse is left as it was.

use std::fs::{OpenOptions, Permissions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::Error;

/// First bytes of every SQLite 3 file (file format, §1.3.1).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Only backups and a second process of the same daemon hold the lock; both for moments.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Values of variables, hashes of credentials and sealed keys lie in these files.
const FILE_MODE: u32 = 0o600;

/// Opens or creates `path` (mode 0600, write-ahead log, `synchronous=FULL`, foreign keys, deleted values overwritten) and
/// brings it to the newest of `migrations`. Each runs once, in order, in a transaction of its own.
pub fn open(path: &Path, migrations: &[&str]) -> Result<Connection, Error> {
    open_file(path)?;
    let failed = |source| broken(path, source);
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    let found = check(&connection, path, migrations)?;
    prepare(&mut connection, found, migrations).map_err(failed)?;
    Ok(connection)
}

/// For queries beside a writer.
pub fn open_to_read(path: &Path) -> Result<Connection, Error> {
    let failed = |source| broken(path, source);
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    Ok(connection)
}

/// The schema's number, of a whole file that we know. Changes nothing: SQLite's own write at closing, the checkpoint, is
/// off until we know.
pub fn check(connection: &Connection, path: &Path, migrations: &[&str]) -> Result<u32, Error> {
    let failed = |source| broken(path, source);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(failed)?;
    if verdict != "ok" {
        return Err(Error::Unreadable { path: path.to_owned(), source: None });
    }
    let found = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let known = u32::try_from(migrations.len()).expect("a handful of migrations");
    if found > known { Err(Error::Newer { found, known }) } else { Ok(found) }
}

/// What an error of SQLite's means for the whole file.
pub fn broken(path: &Path, source: rusqlite::Error) -> Error {
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            Error::Unreadable { path: path.to_owned(), source: Some(source) }
        }
        _ => Error::Prepare { path: path.to_owned(), source },
    }
}

/// Creates the file, or makes sure that what is there may be a database.
fn open_file(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Open { path: path.to_owned(), source };
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).clone();
    let mut file = options.open(path).map_err(failed)?;
    let mut head = Vec::new();
    file.by_ref().take(16).read_to_end(&mut head).map_err(failed)?;
    if !head.is_empty() && head != MAGIC {
        return Err(Error::Unreadable { path: path.to_owned(), source: None });
    }
    file.set_permissions(Permissions::from_mode(FILE_MODE)).map_err(failed)
}

fn prepare(connection: &mut Connection, found: u32, migrations: &[&str]) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // What was answered must outlive a power cut: the other side forgets it then.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Env values that are deleted are overwritten, not only unlinked.
    connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
    for (migration, number) in migrations.iter().zip(1_u32..).filter(|(_, number)| *number > found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[&str] = &["CREATE TABLE a (n INTEGER) STRICT;"];
    const TWO: &[&str] = &["CREATE TABLE a (n INTEGER) STRICT;", "CREATE TABLE b (n INTEGER) STRICT;"];

    #[test]
    fn an_empty_file_becomes_ours_and_grows_with_its_schema() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.db");
        std::fs::write(&path, b"").unwrap();
        drop(open(&path, ONE).unwrap());
        drop(open(&path, ONE).unwrap());
        let connection = open(&path, TWO).unwrap();
        connection.execute_batch("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1);").unwrap();
        let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((pragma("user_version"), pragma("synchronous"), pragma("foreign_keys")), (2, 2, 1));
        assert_eq!(pragma("secure_delete"), 1);
        let journal: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(journal, "wal");
        for name in ["some.db", "some.db-wal"] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_newer_schema_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.db");
        drop(open(&path, TWO).unwrap());
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(&path, ONE), Err(Error::Newer { found: 2, known: 1 })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn what_is_no_database_is_refused_and_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.db");
        std::fs::write(&path, b"my shopping list").unwrap();
        assert!(matches!(open(&path, ONE), Err(Error::Unreadable { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"my shopping list");
    }

    #[test]
    fn damaged_pages_are_refused_and_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.db");
        drop(open(&path, TWO).unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().skip(4096).for_each(|byte| *byte = 0xa5);
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(open(&path, TWO), Err(Error::Unreadable { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_missing_folder_is_an_error_of_opening() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open(&dir.path().join("nowhere/some.db"), ONE), Err(Error::Open { .. })));
    }
}
