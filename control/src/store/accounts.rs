//! Users, their sessions, API tokens, and the link that makes the first user. Secrets come here as digests.

use agentd_protocol::digest::Digest;
use rusqlite::{Connection, Row};

use super::audit::{Entry, append};
use super::{Error, Store};
use agentd_sqlite::{Fault, StoredValue, row, rows, signed, some_row, text, unsigned, unsigned_or_null};

/// No `Debug`: it holds the hash of a password.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "it holds the hash of a password")]
pub struct StoredUser {
    pub id: String,
    pub name: String,
    pub password: String,
    pub created_at: u64,
    pub password_at: u64,
}

#[derive(Debug, Clone)]
pub struct StoredSession {
    pub hash: Digest,
    pub user: String,
    pub user_name: String,
    pub created_at: u64,
    pub seen_at: u64,
    pub source: String,
    pub agent: String,
}

#[derive(Debug, Clone)]
pub struct NewSession {
    pub hash: Digest,
    pub user: String,
    pub now: u64,
    pub source: String,
    pub agent: String,
    /// The one this takes the place of.
    pub replaces: Option<Digest>,
    /// The oldest beyond so many end.
    pub keep: u32,
}

#[derive(Debug, Clone)]
pub struct StoredApiToken {
    pub id: String,
    pub name: String,
    pub can_write: bool,
    pub created_at: u64,
    pub expires_at: u64,
    pub seen_at: Option<u64>,
    pub revoked_at: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct NewApiToken {
    pub id: String,
    pub hash: Digest,
    pub name: String,
    pub can_write: bool,
    pub actor: String,
    pub created_at: u64,
    pub expires_at: u64,
}

impl Store {
    pub async fn user_named(&self, name: &str) -> Result<Option<StoredUser>, Error> {
        let name = name.to_owned();
        let query = move |connection: &Connection| row(connection, "SELECT * FROM users WHERE name = ?1", [name], user);
        self.control_reads.read("read a user", query).await
    }

    /// By name.
    pub async fn users(&self) -> Result<Vec<StoredUser>, Error> {
        let query = |connection: &Connection| rows(connection, "SELECT * FROM users ORDER BY name", [], user);
        self.control_reads.read("read users", query).await
    }

    /// Earlier links lead nowhere from then on.
    pub async fn put_entry_link(&self, hash: Digest, now: u64, expires_at: u64, entry: Entry) -> Result<(), Error> {
        let change = move |connection: &Connection| {
            connection.execute("DELETE FROM entry_links", [])?;
            let sql = "INSERT INTO entry_links (hash, created_at, expires_at) VALUES (?1, ?2, ?3)";
            connection.execute(sql, (hash.as_bytes(), signed(now), signed(expires_at)))?;
            append(connection, &entry)
        };
        self.control.write("make an entry link", change).await
    }

    pub async fn entry_link_holds(&self, hash: Digest, now: u64) -> Result<bool, Error> {
        let query = move |connection: &Connection| {
            let sql = "SELECT hash FROM entry_links WHERE hash = ?1 AND expires_at > ?2";
            Ok(row(connection, sql, (hash.as_bytes(), signed(now)), |_| Ok(()))?.is_some())
        };
        self.control_reads.read("read an entry link", query).await
    }

    /// Uses the link up and makes the user, or sets the password of the one there is and ends all sessions. `None`: the
    /// link does not hold.
    pub async fn enter_by_link(
        &self,
        hash: Digest,
        new: StoredUser,
        entry: Entry,
    ) -> Result<Option<StoredUser>, Error> {
        let change = move |connection: &Connection| {
            let sql = "DELETE FROM entry_links WHERE hash = ?1 AND expires_at > ?2";
            if connection.execute(sql, (hash.as_bytes(), signed(new.created_at)))? == 0 {
                return Ok(None);
            }
            append(connection, &entry)?;
            let Some(known) = row(connection, "SELECT * FROM users ORDER BY created_at LIMIT 1", [], user)? else {
                let sql = "INSERT INTO users (id, name, password, created_at, password_at) VALUES (?1, ?2, ?3, ?4, ?4)";
                connection.execute(sql, (&new.id, &new.name, &new.password, signed(new.created_at)))?;
                return Ok(Some(new));
            };
            put_password(connection, &known.id, &new.password, new.created_at)?;
            connection.execute("DELETE FROM sessions WHERE user = ?1", [&known.id])?;
            Ok(Some(known))
        };
        self.control.write("use an entry link", change).await
    }

