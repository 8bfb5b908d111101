//! A backup is one SQLite file: the precious database as of one moment, with a manifest in it. Secrets in it are sealed,
//! and the key is not part of it. The journal is not either: hosts say again how they are.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agentd_protocol::control::ids::{HostId, StackId};
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::Version;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::audit::{Entry, append};
use super::writer::reached;
use super::{CONTROL_FILE, Error, Store, open};
use crate::lifecycle;
use agentd_sqlite::{Fault, json, parsed, row, rows, signed, text, to_json, unsigned};

const MANIFEST: &str = "backup";
/// In `meta` of a database that was put back.
const RESTORED: &str = "restored";
/// Names that are listed; beyond them people look at the pages.
const ACTIVE_MAX: u32 = 200;

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    made_unix_ms: u64,
    /// Over the schema, and every row of every table.
    rows_sha256: Digest,
    /// [`Manifest::proven`], sealed under the key file: who does not have it makes none. Absent from earlier programs'.
    #[serde(default)]
    proof: Option<Vec<u8>>,
}

impl Manifest {
    /// What the proof is about.
    fn proven(&self) -> Digest {
        Digest::of(format!("controld backup of {} with {}", self.made_unix_ms, self.rows_sha256).as_bytes())
    }
}

/// Seals a digest under the key file.
pub type Prove = Box<dyn FnOnce(Digest) -> Result<Vec<u8>, crate::seal::Error> + Send>;

/// When the database was put back, and of when it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    pub at_unix_ms: u64,
    pub made_unix_ms: u64,
}

/// What a backup holds, once it has been found whole.
#[derive(Debug, Clone)]
pub struct Contents {
    pub made_unix_ms: u64,
    pub schema: u32,
    pub stacks: Vec<ContentsStack>,
    /// Hosts that are let in, the first few by stack and name.
    pub active: Vec<ContentsHost>,
    pub tokens_open: u64,
    pub audit_rows: u64,
    /// One sealed private key and what it was sealed for, to try a key file on.
    pub sample: Option<(StackId, Vec<u8>)>,
    /// What is in it, and the seal on that.
    pub proven: Digest,
    pub proof: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct ContentsStack {
    pub id: StackId,
    pub name: String,
    pub version: Version,
    pub hosts: u64,
}

#[derive(Debug, Clone)]
pub struct ContentsHost {
    pub id: HostId,
    pub name: String,
    pub stack: String,
}

impl Store {
    /// `None`: it never was.
    pub async fn restored(&self) -> Result<Option<Restored>, Error> {
        let query = |connection: &Connection| {
            row(connection, "SELECT value FROM meta WHERE key = ?1", [RESTORED], |row| json(row, "value"))
        };
        self.control_reads.read("read when it was restored", query).await
    }

    /// Writes a copy to `path`, which must not exist, and reads it back.
    pub async fn backup(&self, path: &Path, now: u64, prove: Prove) -> Result<Contents, Error> {
        let (from, to) = (self.control_path.clone(), path.to_owned());
        let work = move || copy(&from, &to, now, prove);
        lifecycle::spawn_blocking("backup", work).await.map_err(|_| Error::Stopped { operation: "make a backup" })?
    }
}

fn copy(from: &Path, to: &Path, now: u64, prove: Prove) -> Result<Contents, Error> {
    let failed = |source| agentd_sqlite::Error::Open { path: to.to_owned(), source };
    // The place must be free; and nobody else may read what comes there.
    drop(OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?);
    let copied = (|| {
        agentd_sqlite::open_to_read(from)?
            .execute("VACUUM INTO ?1", [to.to_string_lossy()])
            .map_err(|source| agentd_sqlite::broken(to, source))?;
        let connection = strip(to).map_err(|fault| fault.of("strip a backup"))?;
        let rows_sha256 = rows_digest(&connection).map_err(|fault| fault.of("read a backup"))?;
        let mut manifest = Manifest { made_unix_ms: now, rows_sha256, proof: None };
        manifest.proof = Some(prove(manifest.proven()).map_err(Error::Prove)?);
        put_manifest(&connection, &manifest).map_err(|fault| fault.of("write the manifest of a backup"))?;
        drop(connection);
        File::open(to).and_then(|file| file.sync_all()).map_err(failed)?;
        inspect(to)
    })();
    if copied.is_err() {
        // Half a backup is worse than none; the error itself is what matters.
        let _ = std::fs::remove_file(to);
    }
    copied
}

/// Who is logged in, and answers that may hold a join string, are of that day and of no use in another.
fn strip(path: &Path) -> Result<Connection, Fault> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // What goes is overwritten, not only unlinked.
    connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
    connection.execute_batch(FORGET)?;
    Ok(connection)
}

