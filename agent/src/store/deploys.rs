//! Deploys: each try to bring a release into service, how far it came and how it ended.

use agentd_protocol::api::{DeployPhase, Problem};
use agentd_protocol::ids::{ReleaseNumber, ServiceName};
use rusqlite::{Row, params};

use super::convert::{now_unix_ms, plain, release_or_null};
use super::{Error, Store};
use agentd_sqlite::{Fault, StoredValue, parsed, rows, signed, some_row, unsigned, unsigned_or_null};

/// Over all services; older ones go.
pub const DEPLOYS_KEPT: u32 = 5_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeployId(pub u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeploy {
    pub service: ServiceName,
    /// What was served before.
    pub from: Option<ReleaseNumber>,
    pub to: ReleaseNumber,
    pub phase: DeployPhase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeployEnd {
    Done,
    /// Before the commit point: traffic saw nothing of it.
    Failed(Box<Problem>),
    /// After the commit point: the release before serves again.
    RolledBack(Box<Problem>),
    /// A newer order, or the end of a manager, came first.
    Superseded,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDeploy {
    pub id: DeployId,
    pub service: ServiceName,
    pub from: Option<ReleaseNumber>,
    pub to: ReleaseNumber,
    pub phase: DeployPhase,
    pub started_unix_ms: u64,
    /// `None`: under way, or cut short and not begun anew.
    pub end: Option<DeployEnd>,
    pub ended_unix_ms: Option<u64>,
}

impl Store {
    /// Ends the one that was under way before, as superseded.
    pub async fn start_deploy(&self, deploy: NewDeploy) -> Result<DeployId, Error> {
        self.write("record a deploy", move |transaction| {
            transaction.execute(
                "UPDATE deploys SET ended_at = ?2, outcome = 'superseded' WHERE service = ?1 AND ended_at IS NULL",
                params![deploy.service.as_str(), now_unix_ms()],
            )?;
            transaction.execute(
                "INSERT INTO deploys (service, from_release, to_release, phase, started_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    deploy.service.as_str(),
                    deploy.from.map(|release| signed(release.0)),
                    signed(deploy.to.0),
                    phase_json(deploy.phase),
                    now_unix_ms()
                ],
            )?;
            let id = transaction.last_insert_rowid();
            transaction.execute("DELETE FROM deploys WHERE id <= ?1", [id - i64::from(DEPLOYS_KEPT)])?;
            Ok(DeployId(u64::try_from(id)?))
        })
        .await
    }

    pub async fn end_deploy(&self, id: DeployId, end: DeployEnd) -> Result<(), Error> {
        self.write("record the end of a deploy", move |transaction| {
            let (word, problem) = match &end {
                DeployEnd::Done => ("done", None),
                DeployEnd::Failed(problem) => ("failed", Some(problem)),
                DeployEnd::RolledBack(problem) => ("rolled-back", Some(problem)),
                DeployEnd::Superseded => ("superseded", None),
            };
            let problem = problem.map(|problem| serde_json::to_string(problem).expect("a problem is JSON"));
            some_row(transaction.execute(
                "UPDATE deploys SET ended_at = ?2, outcome = ?3, failure = ?4 WHERE id = ?1",
                params![signed(id.0), now_unix_ms(), word, problem],
            )?)
        })
        .await
    }

    /// The newest `limit` of a service, newest first.
    pub async fn deploys(&self, service: &ServiceName, limit: u32) -> Result<Vec<StoredDeploy>, Error> {
        let service = service.clone();
        self.read("read deploys", move |connection| {
            let query = "SELECT * FROM deploys WHERE service = ?1 ORDER BY id DESC LIMIT ?2";
            rows(connection, query, params![service.as_str(), limit], read)
        })
        .await
    }
}

/// The phase's JSON text, quotes included: what reads it back is the protocol's own reader.
fn phase_json(phase: DeployPhase) -> String {
    serde_json::to_string(&phase).expect("a word is JSON")
}

fn read(row: &Row<'_>) -> Result<StoredDeploy, Fault> {
    let (word, failure): (Option<String>, Option<String>) = (plain(row, "outcome")?, plain(row, "failure")?);
    let end = match (word.as_deref(), failure) {
        (None, None) => None,
        (Some("done"), None) => Some(DeployEnd::Done),
        (Some("superseded"), None) => Some(DeployEnd::Superseded),
        (Some("failed"), Some(problem)) => Some(DeployEnd::Failed(serde_json::from_str(&problem)?)),
        (Some("rolled-back"), Some(problem)) => Some(DeployEnd::RolledBack(serde_json::from_str(&problem)?)),
        _ => return Err(Fault::Stored(StoredValue::Word)),
    };
    Ok(StoredDeploy {
        id: DeployId(unsigned(row, "id")?),
        service: parsed(row, "service")?,
        from: release_or_null(row, "from_release")?,
        to: ReleaseNumber(unsigned(row, "to_release")?),
        phase: serde_json::from_str(&plain::<String>(row, "phase")?)?,
        started_unix_ms: unsigned(row, "started_at")?,
        end,
        ended_unix_ms: unsigned_or_null(row, "ended_at")?,
    })
}
