//! Which id each service runs with: given once, kept for ever.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use agentd_protocol::ids::ServiceName;
use rusqlite::{OptionalExtension, Transaction, params};

use super::convert::now_unix_ms;
use super::{Error, Store};
use agentd_sqlite::Fault;

/// What stands in the column for the edge: no service's name.
const EDGE: &str = "@edge";
const TUNNEL: &str = "@tunnel";

/// Who runs with an id of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    Service(ServiceName),
    Edge,
    Tunnel,
}

impl Holder {
    fn column(&self) -> &str {
        match self {
            Self::Service(name) => name.as_str(),
            Self::Edge => EDGE,
            Self::Tunnel => TUNNEL,
        }
    }
}

impl Store {
    /// The holder's id: the one it was given first, whatever `ids` says by now, or else one of `ids` that is neither in
    /// `taken` nor given. `None`: all are.
    pub async fn user_id(
        &self,
        holder: Holder,
        ids: RangeInclusive<u32>,
        taken: BTreeSet<u32>,
    ) -> Result<Option<u32>, Error> {
        self.write("give a service its user id", move |transaction| {
            let holder = holder.column();
            let query = "UPDATE user_ids SET freed_at = NULL WHERE holder = ?1 RETURNING id";
            let known: Option<u32> = transaction.query_row(query, [holder], |row| row.get(0)).optional()?;
            if known.is_some() {
                return Ok(known);
            }
            let Some(id) = fresh(transaction, &ids, &taken)?.or(freed(transaction, &ids, &taken)?) else {
                return Ok(None);
            };
            transaction.execute(
                "INSERT OR REPLACE INTO user_ids (id, holder, given_at) VALUES (?1, ?2, ?3)",
                params![id, holder, now_unix_ms()],
            )?;
            Ok(Some(id))
        })
        .await
    }
}

/// The lowest that nobody ever had.
fn fresh(
    transaction: &Transaction<'_>,
    ids: &RangeInclusive<u32>,
    taken: &BTreeSet<u32>,
) -> Result<Option<u32>, Fault> {
    let given = list(transaction, "SELECT id FROM user_ids", ids)?;
    let given: BTreeSet<u32> = given.into_iter().collect();
    Ok(ids.clone().find(|id| !given.contains(id) && !taken.contains(id)))
}

/// The one whose holder was pruned longest ago.
fn freed(
    transaction: &Transaction<'_>,
    ids: &RangeInclusive<u32>,
    taken: &BTreeSet<u32>,
) -> Result<Option<u32>, Fault> {
    let freed = list(transaction, "SELECT id FROM user_ids WHERE freed_at IS NOT NULL ORDER BY freed_at, id", ids)?;
    Ok(freed.into_iter().find(|id| !taken.contains(id)))
}

fn list(transaction: &Transaction<'_>, query: &str, ids: &RangeInclusive<u32>) -> Result<Vec<u32>, Fault> {
    let mut statement = transaction.prepare(query)?;
    let found = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<u32>, _>>()?;
    Ok(found.into_iter().filter(|id| ids.contains(id)).collect())
}

/// Part of forgetting a service: its files are gone.
pub(super) fn free(transaction: &Transaction<'_>, service: &ServiceName) -> Result<(), Fault> {
    let query = "UPDATE user_ids SET freed_at = ?2 WHERE holder = ?1";
    transaction.execute(query, params![service.as_str(), now_unix_ms()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::open_store;
    use super::*;

    fn service(name: &str) -> Holder {
        Holder::Service(ServiceName::new(name).unwrap())
    }

    #[tokio::test]
    async fn an_id_is_given_once_and_outlives_restart_range_and_prune() {
        let (dir, store) = open_store();
        let taken = BTreeSet::from([101]);
        let ids = || 100..=103;
        assert_eq!(store.user_id(service("a"), ids(), taken.clone()).await.unwrap(), Some(100));
        assert_eq!(store.user_id(Holder::Edge, ids(), taken.clone()).await.unwrap(), Some(102), "101 is another's");
        assert_eq!(store.user_id(service("b"), ids(), taken.clone()).await.unwrap(), Some(103));
        drop(store);
        let store = Store::open(&dir.path().join("agentd.db")).unwrap();
        assert_eq!(store.user_id(service("a"), 200..=201, BTreeSet::new()).await.unwrap(), Some(100));
        assert_eq!(store.user_id(service("c"), ids(), taken.clone()).await.unwrap(), None, "all are given");

        let name = ServiceName::new("b").unwrap();
        store.ensure_service(&name).await.unwrap();
        store.prune_service(&name).await.unwrap();
        assert_eq!(
            store.user_id(service("d"), ids(), BTreeSet::new()).await.unwrap(),
            Some(101),
            "never used comes first"
        );
        assert_eq!(store.user_id(service("c"), ids(), taken).await.unwrap(), Some(103), "then what was freed");
        assert_eq!(store.user_id(service("b"), ids(), BTreeSet::new()).await.unwrap(), None, "b's own is c's by now");
    }
}