const FORGET: &str = "DELETE FROM sessions; DELETE FROM entry_links; DELETE FROM idempotency;";

fn put_manifest(connection: &Connection, manifest: &Manifest) -> Result<(), Fault> {
    let json = serde_json::to_string(manifest)?;
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", (MANIFEST, json))?;
    Ok(())
}

/// Reads a backup without changing it, every row of it.
pub fn inspect(path: &Path) -> Result<Contents, Error> {
    let connection = agentd_sqlite::open_to_read(path)?;
    let schema = agentd_sqlite::check(&connection, path, open::CONTROL)?;
    let operation = "read a backup";
    let json = row(&connection, "SELECT value FROM meta WHERE key = ?1", [MANIFEST], |row| text(row, "value"));
    let changed = || Error::Changed { path: path.to_owned() };
    let json = json.map_err(|fault| fault.of(operation))?.ok_or_else(changed)?;
    let manifest: Manifest = serde_json::from_str(&json).map_err(|_| changed())?;
    if rows_digest(&connection).map_err(|fault| fault.of(operation))? != manifest.rows_sha256 {
        return Err(changed());
    }
    Ok(contents(&connection, &manifest, schema).map_err(|fault| fault.of(operation))?)
}

fn contents(connection: &Connection, manifest: &Manifest, schema: u32) -> Result<Contents, Fault> {
    let sql = "SELECT id, name, last_version,
               (SELECT count(*) FROM hosts WHERE stack = stacks.id AND standing = 'active') AS hosts
               FROM stacks ORDER BY name";
    let stacks = rows(connection, sql, [], |row| {
        Ok(ContentsStack {
            id: parsed(row, "id")?,
            name: text(row, "name")?,
            version: Version(unsigned(row, "last_version")?),
            hosts: unsigned(row, "hosts")?,
        })
    })?;
    let sql = "SELECT h.id, h.name, s.name AS stack FROM hosts h JOIN stacks s ON s.id = h.stack
               WHERE h.standing = 'active' ORDER BY s.name, h.name, h.id LIMIT ?1";
    let active = rows(connection, sql, [ACTIVE_MAX], |row| {
        Ok(ContentsHost { id: parsed(row, "id")?, name: text(row, "name")?, stack: text(row, "stack")? })
    })?;
    let count = |sql: &str| -> Result<u64, Fault> {
        Ok(u64::try_from(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?)?)
    };
    let sample = row(connection, "SELECT stack, sealed FROM stack_keys WHERE role = 'version' LIMIT 1", [], |row| {
        Ok((parsed(row, "stack")?, row.get("sealed")?))
    })?;
    Ok(Contents {
        made_unix_ms: manifest.made_unix_ms,
        schema,
        stacks,
        active,
        tokens_open: count("SELECT count(*) FROM tokens WHERE used_by IS NULL AND revoked_at IS NULL")?,
        audit_rows: count("SELECT count(*) FROM audit")?,
        sample,
        proven: manifest.proven(),
        proof: manifest.proof.clone(),
    })
}

