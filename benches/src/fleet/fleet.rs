//! All hosts, held, on one thread; who waits for them sees when the last one has a version.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::host::{Calls, Host, Kind};

/// Longest wait for all hosts to have a version.
const LIMIT: Duration = Duration::from_secs(180);
/// Before a report that failed is repeated.
const REPEAT: Duration = Duration::from_secs(1);
/// The first reports of all hosts are spread over that time.
const SPREAD: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// The held report was answered.
    pub(crate) woken: Instant,
    pub(crate) verified: Instant,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    hosts: RefCell<Vec<Host>>,
    count: usize,
    calls: Calls,
    times: RefCell<BTreeMap<u64, Vec<Times>>>,
    verified: watch::Sender<u64>,
    reports: Cell<u64>,
    failures: Cell<u64>,
}

impl Fleet {
    pub(crate) fn new(hosts: Vec<Host>, calls: &Calls) -> Self {
        let count = hosts.len();
        Self {
            hosts: RefCell::new(hosts),
            count,
            calls: calls.clone(),
            times: RefCell::default(),
            verified: watch::channel(0).0,
            reports: Cell::new(0),
            failures: Cell::new(0),
        }
    }

    /// Runs the fleet until `script` is done.
    pub(crate) async fn during<T>(&self, script: impl Future<Output = Result<T>>) -> Result<T> {
        let mut hosts = self.hosts.take();
        let count = u32::try_from(hosts.len().max(1))?;
        let first = |index: usize| SPREAD / count * u32::try_from(index).unwrap_or(count);
        let mut lives: FuturesUnordered<_> =
            hosts.iter_mut().enumerate().map(|(index, host)| self.live(host, first(index))).collect();
        let mut script = std::pin::pin!(script);
        loop {
            tokio::select! {
                done = &mut script => return done,
                Some(()) = lives.next() => {}
            }
        }
    }

    async fn live(&self, host: &mut Host, first: Duration) {
        tokio::time::sleep(first).await;
        loop {
            if let Err(error) = self.turn(host).await {
                self.failures.set(self.failures.get() + 1);
                if self.failures.get() <= 3 {
                    super::say(&format!("fleet: {error:#}"));
                }
                tokio::time::sleep(REPEAT).await;
            }
        }
    }

    async fn turn(&self, host: &mut Host) -> Result<()> {
        let answer = host.report(&self.calls, Kind::Held).await?;
        self.reports.set(self.reports.get() + 1);
        if answer.head.version.0 > host.version {
            let woken = Instant::now();
            host.follow(&self.calls).await?;
            let times = Times { woken, verified: Instant::now() };
            self.times.borrow_mut().entry(host.version).or_default().push(times);
            self.verified.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    pub(crate) async fn all_hold(&self, version: u64) -> Result<()> {
        let mut verified = self.verified.subscribe();
        let have = || self.times.borrow().get(&version).map_or(0, Vec::len);
        let all = async {
            while have() < self.count {
                verified.changed().await.context("the fleet ended")?;
            }
            Ok(())
        };
        let waited = tokio::time::timeout(LIMIT, all).await;
        waited.with_context(|| format!("{} of {} hosts hold version {version}", have(), self.count))?
    }

    pub(crate) fn times(&self, version: u64) -> Vec<Times> {
        self.times.borrow().get(&version).cloned().unwrap_or_default()
    }

    pub(crate) fn reports(&self) -> u64 {
        self.reports.get()
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.get()
    }
}
