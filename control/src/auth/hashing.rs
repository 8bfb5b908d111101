//! Hashes of passwords away from the tasks that serve requests, few at once: each takes 19 MiB and a core.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{Error, password};
use crate::lifecycle;

/// At once.
const RUNNING_MAX: usize = 2;
/// Running or waiting for their turn; at 50 ms each the last one waits less than a second.
const WAITING_MAX: usize = 32;

#[derive(Debug, Clone)]
pub(super) struct Hashing {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Hashing {
    pub(super) fn new() -> Self {
        Self { running: Arc::new(Semaphore::new(RUNNING_MAX)), waiting: Arc::new(Semaphore::new(WAITING_MAX)) }
    }

    pub(super) async fn hash(&self, password: String) -> Result<String, Error> {
        self.run(move || password::hash(&password, password::draw_salt())).await
    }

    /// `stored`: `None` where there is no such account, which takes as long.
    pub(super) async fn verify(&self, stored: Option<String>, password: String) -> Result<bool, Error> {
        self.run(move || password::verify(stored.as_deref(), &password)).await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let _place = self.waiting.try_acquire().map_err(|_| Error::Busy)?;
        let turn = Arc::clone(&self.running).acquire_owned().await.map_err(|_| Error::Busy)?;
        let work = move || {
            // Held until the work is done, also where the caller has gone.
            let _turn = turn;
            work()
        };
        lifecycle::spawn_blocking("hash a password", work).await.map_err(|_| Error::Busy)
    }
}