/// Puts a backup into a folder that has no database, with every open token revoked, since a use of one may be what was
/// lost, and nobody logged in. `accept` looks at the very bytes that are put there.
pub fn restore<E: From<Error>>(
    backup: &Path,
    dir: &Path,
    now: u64,
    accept: impl FnOnce(&Contents) -> Result<(), E>,
) -> Result<Contents, E> {
    let path = dir.join(CONTROL_FILE);
    let temp: PathBuf = dir.join(format!(".{CONTROL_FILE}.restore"));
    let failed = |source| Error::from(agentd_sqlite::Error::Open { path: path.clone(), source });
    // What SQLite left beside a database would be played into the one that is put there.
    let beside = |path: &Path, ending: &str| PathBuf::from(format!("{}{ending}", path.display()));
    if ["", "-wal", "-shm"].iter().any(|ending| beside(&path, ending).exists()) {
        return Err(failed(std::io::ErrorKind::AlreadyExists.into()).into());
    }
    for ending in ["", "-wal", "-shm"] {
        match std::fs::remove_file(beside(&temp, ending)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error).into()),
            Ok(()) | Err(_) => {}
        }
    }
    std::fs::copy(backup, &temp).map_err(failed)?;
    std::fs::set_permissions(&temp, Permissions::from_mode(0o600)).map_err(failed)?;
    let looked = inspect(&temp).map_err(E::from).and_then(|contents| accept(&contents).map(|()| contents));
    let contents = looked.inspect_err(|_| {
        // Nothing of what was refused stays; the refusal itself is what matters.
        let _ = std::fs::remove_file(&temp);
    })?;
    put_in_place(&temp, dir, &contents, now)?;
    Ok(contents)
}

fn put_in_place(temp: &Path, dir: &Path, contents: &Contents, now: u64) -> Result<(), Error> {
    let path = dir.join(CONTROL_FILE);
    let failed = |source| agentd_sqlite::Error::Open { path: path.clone(), source };
    let connection = open::open(temp, open::CONTROL)?;
    adapt(&connection, contents, now).map_err(|fault| fault.of("adapt a restored database"))?;
    connection
        .pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))
        .map_err(|source| agentd_sqlite::broken(temp, source))?;
    drop(connection);
    File::open(temp).and_then(|file| file.sync_all()).map_err(failed)?;
    reached("changed", "restore a backup");
    std::fs::rename(temp, &path).map_err(failed)?;
    reached("committed", "restore a backup");
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(())
}

fn adapt(connection: &Connection, contents: &Contents, now: u64) -> Result<(), Fault> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let sql = "UPDATE tokens SET revoked_at = ?1 WHERE used_by IS NULL AND revoked_at IS NULL";
    connection.execute(sql, [signed(now)])?;
    // Who was logged out since, or whose token was revoked, does not come in again. The password is that of then.
    connection.execute_batch(FORGET)?;
    connection.execute("UPDATE api_tokens SET revoked_at = ?1 WHERE revoked_at IS NULL", [signed(now)])?;
    connection.execute("DELETE FROM meta WHERE key = ?1", [MANIFEST])?;
    let restored = to_json(&Restored { at_unix_ms: now, made_unix_ms: contents.made_unix_ms });
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", (RESTORED, restored))?;
    let detail = serde_json::json!({"made_unix_ms": contents.made_unix_ms, "tokens_revoked": contents.tokens_open});
    let (actor, target) = ("controld restore".to_owned(), "database".to_owned());
    append(connection, &Entry { at_unix_ms: now, actor, action: "restore", target, detail, alarm: true })?;
    connection.execute_batch("COMMIT")?;
    Ok(())
}

