//! A journal that cannot be read stops nobody: it is put aside, for whoever wants to look, and a new one begins. Hosts say
//! again how they are, and their holes show as lost events. The precious database is never treated so.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::writer::{Writer, reached};
use super::{Error, JOURNAL_FILE, Store, open};
use crate::clock;
use agentd_sqlite::rows;

/// Damaged journals kept; older ones go, since each may be as large as the disk allows.
const KEPT: usize = 3;
/// The new journal until the damaged one has given way: who finds it without a journal was killed in between.
const NEW: &str = ".new";
const OPERATION: &str = "put the journal aside";

/// A damaged file, where it is now, and why.
#[derive(Debug, Clone)]
pub struct SetAside {
    pub path: PathBuf,
    pub why: String,
}

impl Store {
    /// Damaged journals that the audit has no row of: that of this start, and of those that were killed before they told.
    pub async fn untold_damage(&self) -> Result<Vec<SetAside>, Error> {
        let journal = self.control_path.with_file_name(JOURNAL_FILE);
        let mut found: Vec<PathBuf> = times(&journal).into_iter().map(|time| damaged(&journal, time)).collect();
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let query = |connection: &Connection| {
            let sql = "SELECT json_extract(detail, '$.kept_as') FROM audit WHERE action = 'journal.damaged'";
            rows(connection, sql, [], |row| Ok(row.get::<_, Option<String>>(0)?))
        };
        let told: Vec<PathBuf> =
            self.control_reads.read("read the audit", query).await?.into_iter().flatten().map(PathBuf::from).collect();
        // By its name alone: the folder may have been moved.
        found.retain(|path| !told.iter().any(|told| told.file_name() == path.file_name()));
        let own = self.set_aside.as_ref();
        let why = |path: &Path| match own.filter(|own| own.path == path) {
            Some(own) => own.why.clone(),
            None => "found by an earlier start, which ended before it could say why".to_owned(),
        };
        Ok(found.into_iter().map(|path| SetAside { why: why(&path), path }).collect())
    }
}

pub(super) fn open_journal(path: &Path) -> Result<(Writer, Option<SetAside>), Error> {
    let open = || Writer::open(path, open::JOURNAL, "journal store");
    let failed = |source| agentd_sqlite::Error::Open { path: path.to_owned(), source };
    if !path.exists() && beside(path, NEW).exists() {
        put_in_place(path).map_err(failed)?;
    }
    match open() {
        Ok(writer) => Ok((writer, None)),
        Err(error @ Error::Unreadable { .. }) => {
            let why = agentd_sys::causes::chain(&error);
            begin(&beside(path, NEW))?;
            let to = set_aside(path, clock::now_unix_ms()).map_err(failed)?;
            put_in_place(path).map_err(failed)?;
            reached("committed", OPERATION);
            Ok((open()?, Some(SetAside { path: to, why })))
        }
        Err(other) => Err(other),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", path.display()))
}

fn damaged(path: &Path, time: u64) -> PathBuf {
    beside(path, &format!(".damaged-{time}"))
}

/// The file itself first: without it there is no journal, and the next start goes on from here.
fn set_aside(path: &Path, now: u64) -> Result<PathBuf, std::io::Error> {
    let mut time = now / 1_000;
    while damaged(path, time).exists() {
        time += 1;
    }
    std::fs::rename(path, damaged(path, time))?;
    reached("changed", OPERATION);
    forget_old(path);
    Ok(damaged(path, time))
}

/// What SQLite left beside the damaged one goes with it: it would be played into the new one.
fn put_in_place(path: &Path) -> Result<(), std::io::Error> {
    for ending in ["-wal", "-shm"] {
        let to = times(path).last().map(|time| beside(&damaged(path, *time), ending));
        let moved = match to {
            Some(to) => std::fs::rename(beside(path, ending), to),
            None => std::fs::remove_file(beside(path, ending)),
        };
        gone(moved)?;
    }
    std::fs::rename(beside(path, NEW), path)?;
    sync_folder(path)
}

/// What is not there need not go.
fn gone(done: Result<(), std::io::Error>) -> Result<(), std::io::Error> {
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_folder(path: &Path) -> Result<(), std::io::Error> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// When journals were put aside, oldest first.
fn times(path: &Path) -> Vec<u64> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let prefix = format!("{name}.damaged-");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut times: Vec<u64> = names.filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect();
    times.sort_unstable();
    times
}

fn forget_old(path: &Path) {
    let times = times(path);
    for time in &times[..times.len().saturating_sub(KEPT)] {
        for ending in ["", "-wal", "-shm"] {
            if let Err(error) = gone(std::fs::remove_file(beside(&damaged(path, *time), ending))) {
                tracing::warn!(%error, "an old damaged journal stays");
            }
        }
    }
}

/// Whole, in one file, and on disk when this returns. Ids of events go on above all that were ever given: who has read up
/// to one would wait for ever otherwise.
fn begin(path: &Path) -> Result<(), Error> {
    let failed = |source| agentd_sqlite::Error::Open { path: path.to_owned(), source };
    for ending in ["", "-wal", "-shm"] {
        gone(std::fs::remove_file(beside(path, ending))).map_err(failed)?;
    }
    let connection: Connection = open::open(path, open::JOURNAL)?;
    let next = i64::try_from(clock::now_unix_ms()).unwrap_or(i64::MAX);
    let filled = connection
        .execute("INSERT INTO sqlite_sequence VALUES ('events', ?1)", [next])
        .and_then(|_| connection.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(())));
    filled.map_err(|source| agentd_sqlite::broken(path, source))?;
    drop(connection);
    File::open(path).and_then(|file| file.sync_all()).map_err(failed)?;
    Ok(sync_folder(path).map_err(failed)?)
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
    fn what_lies_beside_it_goes_with_it_also_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        std::fs::write(&path, b"none").unwrap();
        std::fs::write(beside(&path, "-wal"), b"log").unwrap();
        begin(&beside(&path, NEW)).unwrap();
        let to = set_aside(&path, 1_000_000).unwrap();
        // Here the first start ended.
        let (writer, aside) = open_journal(&path).unwrap();
        assert!(aside.is_none());
        drop(writer);
        assert_eq!(std::fs::read(beside(&to, "-wal")).unwrap(), b"log");
        assert!(!beside(&path, NEW).exists());
        let connection = agentd_sqlite::open_to_read(&path).unwrap();
        let ids = "SELECT seq FROM sqlite_sequence WHERE name = 'events'";
        assert!(connection.query_row(ids, [], |row| row.get::<_, i64>(0)).unwrap() > 1_700_000_000_000);
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
