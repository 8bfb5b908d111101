//! Answers given once, for callers who ask again with the same key because they did not hear them.

use agentd_protocol::digest::Digest;
use rusqlite::Connection;

use super::{Error, Store};
use agentd_sqlite::{Fault, parsed, row, signed};

/// How long an answer is remembered, ms.
const KEPT_MS: u64 = 24 * 3_600 * 1_000;

/// An answer, sealed: it may hold a join string.
#[derive(Debug, Clone)]
pub struct Remembered {
    pub key: String,
    /// Of all that was asked for.
    pub request: Digest,
    pub sealed: Vec<u8>,
    pub at_unix_ms: u64,
}

/// In the transaction of the act itself. `false`: the key is taken.
pub(super) fn remember(connection: &Connection, answer: &Remembered) -> Result<bool, Fault> {
    prune(connection, answer.at_unix_ms)?;
    let sql = "INSERT INTO idempotency VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    let params = (&answer.key, answer.request.to_string(), &answer.sealed, signed(answer.at_unix_ms));
    Ok(connection.prepare_cached(sql)?.execute(params)? == 1)
}

fn prune(connection: &Connection, now: u64) -> Result<(), Fault> {
    let old = signed(now.saturating_sub(KEPT_MS));
    connection.prepare_cached("DELETE FROM idempotency WHERE at < ?1")?.execute([old])?;
    Ok(())
}

impl Store {
    /// Also where nobody asks for anything any more: an answer may hold a join string.
    pub async fn prune_answers(&self, now: u64) -> Result<(), Error> {
        self.control.write("forget old answers", move |connection| prune(connection, now)).await
    }

    /// What was asked for and answered under that key.
    pub async fn remembered(&self, key: &str) -> Result<Option<(Digest, Vec<u8>)>, Error> {
        let key = key.to_owned();
        let query = move |connection: &Connection| {
            let sql = "SELECT request_sha256, sealed FROM idempotency WHERE key = ?1";
            row(connection, sql, [key], |row| Ok((parsed(row, "request_sha256")?, row.get("sealed")?)))
        };
        self.control_reads.read("look for an earlier answer", query).await
    }
}
