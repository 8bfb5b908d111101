//! Numbers that only grow, for as long as the file lives.

use agentd_protocol::ids::{Epoch, Generation};

use super::{Error, Store};

impl Store {
    /// One more than ever before; on disk before it is returned.
    pub async fn next_epoch(&self) -> Result<Epoch, Error> {
        self.next("epoch", "count the epoch").await.map(Epoch)
    }

    /// One more than ever before; on disk before it is returned.
    pub async fn next_generation(&self) -> Result<Generation, Error> {
        self.next("generation", "count the generation").await.map(Generation)
    }

    async fn next(&self, key: &'static str, operation: &'static str) -> Result<u64, Error> {
        self.write(operation, move |transaction| {
            let next: i64 = transaction.query_row(
                "INSERT INTO meta (key, value) VALUES (?1, 1) ON CONFLICT (key) DO UPDATE SET value = value + 1 \
                 RETURNING value",
                [key],
                |row| row.get(0),
            )?;
            Ok(u64::try_from(next)?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::testing::open_store;
    use super::*;
    use crate::lifecycle;

    #[tokio::test]
    async fn counters_grow_apart_and_outlive_the_process() {
        let (dir, store) = open_store();
        assert_eq!(store.next_epoch().await.unwrap(), Epoch(1));
        assert_eq!(store.next_epoch().await.unwrap(), Epoch(2));
        assert_eq!(store.next_generation().await.unwrap(), Generation(1));
        drop(store);
        let store = Store::open(&dir.path().join("agentd.db")).unwrap();
        assert_eq!(store.next_epoch().await.unwrap(), Epoch(3));
        assert_eq!(store.next_generation().await.unwrap(), Generation(2));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hundred_writers_at_once_each_get_their_own() {
        let (_dir, store) = open_store();
        let writers: Vec<_> = (0..100)
            .map(|_| {
                let store = store.clone();
                lifecycle::spawn("writer", async move { store.next_generation().await.unwrap().0 })
            })
            .collect();
        let mut seen = BTreeSet::new();
        for writer in writers {
            seen.insert(writer.await.unwrap());
        }
        assert_eq!(seen, (1..=100).collect());
    }
}
