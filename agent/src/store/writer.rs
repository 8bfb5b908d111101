//! The one thread that holds the connection, and the handle that sends it work.

use std::path::Path;
use std::sync::Arc;

use agentd_protocol::ids::EventId;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::Error;
use super::migrations::MIGRATIONS;
use agentd_sqlite::Fault;

/// Callers beyond this wait for a place: work is milliseconds, so a full queue means a stalled disk.
const QUEUE_MAX: usize = 256;

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// The way to the database. The last clone to go closes it.
#[derive(Debug, Clone)]
pub struct Store {
    work: mpsc::Sender<Work>,
    /// Of those recorded through this store; 0 until the first.
    pub(super) newest_event: Arc<watch::Sender<EventId>>,
}

impl Store {
    /// Blocks for as long as the disk takes: to be called before anything is served.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let connection = agentd_sqlite::open(path, MIGRATIONS)?;
        let (work, inbox) = mpsc::channel(QUEUE_MAX);
        // Its own thread, since it lives as long as the process: a place in the blocking pool is for work that ends.
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || serve(connection, inbox))
            .map_err(|source| agentd_sqlite::Error::Open { path: path.to_owned(), source })?;
        Ok(Self { work, newest_event: Arc::new(watch::Sender::new(EventId(0))) })
    }

    /// Returns when the store can serve no more, after a panic in its thread. For an essential task to wait on.
    pub async fn stopped(&self) {
        self.work.closed().await;
    }

    /// Runs `change` in one transaction, which is on disk when this returns.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        self.call(operation, move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let answer = change(&transaction)?;
            transaction.commit()?;
            Ok(answer)
        })
        .await
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        self.call(operation, move |connection| query(connection)).await
    }

    async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            // The caller may have given up waiting; what it asked for is done all the same.
            let _ = reply.send(work(connection));
        });
        self.work.send(work).await.map_err(|_| Error::Stopped { operation })?;
        answer.await.map_err(|_| Error::Stopped { operation })?.map_err(|fault| fault.of(operation).into())
    }
}

fn serve(mut connection: Connection, mut inbox: mpsc::Receiver<Work>) {
    while let Some(work) = inbox.blocking_recv() {
        work(&mut connection);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::open_store;
    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_an_error_and_the_store_goes_on() {
        let (_dir, store) = open_store();
        let error = store
            .write("fill the disk", |transaction| {
                transaction.pragma_update_and_check(None, "max_page_count", 1, |_| Ok(()))?;
                transaction.execute("INSERT INTO meta VALUES ('big', randomblob(4000000))", [])?;
                Ok(())
            })
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Sqlite(agentd_sqlite::Error::DiskFull { operation: "fill the disk", .. })),
            "{error:?}"
        );
        store
            .read("lift the limit", |connection| {
                Ok(connection.pragma_update_and_check(None, "max_page_count", 1_000_000, |_| Ok(()))?)
            })
            .await
            .unwrap();
        assert!(store.next_epoch().await.is_ok());
    }

    #[tokio::test]
    async fn a_panic_stops_the_store_and_is_told() {
        let (_dir, store) = open_store();
        let broken: Result<(), Error> = store.read("break an invariant", |_| panic!("as the test wants it")).await;
        assert!(matches!(broken, Err(Error::Stopped { .. })));
        store.stopped().await;
        assert!(matches!(store.next_epoch().await, Err(Error::Stopped { .. })));
    }

    #[tokio::test]
    async fn a_failed_change_leaves_nothing() {
        let (_dir, store) = open_store();
        let failed: Result<(), Error> = store
            .write("change halfway", |transaction| {
                transaction.execute("INSERT INTO meta VALUES ('half', 1)", [])?;
                Err(Fault::Missing)
            })
            .await;
        assert!(matches!(failed, Err(Error::Sqlite(agentd_sqlite::Error::Missing { .. }))));
        let left: i64 = store
            .read("count", |connection| Ok(connection.query_row("SELECT count(*) FROM meta", [], |row| row.get(0))?))
            .await
            .unwrap();
        assert_eq!(left, 0);
    }
}
