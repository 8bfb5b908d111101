//! Hosts: taking in, approving, renaming, revoking.

use std::collections::BTreeMap;

use agentd_protocol::control::ids::{HostId, StackId, TokenId};
use agentd_protocol::control::key::PublicKey;
use agentd_protocol::digest::Digest;
use rusqlite::{Connection, Row};

use super::audit::{Entry, append};
use super::tokens::{find, use_up};
use super::{Error, Store};
use crate::model::Approval;
use agentd_sqlite::{
    Fault, StoredValue, json, parsed, parsed_or_null, row, rows, signed, some_row, text, to_json, unsigned,
    unsigned_or_null,
};

#[derive(Debug, Clone)]
pub struct NewHost {
    pub id: HostId,
    pub stack: StackId,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub key: PublicKey,
    pub machine: Digest,
    pub os: String,
    pub arch: String,
    /// Shown on both sides while it is pending.
    pub code: String,
}

#[derive(Debug, Clone)]
pub struct StoredHost {
    pub id: HostId,
    pub stack: StackId,
    pub name: String,
    pub standing: StoredStanding,
    pub labels: BTreeMap<String, String>,
    pub key: PublicKey,
    pub machine: Digest,
    pub os: String,
    pub arch: String,
    pub token: Option<TokenId>,
    pub enrolled_at: u64,
    pub approved_by: Option<String>,
    pub conflict_at: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredStanding {
    Pending { code: String },
    Active,
    Revoked { at: u64, reason: String },
}

/// What became of a wish to be taken in.
#[derive(Debug, Clone)]
pub enum Admission {
    New(StoredHost),
    /// The same key was taken in before.
    Again(StoredHost),
    TokenInvalid,
    TokenExpired,
    /// By that host, which has another key: somebody else has the token too.
    TokenUsed {
        by: HostId,
    },
}

impl Store {
    pub async fn hosts(&self) -> Result<Vec<StoredHost>, Error> {
        let query = |connection: &Connection| rows(connection, "SELECT * FROM hosts ORDER BY name, id", [], host);
        self.control_reads.read("read the hosts", query).await
    }

    /// Uses the token up and takes the host in, or neither.
    pub async fn redeem(&self, token: &TokenId, new: NewHost, now: u64) -> Result<Admission, Error> {
        let token = token.clone();
        let change = move |connection: &Connection| redeem(connection, &token, new, now);
        self.control.write("take a host in", change).await
    }

    /// A host with a receipt of ours that the database does not know: always pending, since a revocation may be what
    /// was lost.
    pub async fn readopt(&self, new: NewHost, now: u64) -> Result<StoredHost, Error> {
        let change = move |connection: &Connection| {
            let known = "SELECT * FROM hosts WHERE key = ?1 OR id = ?2";
            if let Some(found) = row(connection, known, (new.key.to_string(), new.id.as_str()), host)? {
                return Ok(found);
            }
            let stored = insert(connection, &new, None, Approval::Person, now)?;
            append(connection, &entry_of(&stored, format!("host {}", stored.id), "host.readopt", now))?;
            Ok(stored)
        };
        self.control.write("take a host back in", change).await
    }

    /// `false`: it is not pending with that code.
    pub async fn approve(&self, id: &HostId, code: &str, by: &str, entry: Entry) -> Result<bool, Error> {
        let (id, code, by) = (id.clone(), code.to_owned(), by.to_owned());
        let change = move |connection: &Connection| {
            let sql = "UPDATE hosts SET standing = 'active', code = NULL, approved_by = ?3
                       WHERE id = ?1 AND standing = 'pending' AND code = ?2";
            let changed = connection.execute(sql, (id.as_str(), code, by))?;
            if changed == 1 {
                append(connection, &entry)?;
            }
            Ok(changed == 1)
        };
        self.control.write("approve a host", change).await
    }

    pub async fn edit_host(
        &self,
        id: &HostId,
        name: Option<String>,
        labels: Option<BTreeMap<String, String>>,
        entry: Entry,
    ) -> Result<(), Error> {
        let id = id.clone();
        let change = move |connection: &Connection| {
            let sql = "UPDATE hosts SET name = coalesce(?2, name), labels = coalesce(?3, labels) WHERE id = ?1";
            some_row(connection.execute(sql, (id.as_str(), name, labels.map(|labels| to_json(&labels))))?)?;
            append(connection, &entry)
        };
        self.control.write("edit a host", change).await
    }

    /// `false`: it was revoked before, and stays so as of then.
    pub async fn revoke_host(&self, id: &HostId, reason: &str, now: u64, entry: Entry) -> Result<bool, Error> {
        let (id, reason) = (id.clone(), reason.to_owned());
        let change = move |connection: &Connection| {
            let sql = "UPDATE hosts SET standing = 'revoked', code = NULL, revoked_at = ?2, revoke_reason = ?3
                       WHERE id = ?1 AND standing <> 'revoked'";
            let is_new = connection.execute(sql, (id.as_str(), signed(now), reason))? == 1;
            if is_new {
                append(connection, &entry)?;
            }
            Ok(is_new)
        };
        self.control.write("revoke a host", change).await
    }

