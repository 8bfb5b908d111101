//! Instances: which running copies the manager started and has not removed.

use agentd_protocol::ids::{InstanceId, ReleaseNumber, ServiceName};
use rusqlite::{Row, params};

use super::convert::{Fault, now_unix_ms, parsed, plain, rows, signed, some_row, unsigned};
use super::{Error, Store};

/// Rows of removed instances: history to look at, nothing more.
const REMOVED_KEPT: u32 = 1_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInstance {
    pub id: InstanceId,
    pub service: ServiceName,
    pub release: ReleaseNumber,
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredInstance {
    pub id: InstanceId,
    pub service: ServiceName,
    pub release: ReleaseNumber,
    pub port: Option<u16>,
    pub created_unix_ms: u64,
    /// Last event of its shim that was taken in.
    pub last_event_seq: u64,
    pub restarts: u32,
}

impl Store {
    pub async fn put_instance(&self, instance: NewInstance) -> Result<(), Error> {
        self.write("store an instance", move |transaction| {
            transaction.execute(
                "INSERT INTO instances (id, service, release, port, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    instance.id.as_str(),
                    instance.service.as_str(),
                    signed(instance.release.0),
                    instance.port,
                    now_unix_ms()
                ],
            )?;
            Ok(())
        })
        .await
    }

    pub async fn remove_instance(&self, id: &InstanceId) -> Result<(), Error> {
        let id = id.clone();
        self.write("remove an instance", move |transaction| {
            some_row(transaction.execute(
                "UPDATE instances SET removed_at = coalesce(removed_at, ?2) WHERE id = ?1",
                params![id.as_str(), now_unix_ms()],
            )?)?;
            transaction.execute(
                "DELETE FROM instances WHERE removed_at IS NOT NULL AND id NOT IN (\
                 SELECT id FROM instances WHERE removed_at IS NOT NULL ORDER BY removed_at DESC, id LIMIT ?1)",
                [REMOVED_KEPT],
            )?;
            Ok(())
        })
        .await
    }

    /// Those not removed, oldest first.
    pub async fn instances(&self) -> Result<Vec<StoredInstance>, Error> {
        self.read("read the instances", |connection| {
            let query = "SELECT * FROM instances WHERE removed_at IS NULL ORDER BY created_at, id";
            rows(connection, query, [], read)
        })
        .await
    }

    /// Never goes back: a late call with an older number changes nothing.
    pub async fn set_event_seq(&self, id: &InstanceId, seq: u64) -> Result<(), Error> {
        let id = id.clone();
        self.write("record the last event of an instance", move |transaction| {
            some_row(transaction.execute(
                "UPDATE instances SET last_event_seq = max(last_event_seq, ?2) WHERE id = ?1",
                params![id.as_str(), signed(seq)],
            )?)
        })
        .await
    }

    pub async fn add_restarts(&self, id: &InstanceId, more: u32) -> Result<(), Error> {
        let id = id.clone();
        self.write("count restarts", move |transaction| {
            some_row(transaction.execute(
                "UPDATE instances SET restarts = min(restarts + ?2, ?3) WHERE id = ?1",
                params![id.as_str(), more, u32::MAX],
            )?)
        })
        .await
    }
}

fn read(row: &Row<'_>) -> Result<StoredInstance, Fault> {
    Ok(StoredInstance {
        id: parsed(row, "id")?,
        service: parsed(row, "service")?,
        release: ReleaseNumber(unsigned(row, "release")?),
        port: plain(row, "port")?,
        created_unix_ms: unsigned(row, "created_at")?,
        last_event_seq: unsigned(row, "last_event_seq")?,
        restarts: plain(row, "restarts")?,
    })
}