    /// Ends every session but the one of `own`. `false`: the password that was given with `own` is the user's no longer,
    /// and nothing was done.
    pub async fn set_password(
        &self,
        user: &str,
        password: String,
        own: Option<(Digest, String)>,
        now: u64,
        entry: Entry,
    ) -> Result<bool, Error> {
        let user = user.to_owned();
        let change = move |connection: &Connection| {
            let mut kept = Vec::new();
            if let Some((session, proven)) = own {
                if !has_password(connection, &user, &proven)? {
                    return Ok(false);
                }
                kept = session.as_bytes().to_vec();
            }
            put_password(connection, &user, &password, now)?;
            connection.execute("DELETE FROM sessions WHERE user = ?1 AND hash <> ?2", (&user, kept))?;
            append(connection, &entry)?;
            Ok(true)
        };
        self.control.write("set a password", change).await
    }

    /// Whether `hash` is the one of the user's password still.
    pub async fn password_holds(&self, user: &str, hash: String) -> Result<bool, Error> {
        let user = user.to_owned();
        self.control_reads.read("read a user", move |connection| has_password(connection, &user, &hash)).await
    }

    /// `false`: `proven`, the hash that whoever comes in has proven to know the password of, is the user's no longer.
    pub async fn begin_session(&self, new: NewSession, proven: String, entry: Entry) -> Result<bool, Error> {
        let change = move |connection: &Connection| {
            if !has_password(connection, &new.user, &proven)? {
                return Ok(false);
            }
            if let Some(old) = &new.replaces {
                connection.execute("DELETE FROM sessions WHERE hash = ?1", [old.as_bytes()])?;
            }
            let sql = "INSERT INTO sessions (hash, user, created_at, seen_at, source, agent)
                       VALUES (?1, ?2, ?3, ?3, ?4, ?5)";
            connection.execute(sql, (new.hash.as_bytes(), &new.user, signed(new.now), &new.source, &new.agent))?;
            let sql = "DELETE FROM sessions WHERE user = ?1 AND hash NOT IN
                       (SELECT hash FROM sessions WHERE user = ?1 ORDER BY seen_at DESC, created_at DESC LIMIT ?2)";
            connection.execute(sql, (&new.user, new.keep))?;
            append(connection, &entry)?;
            Ok(true)
        };
        self.control.write("begin a session", change).await
    }

    /// Names of users, where each came in from since then, and when last; newest first.
    pub async fn entered_from(&self, since: u64, limit: u32) -> Result<Vec<(String, String, u64)>, Error> {
        let query = move |connection: &Connection| {
            let sql = "SELECT target, json_extract(detail, '$.from') AS source, max(at) AS at FROM audit
                       WHERE action IN ('user.login', 'user.enter-by-link') AND at >= ?1 AND source IS NOT NULL
                       GROUP BY target, source ORDER BY max(at) DESC LIMIT ?2";
            rows(connection, sql, (signed(since), limit), |row| {
                Ok((text(row, "target")?, text(row, "source")?, unsigned(row, "at")?))
            })
        };
        self.control_reads.read("read who came in", query).await
    }

    pub async fn session(&self, hash: Digest) -> Result<Option<StoredSession>, Error> {
        let query = move |connection: &Connection| {
            let sql = "SELECT s.*, u.name AS user_name FROM sessions s JOIN users u ON u.id = s.user WHERE s.hash = ?1";
            row(connection, sql, [hash.as_bytes()], session)
        };
        self.control_reads.read("read a session", query).await
    }

    /// Last used first.
    pub async fn sessions(&self, user: &str) -> Result<Vec<StoredSession>, Error> {
        let user = user.to_owned();
        let query = move |connection: &Connection| {
            let sql = "SELECT s.*, u.name AS user_name FROM sessions s JOIN users u ON u.id = s.user
                       WHERE s.user = ?1 ORDER BY s.seen_at DESC";
            rows(connection, sql, [user], session)
        };
        self.control_reads.read("read sessions", query).await
    }

    pub async fn touch_session(&self, hash: Digest, now: u64) -> Result<(), Error> {
        let change = move |connection: &Connection| {
            connection.execute(
                "UPDATE sessions SET seen_at = max(seen_at, ?2) WHERE hash = ?1",
                (hash.as_bytes(), signed(now)),
            )?;
            Ok(())
        };
        self.control.write("touch a session", change).await
    }

    /// Also those that are over anyway: nothing else takes them out.
    pub async fn end_session(&self, hash: Digest, over_before: u64, entry: Entry) -> Result<(), Error> {
        let change = move |connection: &Connection| {
            connection.execute(
                "DELETE FROM sessions WHERE hash = ?1 OR seen_at < ?2",
                (hash.as_bytes(), signed(over_before)),
            )?;
            append(connection, &entry)
        };
        self.control.write("end a session", change).await
    }

