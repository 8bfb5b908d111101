//! Tokens hosts join with. A token is used up in the statement that is part of the transaction that takes the host in.

use std::collections::BTreeMap;

use agentd_protocol::control::ids::{HostId, StackId, TokenId};
use agentd_protocol::control::key::PublicKey;
use rusqlite::{Connection, Row};

use super::audit::{Entry, append};
use super::idempotency::{Remembered, remember};
use super::{Error, Store};
use crate::model::Approval;
use agentd_sqlite::{
    Fault, StoredValue, json, parsed, parsed_or_null, row, rows, signed, some_row, text, to_json, unsigned,
    unsigned_or_null,
};

#[derive(Debug)]
pub struct NewTokenRow {
    pub id: TokenId,
    pub stack: StackId,
    pub public: PublicKey,
    pub note: String,
    pub labels: BTreeMap<String, String>,
    pub approval: Approval,
    pub actor: String,
    pub created_at: u64,
    pub expires_at: u64,
}

#[derive(Debug, Clone)]
pub struct StoredToken {
    pub id: TokenId,
    pub stack: StackId,
    pub public: PublicKey,
    pub note: String,
    pub labels: BTreeMap<String, String>,
    pub approval: Approval,
    pub used: Option<(HostId, u64)>,
    pub actor: String,
    pub created_at: u64,
    pub expires_at: u64,
    pub revoked_at: Option<u64>,
}

impl Store {
    /// `false`: the same call was answered meanwhile.
    pub async fn create_token(
        &self,
        new: NewTokenRow,
        answer: Option<Remembered>,
        entry: Entry,
    ) -> Result<bool, Error> {
        let change = move |connection: &Connection| {
            if let Some(answer) = &answer
                && !remember(connection, answer)?
            {
                return Ok(false);
            }
            let approval = match new.approval {
                Approval::None => "none",
                Approval::Person => "person",
            };
            connection.execute(
                "INSERT INTO tokens (id, stack, public, note, labels, approval, actor, created_at, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                rusqlite::params![
                    new.id.as_str(),
                    new.stack.as_str(),
                    new.public.to_string(),
                    new.note,
                    to_json(&new.labels),
                    approval,
                    new.actor,
                    signed(new.created_at),
                    signed(new.expires_at),
                ],
            )?;
            append(connection, &entry)?;
            Ok(true)
        };
        self.control.write("create a token", change).await
    }

    pub async fn token(&self, id: &TokenId) -> Result<Option<StoredToken>, Error> {
        let id = id.clone();
        let query = move |connection: &Connection| find(connection, &id);
        self.control_reads.read("read a token", query).await
    }

    /// Newest first.
    pub async fn tokens(&self, stack: &StackId) -> Result<Vec<StoredToken>, Error> {
        let stack = stack.clone();
        let query = move |connection: &Connection| {
            let sql = "SELECT * FROM tokens WHERE stack = ?1 ORDER BY created_at DESC, id";
            rows(connection, sql, [stack.as_str()], token)
        };
        self.control_reads.read("read tokens", query).await
    }

    pub async fn revoke_token(&self, id: &TokenId, now: u64, entry: Entry) -> Result<(), Error> {
        let id = id.clone();
        let change = move |connection: &Connection| {
            let sql = "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1";
            some_row(connection.execute(sql, (id.as_str(), signed(now)))?)?;
            append(connection, &entry)
        };
        self.control.write("revoke a token", change).await
    }
}

pub(super) fn find(connection: &Connection, id: &TokenId) -> Result<Option<StoredToken>, Fault> {
    row(connection, "SELECT * FROM tokens WHERE id = ?1", [id.as_str()], token)
}

/// Whether it was still open, and now is not: one statement, so that of a hundred callers one wins.
pub(super) fn use_up(connection: &Connection, id: &TokenId, host: &HostId, now: u64) -> Result<bool, Fault> {
    let sql = "UPDATE tokens SET used_by = ?2, used_at = ?3
               WHERE id = ?1 AND used_by IS NULL AND revoked_at IS NULL AND expires_at > ?3";
    Ok(connection.prepare_cached(sql)?.execute((id.as_str(), host.as_str(), signed(now)))? == 1)
}

fn token(row: &Row<'_>) -> Result<StoredToken, Fault> {
    let used_by: Option<HostId> = parsed_or_null(row, "used_by")?;
    Ok(StoredToken {
        id: parsed(row, "id")?,
        stack: parsed(row, "stack")?,
        public: parsed(row, "public")?,
        note: text(row, "note")?,
        labels: json(row, "labels")?,
        approval: match text(row, "approval")?.as_str() {
            "none" => Approval::None,
            "person" => Approval::Person,
            _ => return Err(Fault::Stored(StoredValue::Word)),
        },
        used: used_by.zip(unsigned_or_null(row, "used_at")?),
        actor: text(row, "actor")?,
        created_at: unsigned(row, "created_at")?,
        expires_at: unsigned(row, "expires_at")?,
        revoked_at: unsigned_or_null(row, "revoked_at")?,
    })
}
