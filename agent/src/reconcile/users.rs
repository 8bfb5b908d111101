//! Whom a service's builds and instances run as, and so whose its files are.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use agentd_protocol::api::DeployPhase;
use agentd_protocol::ids::ServiceName;
use agentd_protocol::shim::spec::User;

use super::worker::{Halt, Wanted, Worker};
use crate::source::{Ids, Owner, Source};
use crate::store::{Holder, Store};
use crate::supervisor::Tmp;

#[derive(Debug, Clone)]
pub enum Users {
    /// Whoever the manager is.
    Manager,
    /// One for all.
    Shared(Ids),
    /// One for each service, and /tmp of its own for each instance where the host allows it.
    Each { ids: UserIds, tmp: Tmp },
}

/// Ids to give: uid and gid of a service are the same number.
#[derive(Debug, Clone)]
pub struct UserIds {
    pub range: RangeInclusive<u32>,
    /// Those of the range that users, groups or files of this host have already.
    pub taken: BTreeSet<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum NoUser {
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    #[error(transparent)]
    Source(#[from] crate::source::Error),
    #[error(
        "every id from {first} to {last} is given to a service or taken: widen `[users] ids` in agentd.toml, or \
         `agentctl prune` services that left the stack"
    )]
    AllGiven { first: u32, last: u32 },
}

impl Users {
    /// What of /tmp instances and builds see.
    pub(super) fn tmp(&self) -> Tmp {
        match self {
            Self::Manager | Self::Shared(_) => Tmp::Shared,
            Self::Each { tmp, .. } => *tmp,
        }
    }

    async fn owner(&self, store: &Store, source: &Source, name: &ServiceName) -> Result<Owner, NoUser> {
        match self {
            Self::Manager => Ok(Owner::Manager),
            Self::Shared(ids) => Ok(Owner::Shared(*ids)),
            Self::Each { ids, .. } => {
                // A database that was lost knows of no id, but the data still carries them.
                let taken = source.ids_on_disk(name).await?;
                ids.of(store, Holder::Service(name.clone()), taken).await.map(Owner::Alone)
            }
        }
    }
}

impl UserIds {
    /// The holder's, given now if it has none.
    pub async fn of(&self, store: &Store, holder: Holder, also_taken: BTreeSet<u32>) -> Result<Ids, NoUser> {
        let taken = self.taken.union(&also_taken).copied().collect();
        let given = store.user_id(holder, self.range.clone(), taken).await?;
        let (first, last) = (*self.range.start(), *self.range.end());
        given.map(|id| Ids { uid: id, gid: id }).ok_or(NoUser::AllGiven { first, last })
    }
}

/// As the supervisor wants to know it.
pub(super) fn user(owner: Owner) -> Option<User> {
    owner.ids().map(|Ids { uid, gid }| User { uid, gid })
}

impl Worker {
    pub(super) async fn owner(&self, wanted: &Wanted, phase: DeployPhase) -> Result<Owner, Halt> {
        let owner = self.rooms.users.owner(&self.rooms.store, &self.rooms.source, &self.name);
        self.fallible(wanted, phase, owner).await
    }
}
