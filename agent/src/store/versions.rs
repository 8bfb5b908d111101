//! Versions of the stack's document and their env objects.

use std::collections::BTreeMap;

use agentd_protocol::ids::{ServiceName, Version};
use agentd_protocol::stack::Stack;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::convert::{now_unix_ms, plain};
use agentd_protocol::published::{Published, join_stack, split_stack};
use agentd_sqlite::{Fault, parsed, rows, signed, some_row, unsigned, unsigned_or_null};

use super::{Digest, Error, Store};

/// A document has up to 4 MiB, and what is older than this helps nobody; the one last applied stays in any case.
pub const VERSIONS_KEPT: u32 = 50;

/// Branch or tag each service's commit was resolved from; a service given by commit is not in it.
pub type Refs = BTreeMap<ServiceName, String>;

/// Whether publishing made a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    New(Version),
    /// The newest version has the same content.
    Unchanged(Version),
}

#[derive(Clone, PartialEq, Eq)]
pub struct StoredVersion {
    /// Joinings and leavings before it: numbers count anew after each.
    pub era: u64,
    /// Of the era that runs; else it is what stays in force until that has one.
    pub is_current: bool,
    pub version: Version,
    /// Of the document's exact bytes.
    pub sha256: Digest,
    /// With the env values joined back.
    pub stack: Stack,
    pub refs: Refs,
    pub received_unix_ms: u64,
    /// In full, at some time.
    pub applied: bool,
}

// By hand: the stack holds env values.
impl std::fmt::Debug for StoredVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredVersion")
            .field("version", &self.version)
            .field("sha256", &self.sha256)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

/// The era that runs, as SQL.
pub(super) const ERA: &str = "(SELECT coalesce(max(value), 0) FROM meta WHERE key = 'era')";
const SELECT: &str = "SELECT era, era = (SELECT coalesce(max(value), 0) FROM meta WHERE key = 'era') AS is_current, \
                      number, versions.sha256, document, env.json AS env, refs, received_at, applied_at \
                      FROM versions JOIN env_objects env ON env.sha256 = env_sha256";

impl Store {
    /// Stores the published form of `stack` as the next version, unless it equals the newest one. Every service in it
    /// is known from then on, and no longer counts as removed.
    pub async fn put_version(&self, stack: &Stack, refs: &Refs) -> Result<Put, Error> {
        let parts = split_stack(stack);
        let name = stack.stack.name.clone();
        let services: Vec<ServiceName> = stack.service.iter().map(|service| service.name.clone()).collect();
        let refs = serde_json::to_string(refs).expect("a map of texts is JSON");
        self.write("store a version", move |transaction| {
            let sha256 = Digest::of(parts.document.as_bytes());
            let newest: Option<(i64, String)> = transaction
                .query_row(
                    &format!("SELECT number, sha256 FROM versions WHERE era = {ERA} ORDER BY number DESC LIMIT 1"),
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            let number = match newest {
                Some((number, stored)) if stored == sha256.to_string() => {
                    transaction.execute(
                        &format!("UPDATE versions SET refs = ?2 WHERE number = ?1 AND era = {ERA}"),
                        params![number, refs],
                    )?;
                    return Ok(Put::Unchanged(Version(u64::try_from(number)?)));
                }
                Some((number, _)) => number + 1,
                None => 1,
            };
            let new = NewVersion {
                number,
                sha256,
                stack: &name,
                parts: &parts,
                refs: &refs,
                source: "file",
                services: &services,
            };
            insert(transaction, &new)?;
            Ok(Put::New(Version(u64::try_from(number)?)))
        })
        .await
    }

    /// Of the era that runs.
    pub async fn version(&self, version: Version) -> Result<Option<StoredVersion>, Error> {
        self.read("read a version", move |connection| {
            find(connection, &format!("{SELECT} WHERE era = {ERA} AND number = {}", signed(version.0)))
        })
        .await
    }

    /// The stack of this era, where a file on this host says what it is.
    pub async fn stack_of_file(&self) -> Result<Option<ServiceName>, Error> {
        self.read("read whose stack it is", |connection| {
            let query = format!(
                "SELECT stack FROM versions WHERE era = {ERA} AND source = 'file' ORDER BY number DESC LIMIT 1"
            );
            Ok(rows(connection, &query, [], |row| parsed(row, "stack"))?.pop())
        })
        .await
    }

    /// Of the era that runs, or, while that has none, the last of before: what is in force stays so.
    pub async fn latest_version(&self) -> Result<Option<StoredVersion>, Error> {
        self.read("read the newest version", |connection| {
            find(connection, &format!("{SELECT} ORDER BY era DESC, number DESC LIMIT 1"))
        })
        .await
    }

    /// The newest version of the era that runs that was applied in full.
    pub async fn last_applied(&self) -> Result<Option<StoredVersion>, Error> {
        self.read("read the applied version", |connection| {
            let query = format!("{SELECT} WHERE era = {ERA} AND applied_at IS NOT NULL ORDER BY number DESC LIMIT 1");
            find(connection, &query)
        })
        .await
    }

    /// Every variable and value of every version and release there is; for masking.
    pub async fn env_values(&self) -> Result<Vec<(String, String)>, Error> {
        self.read("read the values of variables", |connection| {
            let objects: Vec<String> = rows(connection, "SELECT json FROM env_objects", [], |row| plain(row, "json"))?;
            let mut values = Vec::new();
            for object in objects {
                collect(serde_json::from_str(&object)?, &mut values);
            }
            Ok(values)
        })
        .await
    }

    pub async fn mark_applied(&self, version: Version) -> Result<(), Error> {
        self.write("mark a version as applied", move |transaction| {
            some_row(transaction.execute(
                "UPDATE versions SET applied_at = coalesce(applied_at, ?2), verdict = 'applied' \
                 WHERE number = ?1 AND era = (SELECT max(era) FROM versions)",
                params![signed(version.0), now_unix_ms()],
            )?)
        })
        .await
    }
}

/// A release's object maps names to values, a version's maps services to such objects.
fn collect(object: BTreeMap<String, serde_json::Value>, values: &mut Vec<(String, String)>) {
    for (name, value) in object {
        match value {
            serde_json::Value::String(value) => values.push((name, value)),
            serde_json::Value::Object(inner) => collect(inner.into_iter().collect(), values),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::Array(_) => {}
        }
    }
}

/// Stores an env object under its digest; the same object twice is stored once.
pub(super) fn put_env(transaction: &Transaction<'_>, json: &str) -> Result<Digest, Fault> {
    let sha256 = Digest::of(json.as_bytes());
    transaction.execute(
        "INSERT INTO env_objects (sha256, json) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![sha256.to_string(), json],
    )?;
    Ok(sha256)
}

/// Secrets go when the last version or release that used them goes.
pub(super) fn drop_unused_env(transaction: &Transaction<'_>) -> Result<(), Fault> {
    transaction.execute(
        "DELETE FROM env_objects WHERE NOT EXISTS (SELECT 1 FROM versions WHERE env_sha256 = env_objects.sha256) \
         AND NOT EXISTS (SELECT 1 FROM releases WHERE env_sha256 = env_objects.sha256)",
        [],
    )?;
    Ok(())
}

pub(super) fn know_services(transaction: &Transaction<'_>, services: &[ServiceName]) -> Result<(), Fault> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO services (name, first_seen) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET removed_at = NULL \
         WHERE removed_at IS NOT NULL",
    )?;
    for service in services {
        statement.execute(params![service.as_str(), now_unix_ms()])?;
    }
    Ok(())
}

