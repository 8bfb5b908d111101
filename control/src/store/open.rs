//! The schemas of the two files, and a disk that the tests may fill.

use std::path::Path;

use rusqlite::Connection;

use super::Error;

/// Each runs once, in order, in a transaction of its own. A released file never changes; a new one is added.
pub(super) const CONTROL: &[&str] =
    &[include_str!("migrations/control/0001_stacks.sql"), include_str!("migrations/control/0002_accounts.sql")];
pub(super) const JOURNAL: &[&str] = &[
    include_str!("migrations/journal/0001_journal.sql"),
    include_str!("migrations/journal/0002_volumes.sql"),
    include_str!("migrations/journal/0003_streams.sql"),
];

/// Test switch: the file may not grow beyond so many pages, as if the disk were full.
const PAGES_MAX_ENV: &str = "CONTROLD_TEST_PAGES_MAX";

pub(super) fn open(path: &Path, migrations: &[&str]) -> Result<Connection, Error> {
    let connection = agentd_sqlite::open(path, migrations)?;
    if let Some(pages) = std::env::var(PAGES_MAX_ENV).ok().and_then(|text| text.parse::<u32>().ok()) {
        connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .map_err(|source| agentd_sqlite::broken(path, source))?;
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_can_only_grow() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open(&dir.path().join("control.db"), CONTROL).unwrap();
        connection.execute("INSERT INTO audit VALUES (1, 0, 'a', 'b', 'c', '{}', 0)", []).unwrap();
        assert!(connection.execute("UPDATE audit SET actor = 'x'", []).is_err());
        assert!(connection.execute("DELETE FROM audit", []).is_err());
    }
}
