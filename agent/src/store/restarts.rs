//! Restarts nobody asked for, of instances that are gone.

use agentd_protocol::ids::{InstanceId, ReleaseNumber, ServiceName};
use rusqlite::{Row, params};

use super::{Error, Store};
use agentd_sqlite::{Fault, parsed, rows, signed, unsigned};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastRestarts {
    pub service: ServiceName,
    pub instance: InstanceId,
    pub count: u32,
}

impl Store {
    /// Before the instance's folder goes, which holds the count until then. Told twice it counts once.
    pub async fn note_restarts(
        &self,
        service: &ServiceName,
        release: ReleaseNumber,
        instance: &InstanceId,
        count: u32,
    ) -> Result<(), Error> {
        let (service, instance) = (service.clone(), instance.clone());
        self.write("note the restarts of an instance", move |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO past_restarts (instance, service, release, count) VALUES (?1, ?2, ?3, ?4)",
                params![instance.as_str(), service.as_str(), signed(release.0), count],
            )?;
            Ok(())
        })
        .await
    }

    /// Of the release of each service that serves, or served last.
    pub async fn past_restarts(&self) -> Result<Vec<PastRestarts>, Error> {
        self.read("read past restarts", |connection| {
            let query = "SELECT past_restarts.* FROM past_restarts \
                         JOIN services ON services.name = service AND active_release = release";
            rows(connection, query, [], read)
        })
        .await
    }
}

fn read(row: &Row<'_>) -> Result<PastRestarts, Fault> {
    Ok(PastRestarts {
        service: parsed(row, "service")?,
        instance: parsed(row, "instance")?,
        count: u32::try_from(unsigned(row, "count")?)?,
    })
}
