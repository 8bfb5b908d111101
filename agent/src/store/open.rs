//! Opening the file: is it ours, is it whole, do we know its schema; then migrate.
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
const MIGRATIONS: [&str; 4] = [
    include_str!("migrations/0001_state.sql"),
    include_str!("migrations/0002_restarts.sql"),
    include_str!("migrations/0003_user_ids.sql"),
    include_str!("migrations/0004_control.sql"),
];

/// First bytes of every SQLite 3 file (file format, §1.3.1).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Only backups and a second manager hold the lock; both for moments.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The file names every variable and holds their values.
const FILE_MODE: u32 = 0o600;

pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    open_file(path)?;
    let broken = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            Error::Unreadable { path: path.to_owned(), source: Some(source) }
        }
        _ => Error::Prepare { path: path.to_owned(), source },
    };
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(broken)?;
    let found = check(&connection).map_err(broken)?;
    let known = u32::try_from(MIGRATIONS.len()).expect("a handful of migrations");
    match found {
        None => return Err(Error::Unreadable { path: path.to_owned(), source: None }),
        Some(found) if found > known => return Err(Error::Newer { found, known }),
        Some(found) => prepare(&mut connection, found).map_err(broken)?,
    }
    Ok(connection)
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
fn check(connection: &Connection) -> Result<Option<u32>, rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let verdict: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if verdict != "ok" {
        return Ok(None);
    }
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).map(Some)
}

fn prepare(connection: &mut Connection, found: u32) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Env values that are deleted are overwritten, not only unlinked.
    connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
    for (migration, number) in MIGRATIONS.iter().zip(1_u32..).filter(|(_, number)| *number > found) {
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

    #[test]
    fn an_empty_file_becomes_ours_and_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agentd.db");
        std::fs::write(&path, b"").unwrap();
        let version = |connection: Connection| -> u32 {
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
        };
        assert_eq!(version(open(&path).unwrap()), 4);
        let connection = open(&path).unwrap();
        let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((pragma("synchronous"), pragma("foreign_keys")), (2, 1));
        let journal: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(journal, "wal");
        for name in ["agentd.db", "agentd.db-wal"] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_newer_schema_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agentd.db");
        open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(&path), Err(Error::Newer { found: 7, known: 4 })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn what_is_no_database_is_refused_and_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agentd.db");
        std::fs::write(&path, b"my shopping list").unwrap();
        assert!(matches!(open(&path), Err(Error::Unreadable { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"my shopping list");
    }

    #[test]
    fn damaged_pages_are_refused_and_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agentd.db");
        drop(open(&path).unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().skip(4096).for_each(|byte| *byte = 0xa5);
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(open(&path), Err(Error::Unreadable { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nowhere/agentd.db");
        assert!(matches!(open(&path), Err(Error::Open { .. })));
    }
}
