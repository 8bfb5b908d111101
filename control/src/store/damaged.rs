//! A journal that cannot be read stops nobody: it is put aside, for whoever wants to look, and a new one begins. Hosts say
//! again how they are, and their holes show as lost events. The precious database is never treated so.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::writer::Writer;
use super::{Error, open};
use crate::clock;

/// Damaged journals kept; older ones go, since each may be as large as the disk allows.
const KEPT: usize = 3;

/// A damaged file, where it is now, and why.
#[derive(Debug, Clone)]
pub struct SetAside {
    pub path: PathBuf,
    pub why: String,
}

pub(super) fn open_journal(path: &Path) -> Result<(Writer, Option<SetAside>), Error> {
    let open = || Writer::open(path, open::JOURNAL, "journal store");
    match open() {
        Ok(writer) => Ok((writer, None)),
        Err(error @ Error::Unreadable { .. }) => {
            let why = agentd_sys::causes::chain(&error);
            let to = set_aside(path, clock::now_unix_ms())
                .map_err(|source| agentd_sqlite::Error::Open { path: path.to_owned(), source })?;
            begin(path)?;
            Ok((open()?, Some(SetAside { path: to, why })))
        }
        Err(other) => Err(other),
    }
}

/// With what SQLite left beside it, which would be played into the new one.
fn set_aside(path: &Path, now: u64) -> Result<PathBuf, std::io::Error> {
    let with = |path: &Path, ending: &str| PathBuf::from(format!("{}{ending}", path.display()));
    let to = with(path, &format!(".damaged-{}", now / 1_000));
    for ending in ["-wal", "-shm", ""] {
        match std::fs::rename(with(path, ending), with(&to, ending)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    forget_old(path);
    Ok(to)
}

fn forget_old(path: &Path) {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return };
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let prefix = format!("{name}.damaged-");
    let is_main = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit());
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut times: Vec<String> =
        names.filter_map(|name| name.strip_prefix(&prefix).filter(|rest| is_main(rest)).map(str::to_owned)).collect();
    times.sort();
    times.truncate(times.len().saturating_sub(KEPT));
    for time in times {
        for ending in ["", "-wal", "-shm"] {
            if let Err(error) = std::fs::remove_file(dir.join(format!("{prefix}{time}{ending}")))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "an old damaged journal stays");
            }
        }
    }
}

/// Ids of events go on above all that were ever given: who has read up to one would wait for ever otherwise.
fn begin(path: &Path) -> Result<(), Error> {
    let connection: Connection = open::open(path, open::JOURNAL)?;
    let next = i64::try_from(clock::now_unix_ms()).unwrap_or(i64::MAX);
    connection
        .execute("INSERT INTO sqlite_sequence VALUES ('events', ?1)", [next])
        .map_err(|source| agentd_sqlite::broken(path, source))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn filled(path: &Path) {
        let connection = open::open(path, open::JOURNAL).unwrap();
        let sql = "INSERT INTO events (stack, host, eid, received, severity, kind, service, body)
                   VALUES ('stk_a', 'hst_a', ?1, 7, 0, 'run.started', NULL, ?2)";
        for number in 0..200 {
            connection.execute(sql, (format!("e{number}"), "x".repeat(1_000))).unwrap();
        }
        connection.pragma_update_and_check(None, "wal_checkpoint", "truncate", |_| Ok(())).unwrap();
    }

    #[test]
    fn what_is_damaged_is_kept_beside_a_new_one() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 4] = [
            ("no database", |path| std::fs::write(path, b"my shopping list").unwrap()),
            ("header", |path| {
                std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0xff; 80], 16).unwrap();
            }),
            ("page", |path| {
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                let pages = file.metadata().unwrap().len() / 4_096;
                for page in 2..pages {
                    file.write_all_at(&[0xa5; 512], page * 4_096).unwrap();
                }
            }),
            ("truncated", |path| {
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }),
        ];
        for (name, damage) in damages {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal.db");
            filled(&path);
            damage(&path);
            let bytes = std::fs::read(&path).unwrap();
            let (_, aside) = open_journal(&path).unwrap_or_else(|error| panic!("{name}: {error:?}"));
            let aside = aside.unwrap_or_else(|| panic!("{name} was not seen"));
            assert_eq!(std::fs::read(&aside.path).unwrap(), bytes, "{name}: kept as it was");
            let (_, again) = open_journal(&path).unwrap();
            assert!(again.is_none(), "{name}: the new one is whole");
            let connection = agentd_sqlite::open_to_read(&path).unwrap();
            let ids = "SELECT seq FROM sqlite_sequence WHERE name = 'events'";
            assert!(connection.query_row(ids, [], |row| row.get::<_, i64>(0)).unwrap() > 1_700_000_000_000);
        }
    }

    #[test]
    fn damaged_ones_do_not_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        for time in 1..=5_u64 {
            std::fs::write(&path, b"none").unwrap();
            set_aside(&path, (1_000 + time) * 1_000).unwrap();
        }
        let mut names: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["journal.db.damaged-1003", "journal.db.damaged-1004", "journal.db.damaged-1005"]);
    }

    #[test]
    fn a_journal_of_a_newer_program_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        open::open(&path, open::JOURNAL).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(open_journal(&path), Err(Error::Sqlite(agentd_sqlite::Error::Newer { .. }))));
    }
}