    /// Two machines with one key, or a state that went back several times. `None`: the audit has a row of it.
    pub async fn mark_conflict(&self, id: &HostId, now: u64, entry: Option<Entry>) -> Result<(), Error> {
        let id = id.clone();
        let change = move |connection: &Connection| {
            let sql = "UPDATE hosts SET conflict_at = ?2 WHERE id = ?1";
            some_row(connection.execute(sql, (id.as_str(), signed(now)))?)?;
            entry.iter().try_for_each(|entry| append(connection, entry))
        };
        self.control.write("mark a conflict", change).await
    }

    pub async fn clear_conflict(&self, id: &HostId, entry: Entry) -> Result<(), Error> {
        let id = id.clone();
        let change = move |connection: &Connection| {
            let sql = "UPDATE hosts SET conflict_at = NULL WHERE id = ?1";
            some_row(connection.execute(sql, [id.as_str()])?)?;
            append(connection, &entry)
        };
        self.control.write("clear a conflict", change).await
    }
}

fn redeem(connection: &Connection, token: &TokenId, new: NewHost, now: u64) -> Result<Admission, Fault> {
    let Some(stored) = find(connection, token)? else { return Ok(Admission::TokenInvalid) };
    if stored.stack != new.stack || stored.revoked_at.is_some() {
        return Ok(Admission::TokenInvalid);
    }
    let known = row(connection, "SELECT * FROM hosts WHERE key = ?1", [new.key.to_string()], host)?;
    if known.as_ref().is_some_and(|known| known.stack != new.stack) {
        // One key, one place: a host that joins another stack makes itself a new one.
        return Ok(Admission::TokenInvalid);
    }
    if let Some((by, _)) = &stored.used {
        return match known {
            Some(known) if known.id == *by => Ok(Admission::Again(known)),
            _ => Ok(Admission::TokenUsed { by: by.clone() }),
        };
    }
    if stored.expires_at <= now {
        return Ok(Admission::TokenExpired);
    }
    let id = known.as_ref().map_or(&new.id, |known| &known.id);
    if !use_up(connection, token, id, now)? {
        return Ok(Admission::TokenInvalid);
    }
    if let Some(known) = known {
        // A host that joins again with the key it has: its place is kept, also that of a revoked one.
        append(connection, &entry_of(&known, format!("token {token}"), "host.enroll-again", now))?;
        return Ok(Admission::Again(known));
    }
    let labels = new.labels.into_iter().chain(stored.labels).collect();
    let host = insert(connection, &NewHost { labels, ..new }, Some(token), stored.approval, now)?;
    append(connection, &entry_of(&host, format!("token {token}"), "host.enroll", now))?;
    Ok(Admission::New(host))
}

fn entry_of(host: &StoredHost, actor: String, action: &'static str, now: u64) -> Entry {
    let pending = matches!(host.standing, StoredStanding::Pending { .. });
    let detail = serde_json::json!({"stack": host.stack, "name": host.name, "key": host.key.id(), "pending": pending});
    Entry { at_unix_ms: now, actor, action, target: host.id.to_string(), detail, alarm: false }
}

fn insert(
    connection: &Connection,
    new: &NewHost,
    token: Option<&TokenId>,
    approval: Approval,
    now: u64,
) -> Result<StoredHost, Fault> {
    let (standing, code) = match approval {
        Approval::None => ("active", None),
        Approval::Person => ("pending", Some(&new.code)),
    };
    connection.execute(
        "INSERT INTO hosts (id, stack, name, standing, code, labels, key, machine, os, arch, token, enrolled_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        rusqlite::params![
            new.id.as_str(),
            new.stack.as_str(),
            new.name,
            standing,
            code,
            to_json(&new.labels),
            new.key.to_string(),
            new.machine.to_string(),
            new.os,
            new.arch,
            token.map(TokenId::as_str),
            signed(now),
        ],
    )?;
    row(connection, "SELECT * FROM hosts WHERE id = ?1", [new.id.as_str()], host)?.ok_or(Fault::Missing)
}

fn host(row: &Row<'_>) -> Result<StoredHost, Fault> {
    let standing = match text(row, "standing")?.as_str() {
        "pending" => StoredStanding::Pending { code: row.get::<_, Option<String>>("code")?.unwrap_or_default() },
        "active" => StoredStanding::Active,
        "revoked" => StoredStanding::Revoked {
            at: unsigned(row, "revoked_at")?,
            reason: row.get::<_, Option<String>>("revoke_reason")?.unwrap_or_default(),
        },
        _ => return Err(Fault::Stored(StoredValue::Word)),
    };
    Ok(StoredHost {
        id: parsed(row, "id")?,
        stack: parsed(row, "stack")?,
        name: text(row, "name")?,
        standing,
        labels: json(row, "labels")?,
        key: parsed(row, "key")?,
        machine: parsed(row, "machine")?,
        os: text(row, "os")?,
        arch: text(row, "arch")?,
        token: parsed_or_null(row, "token")?,
        enrolled_at: unsigned(row, "enrolled_at")?,
        approved_by: row.get("approved_by")?,
        conflict_at: unsigned_or_null(row, "conflict_at")?,
    })
}
