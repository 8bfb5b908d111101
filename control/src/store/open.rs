//! Opening the files: is it ours, is it whole, do we know its schema; then migrate.
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

/// Each runs once, in order, in a transaction of its own. A released file never changes; a new one is added.
pub(super) const CONTROL: &[&str] =
    &[include_str!("migrations/control/0001_stacks.sql"), include_str!("migrations/control/0002_accounts.sql")];
pub(super) const JOURNAL: &[&str] =
    &[include_str!("migrations/journal/0001_journal.sql"), include_str!("migrations/journal/0002_volumes.sql")];

/// First bytes of every SQLite 3 file (file format, §1.3.1).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Only backups hold the lock; for moments.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const FILE_MODE: u32 = 0o600;

/// Test switch: the file may not grow beyond so many pages, as if the disk were full.
const PAGES_MAX_ENV: &str = "CONTROLD_TEST_PAGES_MAX";

pub(super) fn open(path: &Path, migrations: &[&str]) -> Result<Connection, Error> {
    open_file(path)?;
    let broken = |source: rusqlite::Error| broken(path, source);
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(broken)?;
    match check(&connection).map_err(broken)? {
        None => return Err(Error::Unreadable { path: path.to_owned(), source: None }),
        Some(found) => {
            refuse_newer(found, migrations)?;
            prepare(&mut connection, found, migrations).map_err(broken)?;
        }
    }
    Ok(connection)
}

/// For queries beside the writer.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, Error> {
    let broken = |source: rusqlite::Error| broken(path, source);
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(broken)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(broken)?;
    Ok(connection)
}

pub(super) fn refuse_newer(found: u32, migrations: &[&str]) -> Result<(), Error> {
    let known = u32::try_from(migrations.len()).expect("a handful of migrations");
    if found > known { Err(Error::Newer { found, known }) } else { Ok(()) }
}

pub(super) fn broken(path: &Path, source: rusqlite::Error) -> Error {
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

/// The schema's number, or `None` when the content is damaged. Changes nothing: SQLite's own write at closing, the
/// checkpoint, is off until we know.
pub(super) fn check(connection: &Connection) -> Result<Option<u32>, rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if verdict != "ok" {
        return Ok(None);
    }
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).map(Some)
}

fn prepare(connection: &mut Connection, found: u32, migrations: &[&str]) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // Also in the journal: an answer of 200 lets the host forget its events, so they must outlive a power cut. Many
    // hosts share one commit.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
    for (migration, number) in migrations.iter().zip(1_u32..).filter(|(_, number)| *number > found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    if let Some(pages) = std::env::var(PAGES_MAX_ENV).ok().and_then(|text| text.parse::<u32>().ok()) {
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_becomes_ours_and_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.db");
        let version = |connection: Connection| -> u32 {
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
        };
        assert_eq!(version(open(&path, CONTROL).unwrap()), u32::try_from(CONTROL.len()).unwrap());
        let connection = open(&path, CONTROL).unwrap();
        let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((pragma("synchronous"), pragma("foreign_keys")), (2, 1));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_newer_schema_and_what_is_none_are_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.db");
        open(&path, CONTROL).unwrap().pragma_update(None, "user_version", 77).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(&path, CONTROL), Err(Error::Newer { found: 77, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::write(&path, b"my shopping list").unwrap();
        assert!(matches!(open(&path, CONTROL), Err(Error::Unreadable { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"my shopping list");
    }

    #[test]
    fn the_audit_can_only_grow() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open(&dir.path().join("control.db"), CONTROL).unwrap();
        connection.execute("INSERT INTO audit VALUES (1, 0, 'a', 'b', 'c', '{}', 0)", []).unwrap();
        assert!(connection.execute("UPDATE audit SET actor = 'x'", []).is_err());
        assert!(connection.execute("DELETE FROM audit", []).is_err());
    }
}
