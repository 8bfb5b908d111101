//! Looks at the tunnel every few seconds, and tells what it found.

use std::time::{Duration, Instant};

use agentd_protocol::api::{TunnelStatus, What};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::drift::Wanted;
use super::probe::{Asker, has_network};
use super::settings::Identity;
use super::state::{Now, Observation, State, Watch, step};
use super::{Error, Handle, Watched};
use crate::lifecycle;

const INTERVAL: Duration = Duration::from_secs(5);
/// While a first connection is waited for.
const INTERVAL_CONNECTING: Duration = Duration::from_secs(1);
/// Transitions that wait for the event log; there is at most one a look.
const EVENTS_MAX: usize = 16;
/// A second order to start again, while the first is carried out, is none.
const RESTARTS_MAX: usize = 1;

struct Watcher {
    watched: Watched,
    wanted: Wanted,
    asker: Asker,
    watch: Watch,
    drift: Option<String>,
    status: watch::Sender<Option<TunnelStatus>>,
    events: mpsc::Sender<What>,
    restarts: mpsc::Sender<()>,
    trouble: watch::Receiver<Option<String>>,
}

/// Looks until `cancel`.
pub fn start(watched: Watched, cancel: CancellationToken) -> Result<Handle, Error> {
    let (events, events_taken) = mpsc::channel(EVENTS_MAX);
    let (restarts, restarts_taken) = mpsc::channel(RESTARTS_MAX);
    let (trouble, trouble_seen) = watch::channel(None);
    let watch = Watch::new(watched.told, now());
    let (status, status_seen) = watch::channel(Some(status_of(&watch, &watched, None, None)));
    let hostnames = match watched.managed.as_ref().map(|managed| &managed.identity) {
        Some(Identity::Credentials { hostnames, .. }) => Some(hostnames.clone()),
        Some(Identity::Token { .. }) | None => None,
    };
    let wanted = Wanted { origin_port: watched.origin_port, hostnames };
    let asker = Asker::new(watched.metrics)?;
    let watcher =
        Watcher { watched, wanted, asker, watch, drift: None, status, events, restarts, trouble: trouble_seen };
    let ended = cancel.clone();
    lifecycle::spawn_essential("tunnel watch", cancel, async move {
        // Cancelled: the manager ends; the tunnel goes on, and the next manager looks at it.
        let _ = ended.run_until_cancelled(watcher.run()).await;
    });
    Ok(Handle { status: status_seen, events: events_taken, restarts: restarts_taken, trouble })
}

impl Watcher {
    async fn run(mut self) {
        loop {
            self.look().await;
            let interval = match self.watch.state {
                State::Connecting => INTERVAL_CONNECTING,
                State::Down { .. } | State::Degraded { .. } | State::Connected { .. } => INTERVAL,
            };
            tokio::time::sleep(interval).await;
        }
    }

    async fn look(&mut self) {
        let mut observation = self.asker.look().await;
        let trouble = self.trouble.borrow_and_update().clone();
        if let (Observation::Silent { .. }, Some(cause)) = (&observation, &trouble) {
            observation = Observation::Dead { cause: cause.clone() };
        }
        if let Observation::Answers { .. } = observation {
            self.drift = self.asker.drift(&self.wanted).await;
        }
        let (watch, event) = step(self.watch.clone(), observation, now());
        self.watch = watch;
        if let Some(what) = event {
            tracing::info!("{}", what.text());
            // Closed: the manager ends.
            let _ = self.events.send(what).await;
        }
        let found = status_of(&self.watch, &self.watched, trouble.clone(), self.drift.clone());
        self.status.send_if_modified(|status| {
            let changed = status.as_ref() != Some(&found);
            *status = Some(found);
            changed
        });
        if self.watched.managed.is_some() && trouble.is_none() && self.watch.restart_is_due(now()) {
            self.restart().await;
        }
    }

    async fn restart(&mut self) {
        let watch = self.watch.clone();
        self.watch = if has_network().await {
            tracing::warn!("the tunnel has had no connection for long though the network is there; starting it again");
            // Full: an order waits already.
            let _ = self.restarts.try_send(());
            watch.restarted(now())
        } else {
            watch.had_no_network(now())
        };
    }
}

fn status_of(watch: &Watch, watched: &Watched, trouble: Option<String>, drift: Option<String>) -> TunnelStatus {
    TunnelStatus {
        state: watch.state.kind(),
        since_unix_ms: watch.since_unix_ms,
        connections: watch.state.connections(),
        managed: watched.managed.is_some(),
        metrics: watched.metrics,
        cause: trouble.or_else(|| watch.state.cause()),
        config_drift: drift,
    }
}

fn now() -> Now {
    Now { at: Instant::now(), unix_ms: agentd_sys::clock::real_ns() / 1_000_000 }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Losing the tunnel must never open the host: nothing here can so much as name what sets its rules.
    #[test]
    fn there_is_no_way_from_the_tunnel_to_the_security_mode() {
        let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files: Vec<_> =
            std::fs::read_dir(agent.join("tunnel")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.push(agent.join("tunnel_launch.rs"));
        assert!(files.len() > 5, "{files:?}");
        let forbidden = [["fire", "wall"].concat(), ["secur", "ity::"].concat(), ["n", "ft"].concat()];
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != ':');
                assert!(!words.into_iter().any(|word| forbidden.iter().any(|no| word.contains(no.as_str()))), "{line}");
            }
        }
    }
}
