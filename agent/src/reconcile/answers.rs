//! Questions the task need not be asked, or not alone: usage is looked at by whoever wants it, releases are the store's.

use agentd_protocol::api::{ReleaseState, ReleaseStatus, Releases, Status};
use agentd_protocol::ids::{ReleaseNumber, ServiceName};

use super::{Error, Handle};
use crate::store::{self, StoredRelease};
use crate::supervisor::{Usage, Used};

impl Handle {
    /// With what is used now; the task's own answer has none.
    pub async fn status(&self) -> Result<Status, Error> {
        let mut status = self.status_unmeasured().await?;
        let usage = self.rooms.supervisor.usage(status.agent.home.clone().into()).await;
        measure(&mut status, usage);
        Ok(status)
    }

    /// What is kept of a service, newest first.
    pub async fn releases(&self, service: &ServiceName) -> Result<Releases, Error> {
        let services = self.rooms.store.services().await?;
        let known = services.into_iter().find(|known| known.name == *service);
        let known = known.ok_or_else(|| Error::NoService(service.clone()))?;
        let stored = self.rooms.store.releases(service).await?;
        let pinned = known.pinned.map(|pin| pin.release);
        let releases = stored.iter().filter_map(|release| kept(release, known.active, pinned)).collect();
        Ok(Releases { service: known.name, releases })
    }
}

fn measure(status: &mut Status, usage: Usage) {
    for service in &mut status.services {
        let mut total = Used::default();
        for instance in &mut service.instances {
            // An instance that came after the look has not used anything yet that could be told.
            let Some(used) = usage.instances.get(&instance.id) else { continue };
            instance.cpu_millicores = Some(used.cpu_millicores);
            instance.memory_bytes = Some(used.memory_bytes);
            total.cpu_millicores = total.cpu_millicores.saturating_add(used.cpu_millicores);
            total.memory_bytes = total.memory_bytes.saturating_add(used.memory_bytes);
        }
        let measured = service.instances.iter().any(|instance| instance.cpu_millicores.is_some());
        service.cpu_millicores = measured.then_some(total.cpu_millicores);
        service.memory_bytes = measured.then_some(total.memory_bytes);
    }
    status.host = usage.host;
}

/// `None` for one that is only remembered as a number.
fn kept(
    release: &StoredRelease,
    active: Option<ReleaseNumber>,
    pinned: Option<ReleaseNumber>,
) -> Option<ReleaseStatus> {
    let created = release.created_unix_ms;
    let (state, took_ms, failure) = match &release.state {
        store::ReleaseState::Built => {
            let state = if active == Some(release.number) { ReleaseState::Active } else { ReleaseState::Built };
            // One that takes over an older one's output is built the moment it is made.
            let took = release.built_unix_ms.and_then(|built| built.checked_sub(created)).filter(|took| *took > 0);
            (state, took, None)
        }
        store::ReleaseState::Building => (ReleaseState::Building, None, None),
        store::ReleaseState::Failed(problem) => {
            (ReleaseState::Failed, problem.since_unix_ms.checked_sub(created), Some(problem.cause.clone()))
        }
        store::ReleaseState::Gone => return None,
    };
    Some(ReleaseStatus {
        release: release.number,
        commit: release.commit.clone(),
        state,
        pinned: pinned == Some(release.number),
        created_unix_ms: created,
        built_unix_ms: release.built_unix_ms,
        took_ms,
        failure,
    })
}
