//! Connections that only read, beside the writer: a long page of the journal holds up no commit.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::Error;
use crate::lifecycle;
use agentd_sqlite::Fault;

/// At once, of one file: they share the disk and two or three cores.
const CONNECTIONS: usize = 3;

#[derive(Debug, Clone)]
pub(super) struct Reader {
    places: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let idle: Vec<Connection> =
            (0..CONNECTIONS).map(|_| agentd_sqlite::open_to_read(path)).collect::<Result<_, _>>()?;
        Ok(Self { places: Arc::new(Semaphore::new(CONNECTIONS)), idle: Arc::new(Mutex::new(idle)) })
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let stopped = Error::Stopped { operation };
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return Err(stopped) };
        let idle = Arc::clone(&self.idle);
        let work = move || {
            let connection = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = connection.expect("there are as many connections as places");
            let answer = query(&connection);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(place);
            answer
        };
        lifecycle::spawn_blocking("read the database", work)
            .await
            .map_err(|_| stopped)?
            .map_err(|fault| fault.of(operation).into())
    }
}
