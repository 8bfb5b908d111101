//! Leave for liveness restarts: health checks that restart everything at once have caused more outages than they ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use agentd_protocol::ids::InstanceId;
use tokio::time::Instant;

const RESTARTS_MAX: usize = 3;
const WINDOW: Duration = Duration::from_secs(30 * 60);
/// A restarted replica that is not ready after so long no longer keeps the others from their turn.
const TURN_MAX: Duration = Duration::from_secs(5 * 60);

/// Per service.
#[derive(Debug, Default)]
pub(in super::super) struct Allowances(Mutex<BTreeMap<String, Allowance>>);

#[derive(Debug, Default)]
struct Allowance {
    restarts: VecDeque<Instant>,
    turn: Option<(InstanceId, Instant)>,
}

impl Allowances {
    /// Takes leave to restart now, if there is any.
    pub(in super::super) fn take(&self, service: &str, id: &InstanceId, now: Instant) -> bool {
        let mut services = self.0.lock().expect("no holder panics");
        services.entry(service.to_owned()).or_default().take(id, now)
    }

    /// The instance is ready again, or gone.
    pub(in super::super) fn settled(&self, service: &str, id: &InstanceId) {
        let mut services = self.0.lock().expect("no holder panics");
        if let Some(allowance) = services.get_mut(service) {
            allowance.turn.take_if(|(holder, _)| holder == id);
        }
    }
}

impl Allowance {
    fn take(&mut self, id: &InstanceId, now: Instant) -> bool {
        self.restarts.retain(|at| now.duration_since(*at) < WINDOW);
        let others_turn =
            self.turn.as_ref().is_some_and(|(holder, at)| holder != id && now.duration_since(*at) < TURN_MAX);
        if others_turn || self.restarts.len() >= RESTARTS_MAX {
            return false;
        }
        self.restarts.push_back(now);
        self.turn = Some((id.clone(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_replica_at_a_time_and_three_in_half_an_hour() {
        let [a, b] = ["a", "b"].map(|letter| InstanceId::new(letter.repeat(12)).unwrap());
        let allowances = Allowances::default();
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        assert!(allowances.take("api", &a, now));
        assert!(!allowances.take("api", &b, now + minute), "the first is not back yet");
        assert!(allowances.take("web", &b, now), "another service");
        allowances.settled("api", &b);
        assert!(!allowances.take("api", &b, now + minute), "not the holder's word");
        allowances.settled("api", &a);
        assert!(allowances.take("api", &b, now + minute));
        assert!(allowances.take("api", &a, now + 7 * minute), "the turn of b is over");
        allowances.settled("api", &a);
        assert!(!allowances.take("api", &a, now + 29 * minute));
        assert!(allowances.take("api", &a, now + 30 * minute));
    }
}