fn rows_digest(connection: &Connection) -> Result<Digest, Fault> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    let mut hash = Sha256::new();
    // Triggers and views too: one that is slipped in would act later.
    let schema = "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name";
    let mut select = connection.prepare(schema)?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        (0..4).try_for_each(|column| row.get_ref(column).map(|value| add_value(&mut hash, value)))?;
    }
    add_value(&mut hash, ValueRef::Integer(connection.pragma_query_value(None, "user_version", |row| row.get(0))?));
    for table in rows(connection, sql, [], |row| text(row, "name"))? {
        let filter = if table == "meta" { format!("WHERE key <> '{MANIFEST}'") } else { String::new() };
        let columns = connection.prepare(&format!("SELECT * FROM \"{table}\""))?.column_count();
        let order: Vec<String> = (1..=columns).map(|column| column.to_string()).collect();
        let mut select =
            connection.prepare(&format!("SELECT * FROM \"{table}\" {filter} ORDER BY {}", order.join(", ")))?;
        let mut found = select.query([])?;
        hash.update(table.as_bytes());
        while let Some(row) = found.next()? {
            for column in 0..columns {
                add_value(&mut hash, row.get_ref(column)?);
            }
        }
    }
    Ok(Digest::from_bytes(hash.finalize().into()))
}

/// With its type and length, so that no two rows run into each other.
fn add_value(hash: &mut Sha256, value: ValueRef<'_>) {
    let (kind, bytes): (u8, Vec<u8>) = match value {
        ValueRef::Null => (0, Vec::new()),
        ValueRef::Integer(number) => (1, number.to_be_bytes().to_vec()),
        ValueRef::Real(number) => (2, number.to_be_bytes().to_vec()),
        ValueRef::Text(text) => (3, text.to_vec()),
        ValueRef::Blob(bytes) => (4, bytes.to_vec()),
    };
    hash.update([kind]);
    hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(&bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands for the sealing: what was proven is what comes out again.
    fn prove() -> Prove {
        Box::new(|proven| Ok(proven.as_bytes().to_vec()))
    }

    fn is_proven(contents: &Contents) -> bool {
        contents.proof.as_deref() == Some(contents.proven.as_bytes().as_slice())
    }

    #[tokio::test]
    async fn a_manifest_that_was_made_anew_has_no_proof() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for (name, forgery) in [
            ("row", "INSERT INTO meta VALUES ('a', 'b')"),
            ("trigger", "CREATE TRIGGER t AFTER INSERT ON tokens BEGIN UPDATE hosts SET standing = 'active'; END"),
        ] {
            let file = dir.path().join(name);
            assert!(is_proven(&store.backup(&file, 7, prove()).await.unwrap()));
            let connection = Connection::open(&file).unwrap();
            connection.execute_batch(forgery).unwrap();
            assert!(matches!(inspect(&file), Err(Error::Changed { .. })), "{name}");
            let sql = "SELECT value FROM meta WHERE key = ?1";
            let json: String = connection.query_row(sql, [MANIFEST], |row| row.get(0)).unwrap();
            let mut manifest: Manifest = serde_json::from_str(&json).unwrap();
            manifest.rows_sha256 = rows_digest(&connection).unwrap();
            put_manifest(&connection, &manifest).unwrap();
            drop(connection);
            assert!(!is_proven(&inspect(&file).unwrap()), "{name}");
        }
    }

    #[tokio::test]
    async fn who_is_logged_in_and_what_was_answered_is_in_no_backup() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let secret = b"a-sealed-answer-that-nobody-needs".to_vec();
        let kept = secret.clone();
        let fill = move |connection: &Connection| {
            connection.execute("INSERT INTO idempotency VALUES ('k', 'r', ?1, 1)", [kept])?;
            connection.execute_batch(
                "INSERT INTO users VALUES ('u', 'martha', 'hash', 1, 1);
                 INSERT INTO sessions VALUES (x'01', 'u', 1, 1, '192.0.2.77', 'a-browser');
                 INSERT INTO entry_links VALUES (x'02', 1, 1);",
            )?;
            Ok(())
        };
        store.control.write("fill", fill).await.unwrap();
        let file = dir.path().join("b.db");
        store.backup(&file, 7, prove()).await.unwrap();
        let bytes = std::fs::read(&file).unwrap();
        for gone in [secret.as_slice(), b"192.0.2.77", b"a-browser"] {
            assert!(!bytes.windows(gone.len()).any(|window| window == gone), "{}", String::from_utf8_lossy(gone));
        }
        assert!(bytes.windows(6).any(|window| window == b"martha"));
    }
}
