//! What the host believes of its control server, and the era in which its versions count.

use agentd_protocol::control::BOOT_MAX;
use agentd_protocol::control::report::{OutboxReport, Refusal};
use agentd_protocol::control::trust::TrustRecord;
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::{ServiceName, Version};
use agentd_protocol::published::split_stack;
use agentd_protocol::stack::Stack;
use rusqlite::{OptionalExtension, Transaction, params};

use super::versions::{ERA, NewVersion, insert};
use super::{Error, Store};
use agentd_sqlite::{Fault, signed, some_row, unsigned};

/// What of an identity the store needs to know.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Another one is another joining, with everything anew.
    pub id: String,
    /// What is believed at first.
    pub trust: TrustRecord,
}

/// What was remembered of the control server when the manager started.
#[derive(Debug, Clone)]
pub struct ControlState {
    pub trust: TrustRecord,
    /// Grows with every start.
    pub boot: u64,
    pub refusal: Option<Refusal>,
    pub is_new: bool,
}

/// A version whose signatures, object and meaning were checked.
#[derive(Clone)]
pub struct VerifiedVersion {
    pub version: Version,
    /// Of the state object.
    pub sha256: Digest,
    pub stack: Stack,
    /// To be believed from then on.
    pub trust: TrustRecord,
}

// By hand: the stack holds env values.
impl std::fmt::Debug for VerifiedVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifiedVersion").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Store {
    /// A manager of a joined host starts. The first of a joining begins an era.
    pub async fn begin_control(&self, joining: Joining) -> Result<ControlState, Error> {
        self.write("remember the control server", move |transaction| {
            let known: Option<(String, String, Option<String>)> = transaction
                .query_row("SELECT joining, trust, refusal FROM control", [], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()?;
            let known = known.filter(|(id, _, _)| *id == joining.id);
            let is_new = known.is_none();
            let (trust, refusal) = match known {
                Some((_, trust, refusal)) => {
                    let refusal = refusal.map(|refusal| serde_json::from_str(&refusal)).transpose()?;
                    (serde_json::from_str(&trust)?, refusal)
                }
                None => {
                    forget(transaction)?;
                    next_era(transaction)?;
                    transaction.execute(
                        "INSERT INTO control (id, joining, trust, boot) VALUES (1, ?1, ?2, 0)",
                        params![joining.id, serde_json::to_string(&joining.trust)?],
                    )?;
                    (joining.trust, None)
                }
            };
            // Whatever stands there, the manager starts: a server's answer can have put it there.
            let sql = "UPDATE control SET boot = min(max(boot, 0), ?1) + 1 RETURNING boot";
            let boot: i64 = transaction.query_row(sql, [signed(BOOT_MAX - 1)], |row| row.get(0))?;
            Ok(ControlState { trust, boot: u64::try_from(boot)?, refusal, is_new })
        })
        .await
    }

    /// A manager of a host that is not joined starts; whether it was before. What is in force stays so.
    pub async fn end_control(&self) -> Result<bool, Error> {
        self.write("forget the control server", |transaction| {
            let was_joined = forget(transaction)?;
            if was_joined {
                next_era(transaction)?;
            }
            Ok(was_joined)
        })
        .await
    }

    /// Versions of a stack file count no more, what is in force stays so: the host may join.
    pub async fn leave_file(&self) -> Result<(), Error> {
        self.write("leave the stack file", next_era).await
    }

    /// Higher than it was, or back to what can be.
    pub async fn set_boot(&self, boot: u64) -> Result<(), Error> {
        self.write("count the starts", move |transaction| {
            some_row(transaction.execute("UPDATE control SET boot = ?1", [signed(boot.min(BOOT_MAX))])?)
        })
        .await
    }

    pub async fn keep_trust(&self, trust: &TrustRecord) -> Result<(), Error> {
        let trust = serde_json::to_string(trust).expect("a trust record is plain JSON");
        self.write("remember what is believed", move |transaction| {
            some_row(transaction.execute("UPDATE control SET trust = ?1", [trust])?)
        })
        .await
    }

    pub async fn keep_refusal(&self, refusal: Option<&Refusal>) -> Result<(), Error> {
        let refusal = refusal.map(|refusal| serde_json::to_string(refusal).expect("a refusal is plain JSON"));
        self.write("remember what was refused", move |transaction| {
            some_row(transaction.execute("UPDATE control SET refusal = ?1", [refusal])?)
        })
        .await
    }

    /// What is believed and the version that rests on it, in one transaction: a manager that is killed before it applied
    /// the version finds it at its next start, and takes no older one.
    pub async fn adopt_version(&self, verified: VerifiedVersion) -> Result<(), Error> {
        let VerifiedVersion { version, sha256, stack, trust } = verified;
        let parts = split_stack(&stack);
        let services: Vec<ServiceName> = stack.service.iter().map(|service| service.name.clone()).collect();
        let trust = serde_json::to_string(&trust).expect("a trust record is plain JSON");
        self.write("store a version of the control server", move |transaction| {
            some_row(transaction.execute("UPDATE control SET trust = ?1, refusal = NULL", [trust])?)?;
            // Numbers only go back where the root's epoch has grown: what was newest is no longer.
            let sql = format!("SELECT count(*) FROM versions WHERE era = {ERA} AND number >= ?1");
            let later: i64 = transaction.query_row(&sql, [signed(version.0)], |row| row.get(0))?;
            if later > 0 {
                next_era(transaction)?;
            }
            let new = NewVersion {
                number: signed(version.0),
                sha256,
                stack: &stack.stack.name,
                parts: &parts,
                refs: "{}",
                source: "control",
                services: &services,
            };
            insert(transaction, &new)
        })
        .await
    }

    pub async fn outbox_report(&self) -> Result<OutboxReport, Error> {
        self.read("count what waits for the control server", |connection| {
            let mut statement = connection.prepare_cached("SELECT outbox_records, outbox_bytes, lost FROM control")?;
            let mut rows = statement.query([])?;
            let Some(row) = rows.next()? else { return Ok(OutboxReport::default()) };
            Ok(OutboxReport {
                records: unsigned(row, "outbox_records")?,
                bytes: unsigned(row, "outbox_bytes")?,
                lost: unsigned(row, "lost")?,
            })
        })
        .await
    }
}

/// Whether there was anything.
fn forget(transaction: &Transaction<'_>) -> Result<bool, Fault> {
    transaction.execute("DELETE FROM outbox", [])?;
    Ok(transaction.execute("DELETE FROM control", [])? > 0)
}

fn next_era(transaction: &Transaction<'_>) -> Result<(), Fault> {
    transaction.execute(
        "INSERT INTO meta (key, value) VALUES ('era', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1",
        [],
    )?;
    Ok(())
}