    /// Of one user, or of all; answers how many there were.
    pub async fn end_sessions(&self, user: Option<&str>, entry: Entry) -> Result<u64, Error> {
        let user = user.map(str::to_owned);
        let change = move |connection: &Connection| {
            let ended = connection.execute("DELETE FROM sessions WHERE ?1 IS NULL OR user = ?1", [user])?;
            append(connection, &entry)?;
            Ok(u64::try_from(ended)?)
        };
        self.control.write("end sessions", change).await
    }

    pub async fn put_api_token(&self, new: NewApiToken, entry: Entry) -> Result<(), Error> {
        let change = move |connection: &Connection| {
            let sql = "INSERT INTO api_tokens (id, hash, name, scope, actor, created_at, expires_at)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let scope = if new.can_write { "write" } else { "read" };
            let times = (signed(new.created_at), signed(new.expires_at));
            connection.execute(sql, (&new.id, new.hash.as_bytes(), &new.name, scope, &new.actor, times.0, times.1))?;
            append(connection, &entry)
        };
        self.control.write("make an API token", change).await
    }

    pub async fn api_token(&self, hash: Digest) -> Result<Option<StoredApiToken>, Error> {
        let query = move |connection: &Connection| {
            row(connection, "SELECT * FROM api_tokens WHERE hash = ?1", [hash.as_bytes()], api_token)
        };
        self.control_reads.read("read an API token", query).await
    }

    /// Newest first.
    pub async fn api_tokens(&self) -> Result<Vec<StoredApiToken>, Error> {
        let sql = "SELECT * FROM api_tokens ORDER BY created_at DESC, id";
        self.control_reads.read("read API tokens", move |connection| rows(connection, sql, [], api_token)).await
    }

    pub async fn touch_api_token(&self, id: &str, now: u64) -> Result<(), Error> {
        let id = id.to_owned();
        let change = move |connection: &Connection| {
            connection.execute("UPDATE api_tokens SET seen_at = ?2 WHERE id = ?1", (id, signed(now)))?;
            Ok(())
        };
        self.control.write("touch an API token", change).await
    }

    pub async fn revoke_api_token(&self, id: &str, now: u64, entry: Entry) -> Result<(), Error> {
        let id = id.to_owned();
        let change = move |connection: &Connection| {
            let sql = "UPDATE api_tokens SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1";
            some_row(connection.execute(sql, (id, signed(now)))?)?;
            append(connection, &entry)
        };
        self.control.write("revoke an API token", change).await
    }
}

fn has_password(connection: &Connection, user: &str, hash: &str) -> Result<bool, Fault> {
    let sql = "SELECT 1 FROM users WHERE id = ?1 AND password = ?2";
    Ok(row(connection, sql, (user, hash), |_| Ok(()))?.is_some())
}

fn put_password(connection: &Connection, user: &str, password: &str, now: u64) -> Result<(), Fault> {
    let sql = "UPDATE users SET password = ?2, password_at = ?3 WHERE id = ?1";
    some_row(connection.execute(sql, (user, password, signed(now)))?)
}

fn user(row: &Row<'_>) -> Result<StoredUser, Fault> {
    Ok(StoredUser {
        id: text(row, "id")?,
        name: text(row, "name")?,
        password: text(row, "password")?,
        created_at: unsigned(row, "created_at")?,
        password_at: unsigned(row, "password_at")?,
    })
}

fn session(row: &Row<'_>) -> Result<StoredSession, Fault> {
    Ok(StoredSession {
        hash: Digest::from_bytes(row.get("hash")?),
        user: text(row, "user")?,
        user_name: text(row, "user_name")?,
        created_at: unsigned(row, "created_at")?,
        seen_at: unsigned(row, "seen_at")?,
        source: text(row, "source")?,
        agent: text(row, "agent")?,
    })
}

fn api_token(row: &Row<'_>) -> Result<StoredApiToken, Fault> {
    let can_write = match text(row, "scope")?.as_str() {
        "read" => false,
        "write" => true,
        _ => return Err(Fault::Stored(StoredValue::Word)),
    };
    Ok(StoredApiToken {
        id: text(row, "id")?,
        name: text(row, "name")?,
        can_write,
        created_at: unsigned(row, "created_at")?,
        expires_at: unsigned(row, "expires_at")?,
        seen_at: unsigned_or_null(row, "seen_at")?,
        revoked_at: unsigned_or_null(row, "revoked_at")?,
    })
}
