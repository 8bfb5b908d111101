//! Versions and the objects they name. Publishing is one transaction: hosts see the old head or the new one.

use agentd_protocol::control::ids::StackId;
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::Version;
use rusqlite::{Connection, Row};

use super::audit::{Entry, append};
use super::idempotency::{Remembered, remember};
use super::stacks::NewHead;
use super::{Error, Store};
use crate::model::{VersionKind, VersionService};
use agentd_sqlite::{
    Fault, StoredValue, json, parsed, row, rows, signed, some_row, text, to_json, unsigned, unsigned_or_null,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    State,
    /// Sealed.
    Env,
}

impl ObjectKind {
    fn word(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Env => "env",
        }
    }
}

#[derive(Debug)]
pub struct NewVersion {
    pub stack: StackId,
    pub number: Version,
    pub epoch: u64,
    pub kind: VersionKind,
    pub state: Digest,
    pub env: Digest,
    /// Those that are not there yet.
    pub objects: Vec<(Digest, ObjectKind, Vec<u8>)>,
    pub payload: Digest,
    pub envelope: String,
    pub services: Vec<VersionService>,
    pub summary: Vec<String>,
    pub actor: String,
    pub reason: String,
    pub created_at: u64,
    pub poll_s: u64,
    pub head: NewHead,
    /// Revision of the head that this follows.
    pub after: u64,
    /// The draft it was made from, where it was.
    pub draft_revision: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Done,
    /// Somebody published meanwhile.
    HeadMoved,
    /// Somebody saved the draft meanwhile.
    DraftMoved {
        revision: u64,
    },
    /// The same call was answered meanwhile.
    Answered,
}

#[derive(Debug, Clone)]
pub struct StoredVersion {
    pub number: Version,
    pub kind: VersionKind,
    pub state: Digest,
    pub env: Digest,
    pub payload: Digest,
    pub envelope: String,
    pub services: Vec<VersionService>,
    pub summary: Vec<String>,
    pub actor: String,
    pub reason: String,
    pub created_at: u64,
}

impl Store {
    pub async fn publish(&self, new: NewVersion, answer: Option<Remembered>, entry: Entry) -> Result<Put, Error> {
        let change = move |connection: &Connection| {
            if let Some(stopped) = precondition(connection, &new)? {
                return Ok(stopped);
            }
            if let Some(answer) = &answer
                && !remember(connection, answer)?
            {
                return Ok(Put::Answered);
            }
            insert(connection, &new)?;
            append(connection, &entry)?;
            Ok(Put::Done)
        };
        self.control.write("publish a version", change).await
    }

    /// Newest first, below `before`.
    pub async fn versions(
        &self,
        stack: &StackId,
        before: Option<Version>,
        limit: u32,
    ) -> Result<Vec<StoredVersion>, Error> {
        let (stack, before) = (stack.clone(), before.map_or(i64::MAX, |version| signed(version.0)));
        let query = move |connection: &Connection| {
            let sql = "SELECT * FROM versions WHERE stack = ?1 AND number < ?2 ORDER BY number DESC LIMIT ?3";
            rows(connection, sql, (stack.as_str(), before, limit), version)
        };
        self.control_reads.read("read versions", query).await
    }

    pub async fn version(&self, stack: &StackId, number: Version) -> Result<Option<StoredVersion>, Error> {
        let stack = stack.clone();
        let query = move |connection: &Connection| {
            let sql = "SELECT * FROM versions WHERE stack = ?1 AND number = ?2";
            row(connection, sql, (stack.as_str(), signed(number.0)), version)
        };
        self.control_reads.read("read a version", query).await
    }

    pub async fn object(&self, stack: &StackId, sha256: &Digest) -> Result<Option<(ObjectKind, Vec<u8>)>, Error> {
        let (stack, sha256) = (stack.clone(), sha256.to_string());
        let query = move |connection: &Connection| {
            let sql = "SELECT kind, body FROM objects WHERE stack = ?1 AND sha256 = ?2";
            row(connection, sql, (stack.as_str(), sha256), |row| {
                let kind = match text(row, "kind")?.as_str() {
                    "state" => ObjectKind::State,
                    "env" => ObjectKind::Env,
                    _ => return Err(Fault::Stored(StoredValue::Word)),
                };
                Ok((kind, row.get("body")?))
            })
        };
        self.control_reads.read("read an object", query).await
    }
}

fn precondition(connection: &Connection, new: &NewVersion) -> Result<Option<Put>, Fault> {
    let sql = "SELECT head_revision FROM stacks WHERE id = ?1";
    let head = row(connection, sql, [new.stack.as_str()], |row| unsigned(row, "head_revision"))?;
    if head.ok_or(Fault::Missing)? != new.after {
        return Ok(Some(Put::HeadMoved));
    }
    let Some(seen) = new.draft_revision else { return Ok(None) };
    let sql = "SELECT revision FROM drafts WHERE stack = ?1";
    let revision = row(connection, sql, [new.stack.as_str()], |row| unsigned(row, "revision"))?.unwrap_or(0);
    Ok((revision != seen).then_some(Put::DraftMoved { revision }))
}

fn insert(connection: &Connection, new: &NewVersion) -> Result<(), Fault> {
    for (sha256, kind, body) in &new.objects {
        connection.execute(
            "INSERT INTO objects VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            (new.stack.as_str(), sha256.to_string(), kind.word(), body, signed(new.created_at)),
        )?;
    }
    let published = signed(new.draft_revision.unwrap_or(0));
    connection.execute("UPDATE drafts SET published = ?2 WHERE stack = ?1", (new.stack.as_str(), published))?;
    let (kind, of) = match new.kind {
        VersionKind::Deploy => ("deploy", None),
        VersionKind::Rollback { of } => ("rollback", Some(signed(of.0))),
    };
    connection.execute(
        "INSERT INTO versions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        rusqlite::params![
            new.stack.as_str(),
            signed(new.number.0),
            signed(new.epoch),
            kind,
            of,
            new.state.to_string(),
            new.env.to_string(),
            new.payload.to_string(),
            new.envelope,
            to_json(&new.services),
            to_json(&new.summary),
            new.actor,
            new.reason,
            signed(new.created_at),
        ],
    )?;
    let sql = "UPDATE stacks SET last_version = ?2, poll_s = ?3, head = ?4, fresh_issued = ?5, fresh_until = ?6,
               held = ?7, head_revision = head_revision + 1 WHERE id = ?1";
    let NewHead { body, fresh_issued, fresh_until, held } = &new.head;
    let id = new.stack.as_str();
    let (number, poll_s) = (signed(new.number.0), signed(new.poll_s));
    let params = (id, number, poll_s, body, signed(*fresh_issued), signed(*fresh_until), held);
    some_row(connection.execute(sql, params)?)
}

fn version(row: &Row<'_>) -> Result<StoredVersion, Fault> {
    let kind = match unsigned_or_null(row, "rollback_of")? {
        Some(of) => VersionKind::Rollback { of: Version(of) },
        None => VersionKind::Deploy,
    };
    Ok(StoredVersion {
        number: Version(unsigned(row, "number")?),
        kind,
        state: parsed(row, "state_sha256")?,
        env: parsed(row, "env_sha256")?,
        payload: parsed(row, "payload_sha256")?,
        envelope: text(row, "envelope")?,
        services: json(row, "services")?,
        summary: json(row, "summary")?,
        actor: text(row, "actor")?,
        reason: text(row, "reason")?,
        created_at: unsigned(row, "created_at")?,
    })
}
