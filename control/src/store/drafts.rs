//! The document as it is edited, and the sealed values of its variables.

use std::collections::BTreeMap;

use agentd_protocol::control::ids::StackId;
use rusqlite::Connection;

use super::audit::{Entry, append};
use super::{Error, Store};
use crate::model::DraftFormat;
use agentd_sqlite::{Fault, StoredValue, row, rows, signed, text, unsigned};

/// By service and name of the variable.
pub type SealedEnv = BTreeMap<(String, String), Vec<u8>>;

#[derive(Debug)]
pub struct NewDraft {
    pub stack: StackId,
    /// The revision it was made from; the new one is the next.
    pub seen: u64,
    pub format: DraftFormat,
    pub text: String,
    /// All there are; others are forgotten.
    pub env: SealedEnv,
    pub actor: String,
    pub saved_at: u64,
}

#[derive(Debug, Clone)]
pub struct StoredDraft {
    pub revision: u64,
    pub format: DraftFormat,
    pub text: String,
    pub env: SealedEnv,
    pub actor: String,
    pub saved_at: u64,
    /// Revision that the newest version was made of; 0: of another document.
    pub published: u64,
}

impl Store {
    /// The revision there is instead, where somebody saved meanwhile.
    pub async fn save_draft(&self, new: NewDraft, entry: Entry) -> Result<Result<u64, u64>, Error> {
        let change = move |connection: &Connection| {
            let id = new.stack.as_str();
            let sql = "SELECT revision FROM drafts WHERE stack = ?1";
            let found = row(connection, sql, [id], |row| unsigned(row, "revision"))?.unwrap_or(0);
            if found != new.seen {
                return Ok(Err(found));
            }
            let format = word(new.format);
            connection.execute(
                "INSERT INTO drafts VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0) ON CONFLICT (stack) DO UPDATE SET
                 revision = excluded.revision, format = excluded.format, text = excluded.text,
                 actor = excluded.actor, saved_at = excluded.saved_at",
                (id, signed(found + 1), format, &new.text, &new.actor, signed(new.saved_at)),
            )?;
            connection.execute("DELETE FROM draft_env WHERE stack = ?1", [id])?;
            for ((service, name), sealed) in &new.env {
                connection.execute("INSERT INTO draft_env VALUES (?1, ?2, ?3, ?4)", (id, service, name, sealed))?;
            }
            append(connection, &entry)?;
            Ok(Ok(found + 1))
        };
        self.control.write("save a draft", change).await
    }

    pub async fn draft(&self, stack: &StackId) -> Result<Option<StoredDraft>, Error> {
        let stack = stack.clone();
        let query = move |connection: &Connection| {
            let id = stack.as_str();
            let env = rows(connection, "SELECT service, name, sealed FROM draft_env WHERE stack = ?1", [id], |row| {
                Ok(((text(row, "service")?, text(row, "name")?), row.get("sealed")?))
            })?;
            let env: SealedEnv = env.into_iter().collect();
            row(connection, "SELECT * FROM drafts WHERE stack = ?1", [id], |row| {
                Ok(StoredDraft {
                    revision: unsigned(row, "revision")?,
                    format: format_of(&text(row, "format")?)?,
                    text: text(row, "text")?,
                    env: env.clone(),
                    actor: text(row, "actor")?,
                    saved_at: unsigned(row, "saved_at")?,
                    published: unsigned(row, "published")?,
                })
            })
        };
        self.control_reads.read("read a draft", query).await
    }
}

fn word(format: DraftFormat) -> &'static str {
    match format {
        DraftFormat::Toml => "toml",
        DraftFormat::Json => "json",
    }
}

fn format_of(word: &str) -> Result<DraftFormat, Fault> {
    match word {
        "toml" => Ok(DraftFormat::Toml),
        "json" => Ok(DraftFormat::Json),
        _ => Err(Fault::Stored(StoredValue::Word)),
    }
}
