//! What the service manager is told (sd_notify(3)); nothing where none started us.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use super::{heart, spawn};

/// Requests are answered, and everything that ran is adopted.
pub fn ready() {
    say(&[NotifyState::Ready, NotifyState::Status("runs; `agentctl status` tells more")]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    say(&[NotifyState::Status(text)]);
}

/// From here on the unit's stop timeout counts: to be said at the very end.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Whether our stderr is the journal, which has the time of every line.
pub fn logs_to_journal() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

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
            None => say(&[NotifyState::Watchdog]),
            Some(task) if told != still => {
                tracing::error!(task, "a loop stands still; the service manager will start us again, services run on");
            }
            Some(_) => {}
        }
        told = still;
        tokio::time::sleep(interval).await;
    }
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
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
