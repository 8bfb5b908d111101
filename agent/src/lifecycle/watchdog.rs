//! The service manager starts us again when a loop stands still (sd_notify(3), WATCHDOG=1).

use std::time::Duration;

use agentd_lifecycle::{service, spawn};
use tokio_util::sync::CancellationToken;

use super::heart;

/// Feeds the watchdog, if the unit has one, for as long as every loop turns.
pub fn start_watchdog(cancel: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    spawn("watchdog", async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = feed(interval(limit)) => {}
        }
    });
}

/// Three meals in the time it takes to starve: one may be lost, one late.
fn interval(limit: Duration) -> Duration {
    limit / 3
}

async fn feed(interval: Duration) {
    let mut told = None;
    loop {
        let still = heart::standing_still();
        match still {
            None => service::alive(),
            Some(task) if told != still => {
                tracing::error!(task, "a loop stands still; the service manager will start us again, services run on");
            }
            Some(_) => {}
        }
        told = still;
        tokio::time::sleep(interval).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_meal_does_not_starve() {
        let limit = Duration::from_secs(30);
        assert!(interval(limit) * 2 < limit);
    }
}
