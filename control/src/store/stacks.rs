//! Stacks, their keys and roots.

use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::key::PublicKey;
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::Version;
use rusqlite::{Connection, Row};

use super::audit::{Entry, append};
use super::{Error, Store};
use agentd_sqlite::{Fault, StoredValue, parsed, rows, signed, some_row, text, unsigned, unsigned_or_null};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Root,
    Version,
    Fresh,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Root, Self::Version, Self::Fresh];

    pub fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Version => "version",
            Self::Fresh => "fresh",
        }
    }
}

#[derive(Debug, Clone)]
pub struct StoredKey {
    pub role: Role,
    pub public: PublicKey,
    pub sealed: Vec<u8>,
}

#[derive(Debug)]
pub struct NewStackRow {
    pub id: StackId,
    pub name: String,
    pub environment: String,
    pub poll_s: u64,
    pub keys: Vec<StoredKey>,
    /// Of root 1.
    pub root_payload: Digest,
    pub root_envelope: String,
    pub created_at: u64,
}

#[derive(Debug, Clone)]
pub struct StoredStack {
    pub id: StackId,
    pub name: String,
    pub environment: String,
    pub epoch: u64,
    pub root_number: u64,
    pub last_version: Version,
    pub poll_s: u64,
    pub held: bool,
    /// Exact bytes; `None`: nothing was published.
    pub head: Option<String>,
    pub fresh_issued: Option<u64>,
    pub fresh_until: Option<u64>,
    pub created_at: u64,
    /// Grows with every change of the head, whatever the clock does.
    pub head_revision: u64,
}

/// Exact bytes of head.json, and what of them is needed without parsing.
#[derive(Debug, Clone)]
pub struct NewHead {
    pub body: String,
    pub fresh_issued: u64,
    pub fresh_until: u64,
    pub held: bool,
}

/// Whether the version that a head is about is still the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadPut {
    Done,
    Moved,
}

impl Store {
    /// `false`: another stack has that name.
    pub async fn create_stack(&self, new: NewStackRow, entry: Entry) -> Result<bool, Error> {
        let change = move |connection: &Connection| {
            if name_is_taken(connection, &new.name, None)? {
                return Ok(false);
            }
            connection.execute(
                "INSERT INTO stacks (id, name, environment, epoch, root_number, poll_s, created_at)
                 VALUES (?1, ?2, ?3, 1, 1, ?4, ?5)",
                (new.id.as_str(), &new.name, &new.environment, signed(new.poll_s), signed(new.created_at)),
            )?;
            for key in &new.keys {
                connection.execute(
                    "INSERT INTO stack_keys VALUES (?1, ?2, ?3, ?4)",
                    (new.id.as_str(), key.role.word(), key.public.to_string(), &key.sealed),
                )?;
            }
            connection.execute(
                "INSERT INTO roots VALUES (?1, 1, ?2, ?3)",
                (new.id.as_str(), new.root_payload.to_string(), &new.root_envelope),
            )?;
            append(connection, &entry)?;
            Ok(true)
        };
        self.control.write("create a stack", change).await
    }

    /// `false`: another stack has that name.
    pub async fn edit_stack(
        &self,
        id: &StackId,
        name: Option<String>,
        environment: Option<String>,
        entry: Entry,
    ) -> Result<bool, Error> {
        let id = id.clone();
        let change = move |connection: &Connection| {
            if let Some(name) = &name
                && name_is_taken(connection, name, Some(&id))?
            {
                return Ok(false);
            }
            let sql = "UPDATE stacks SET name = coalesce(?2, name), environment = coalesce(?3, environment)
                       WHERE id = ?1";
            some_row(connection.execute(sql, (id.as_str(), name, environment))?)?;
            append(connection, &entry)?;
            Ok(true)
        };
        self.control.write("edit a stack", change).await
    }

    pub async fn stacks(&self) -> Result<Vec<StoredStack>, Error> {
        let query = |connection: &Connection| rows(connection, "SELECT * FROM stacks ORDER BY name", [], stack);
        self.control_reads.read("read the stacks", query).await
    }

    pub async fn stack_keys(&self, id: &StackId) -> Result<Vec<StoredKey>, Error> {
        let id = id.clone();
        let query = move |connection: &Connection| {
            rows(connection, "SELECT * FROM stack_keys WHERE stack = ?1", [id.as_str()], |row| {
                let word: String = row.get("role")?;
                let role = Role::ALL.into_iter().find(|role| role.word() == word);
                let role = role.ok_or(Fault::Stored(StoredValue::Word))?;
                Ok(StoredKey { role, public: parsed(row, "public")?, sealed: row.get("sealed")? })
            })
        };
        self.control_reads.read("read the keys of a stack", query).await
    }

    /// Digest of the payload and envelope (JSON), from root 1 on.
    pub async fn roots(&self, id: &StackId) -> Result<Vec<(Digest, String)>, Error> {
        let id = id.clone();
        let query = move |connection: &Connection| {
            let sql = "SELECT payload_sha256, envelope FROM roots WHERE stack = ?1 ORDER BY number";
            rows(connection, sql, [id.as_str()], |row| Ok((parsed(row, "payload_sha256")?, text(row, "envelope")?)))
        };
        self.control_reads.read("read the roots of a stack", query).await
    }

    /// A new fresh note for the version that is the newest, unless the head has changed since `revision`.
    pub async fn put_head(
        &self,
        id: &StackId,
        revision: u64,
        head: NewHead,
        entry: Option<Entry>,
    ) -> Result<HeadPut, Error> {
        let id = id.clone();
        let change = move |connection: &Connection| {
            let changed = set_head(connection, &id, revision, &head)?;
            if changed == 0 {
                return Ok(HeadPut::Moved);
            }
            entry.as_ref().map_or(Ok(()), |entry| append(connection, entry))?;
            Ok(HeadPut::Done)
        };
        self.control.write("renew a head", change).await
    }
}

fn set_head(connection: &Connection, id: &StackId, revision: u64, head: &NewHead) -> Result<usize, Fault> {
    let sql = "UPDATE stacks SET head = ?3, fresh_issued = ?4, fresh_until = ?5, held = ?6,
               head_revision = head_revision + 1 WHERE id = ?1 AND head_revision = ?2";
    let NewHead { body, fresh_issued, fresh_until, held } = head;
    let params = (id.as_str(), signed(revision), body, signed(*fresh_issued), signed(*fresh_until), held);
    Ok(connection.execute(sql, params)?)
}

fn name_is_taken(connection: &Connection, name: &str, except: Option<&StackId>) -> Result<bool, Fault> {
    let sql = "SELECT count(*) FROM stacks WHERE name = ?1 AND id IS NOT ?2";
    let found: i64 = connection.query_row(sql, (name, except.map(StackId::as_str)), |row| row.get(0))?;
    Ok(found > 0)
}

pub(super) fn stack(row: &Row<'_>) -> Result<StoredStack, Fault> {
    Ok(StoredStack {
        id: parsed(row, "id")?,
        name: text(row, "name")?,
        environment: text(row, "environment")?,
        epoch: unsigned(row, "epoch")?,
        root_number: unsigned(row, "root_number")?,
        last_version: Version(unsigned(row, "last_version")?),
        poll_s: unsigned(row, "poll_s")?,
        held: row.get("held")?,
        head: row.get("head")?,
        fresh_issued: unsigned_or_null(row, "fresh_issued")?,
        fresh_until: unsigned_or_null(row, "fresh_until")?,
        created_at: unsigned(row, "created_at")?,
        head_revision: unsigned(row, "head_revision")?,
    })
}