/// What a row of a version is made of.
pub(super) struct NewVersion<'a> {
    pub(super) number: i64,
    pub(super) sha256: Digest,
    pub(super) stack: &'a ServiceName,
    pub(super) parts: &'a Published,
    pub(super) refs: &'a str,
    pub(super) source: &'static str,
    pub(super) services: &'a [ServiceName],
}

/// Into the era that runs; takes the place of the same number.
pub(super) fn insert(transaction: &Transaction<'_>, new: &NewVersion<'_>) -> Result<(), Fault> {
    let env_sha256 = put_env(transaction, &new.parts.env)?;
    transaction.execute(
        &format!(
            "INSERT OR REPLACE INTO versions (era, number, stack, sha256, document, env_sha256, refs, source, received_at) \
             VALUES ({ERA}, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
        ),
        params![
            new.number,
            new.stack.as_str(),
            new.sha256.to_string(),
            new.parts.document,
            env_sha256.to_string(),
            new.refs,
            new.source,
            now_unix_ms()
        ],
    )?;
    know_services(transaction, new.services)?;
    drop_old(transaction, new.number)
}

/// Old ones of this era, and all of earlier ones: what is in force is of this one from now on.
fn drop_old(transaction: &Transaction<'_>, newest: i64) -> Result<(), Fault> {
    let dropped = transaction.execute(
        &format!(
            "DELETE FROM versions WHERE era < {ERA} OR (number <= ?1 AND number <> coalesce((SELECT max(number) \
             FROM versions WHERE era = {ERA} AND applied_at IS NOT NULL), 0))"
        ),
        [newest - i64::from(VERSIONS_KEPT)],
    )?;
    if dropped > 0 { drop_unused_env(transaction) } else { Ok(()) }
}

fn find(connection: &Connection, query: &str) -> Result<Option<StoredVersion>, Fault> {
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query([])?;
    rows.next()?.map(read).transpose()
}

fn read(row: &Row<'_>) -> Result<StoredVersion, Fault> {
    let (document, env, refs): (String, String, String) =
        (plain(row, "document")?, plain(row, "env")?, plain(row, "refs")?);
    Ok(StoredVersion {
        era: unsigned(row, "era")?,
        is_current: plain(row, "is_current")?,
        version: Version(unsigned(row, "number")?),
        sha256: parsed(row, "sha256")?,
        stack: join_stack(&document, &env)?,
        refs: serde_json::from_str(&refs)?,
        received_unix_ms: unsigned(row, "received_at")?,
        applied: unsigned_or_null(row, "applied_at")?.is_some(),
    })
}
