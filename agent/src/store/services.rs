//! Services ever seen, and what the operator asked of them on this host: stopped, pinned.

use agentd_protocol::ids::{ReleaseNumber, ServiceName};
use rusqlite::{Row, params};

use super::convert::{now_unix_ms, plain, release_or_null};
use super::user_ids;
use super::versions::{drop_unused_env, know_services};
use super::{Digest, Error, Store};
use agentd_sqlite::{Fault, StoredValue, parsed, rows, signed, some_row, unsigned, unsigned_or_null};

/// A local rollback: this release is held while the entry is the one it was pinned against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    pub release: ReleaseNumber,
    /// [`super::entry_digest`] of the service's entry when it was pinned.
    pub entry: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredService {
    pub name: ServiceName,
    pub first_seen_unix_ms: u64,
    /// Left the document; its data is kept until it is pruned.
    pub removed_unix_ms: Option<u64>,
    pub stopped: bool,
    /// The release that serves; kept when the service is removed.
    pub active: Option<ReleaseNumber>,
    pub pinned: Option<Pin>,
}

impl StoredService {
    pub fn is_removed(&self) -> bool {
        self.removed_unix_ms.is_some()
    }
}

impl Store {
    /// Known from now on, and not removed. [`Store::put_version`] does so for every service of its stack.
    pub async fn ensure_service(&self, service: &ServiceName) -> Result<(), Error> {
        let service = service.clone();
        self.write("note a service", move |transaction| know_services(transaction, &[service])).await
    }

    /// By name, removed ones included.
    pub async fn services(&self) -> Result<Vec<StoredService>, Error> {
        self.read("read the services", |connection| rows(connection, "SELECT * FROM services ORDER BY name", [], read))
            .await
    }

    /// The commit point of a deploy: from here on this release is the one that serves.
    pub async fn set_active(&self, service: &ServiceName, release: ReleaseNumber) -> Result<(), Error> {
        let service = service.clone();
        self.write("record the active release", move |transaction| {
            some_row(transaction.execute(
                "UPDATE services SET active_release = ?2 WHERE name = ?1 \
                 AND EXISTS (SELECT 1 FROM releases WHERE service = ?1 AND number = ?2)",
                params![service.as_str(), signed(release.0)],
            )?)
        })
        .await
    }

    pub async fn set_stopped(&self, service: &ServiceName, stopped: bool) -> Result<(), Error> {
        let service = service.clone();
        self.write("record whether a service is stopped", move |transaction| {
            let query = "UPDATE services SET stopped = ?2 WHERE name = ?1";
            some_row(transaction.execute(query, params![service.as_str(), stopped])?)
        })
        .await
    }

    pub async fn pin(&self, service: &ServiceName, release: ReleaseNumber, entry: Digest) -> Result<(), Error> {
        let service = service.clone();
        self.write("pin a service", move |transaction| {
            some_row(transaction.execute(
                "UPDATE services SET pinned_release = ?2, pinned_entry_sha = ?3 WHERE name = ?1",
                params![service.as_str(), signed(release.0), entry.to_string()],
            )?)
        })
        .await
    }

    pub async fn unpin(&self, service: &ServiceName) -> Result<(), Error> {
        let service = service.clone();
        self.write("unpin a service", move |transaction| {
            let query = "UPDATE services SET pinned_release = NULL, pinned_entry_sha = NULL WHERE name = ?1";
            some_row(transaction.execute(query, [service.as_str()])?)
        })
        .await
    }

    /// Its pin and its stop end with it: should it come back, it comes back as the document says.
    pub async fn mark_removed(&self, service: &ServiceName) -> Result<(), Error> {
        let service = service.clone();
        self.write("mark a service as removed", move |transaction| {
            some_row(transaction.execute(
                "UPDATE services SET removed_at = coalesce(removed_at, ?2), stopped = 0, pinned_release = NULL, \
                 pinned_entry_sha = NULL WHERE name = ?1",
                params![service.as_str(), now_unix_ms()],
            )?)
        })
        .await
    }

    /// Forgets a service with its releases and deploys; only its last release number is remembered.
    pub async fn prune_service(&self, service: &ServiceName) -> Result<(), Error> {
        let service = service.clone();
        self.write("forget a service", move |transaction| {
            some_row(transaction.execute("DELETE FROM services WHERE name = ?1", [service.as_str()])?)?;
            transaction.execute("DELETE FROM deploys WHERE service = ?1", [service.as_str()])?;
            user_ids::free(transaction, &service)?;
            drop_unused_env(transaction)
        })
        .await
    }
}

fn read(row: &Row<'_>) -> Result<StoredService, Fault> {
    let entry: Option<String> = plain(row, "pinned_entry_sha")?;
    let pinned = match (release_or_null(row, "pinned_release")?, entry) {
        (Some(release), Some(entry)) => Some(Pin { release, entry: entry.parse()? }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err(Fault::Stored(StoredValue::Word)),
    };
    Ok(StoredService {
        name: parsed(row, "name")?,
        first_seen_unix_ms: unsigned(row, "first_seen")?,
        removed_unix_ms: unsigned_or_null(row, "removed_at")?,
        stopped: plain(row, "stopped")?,
        active: release_or_null(row, "active_release")?,
        pinned,
    })
}
