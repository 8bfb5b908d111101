//! Reports by some hosts: at a pace, or as fast as they are answered.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::future::join_all;

use super::host::{Calls, Host, Kind, as_f64};
use super::table::micros_of;

/// Failures after which nothing is measured any more.
const FAILURES_MAX: u64 = 20;

#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) latencies_us: Vec<u64>,
    pub(crate) failed: u64,
    pub(crate) took: Duration,
}

impl Measured {
    pub(crate) fn rate(&self, what: &str) -> String {
        let count = u64::try_from(self.latencies_us.len()).unwrap_or(u64::MAX);
        format!("{:.0} {what}/s, {} failed", as_f64(count) / self.took.as_secs_f64(), self.failed)
    }
}

/// All hosts together report so often a second; who is late catches up, so that a slow answer counts.
pub(crate) async fn paced(calls: &Calls, hosts: &mut [Host], per_s: u64, lasting: Duration) -> Result<Measured> {
    let count = u32::try_from(hosts.len().max(1))?;
    let every = Duration::from_secs(1) * count / u32::try_from(per_s)?;
    let started = Instant::now();
    let each = hosts.iter_mut().enumerate().map(|(index, host)| async move {
        let mut due = started + every / count * u32::try_from(index).unwrap_or(0);
        let (mut latencies, mut failed) = (Vec::new(), 0);
        while due < started + lasting {
            tokio::time::sleep_until(due.into()).await;
            match host.report(calls, Kind::Full { events: 0 }).await {
                Ok(_) => latencies.push(micros_of(due.elapsed())),
                Err(_counted) => failed += 1,
            }
            due += every;
        }
        (latencies, failed)
    });
    gather(join_all(each).await, started)
}

/// Each host has one report under way.
pub(crate) async fn burst(calls: &Calls, hosts: &mut [Host], events: u64, lasting: Duration) -> Result<Measured> {
    let started = Instant::now();
    let each = hosts.iter_mut().map(|host| async move {
        let (mut latencies, mut failed) = (Vec::new(), 0);
        while started.elapsed() < lasting && failed < FAILURES_MAX {
            let asked = Instant::now();
            match host.report(calls, Kind::Full { events }).await {
                Ok(_) => latencies.push(micros_of(asked.elapsed())),
                Err(error) => {
                    if failed == 0 {
                        super::say(&format!("fleet: {error:#}"));
                    }
                    failed += 1;
                }
            }
        }
        (latencies, failed)
    });
    gather(join_all(each).await, started)
}

fn gather(parts: Vec<(Vec<u64>, u64)>, started: Instant) -> Result<Measured> {
    let took = started.elapsed();
    let failed = parts.iter().map(|(_, failed)| failed).sum();
    let latencies_us: Vec<u64> = parts.into_iter().flat_map(|(latencies, _)| latencies).collect();
    if latencies_us.is_empty() {
        bail!("no report was answered; {failed} failed");
    }
    Ok(Measured { latencies_us, failed, took })
}
