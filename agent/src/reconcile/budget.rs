//! How many events may be written (pure but for the time handed in): fair per service, so that one crash loop neither
//! owns the disk nor washes what others did out of the log.

use std::collections::BTreeMap;
use std::time::Duration;

use agentd_protocol::api::What;
use agentd_protocol::ids::ServiceName;
use tokio::time::Instant;

/// One service's instances: a deploy of many replicas at once, then what a loop of crashes may write for ever; at this
/// pace it takes two days to fill the log.
const INSTANCES: Rate = Rate { burst: 60, every: Duration::from_secs(20) };
/// One service's builds, deploys and orders, and the host's own.
const ACTS: Rate = Rate { burst: 100, every: Duration::from_secs(1) };
/// All services' instances together: each batch is a transaction on disk.
const ALL_INSTANCES: Rate = Rate { burst: 400, every: Duration::from_millis(50) };
/// Above this, services that have not been heard for long are forgotten; a stack has 2,000 at most.
const KNOWN_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    every: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Acts,
    Instances,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    filled: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, filled: now }
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        while self.left < rate.burst && now.duration_since(self.filled) >= rate.every {
            self.left += 1;
            self.filled += rate.every;
        }
        if self.left == rate.burst {
            self.filled = now;
        }
    }
}

#[derive(Debug)]
pub(super) struct Budget {
    all_instances: Bucket,
    services: BTreeMap<(Option<ServiceName>, Lane), Bucket>,
    suppressed: BTreeMap<Option<ServiceName>, u64>,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { all_instances: Bucket::full(ALL_INSTANCES, now), services: BTreeMap::new(), suppressed: BTreeMap::new() }
    }

    /// Leave to write one, with the number of this service's that had none since its last; `None`: this one has none.
    pub(super) fn take(&mut self, service: Option<&ServiceName>, what: &What, now: Instant) -> Option<u64> {
        self.forget_quiet(now);
        let lane = lane(what);
        let rate = rate_of(lane);
        let own = self.services.entry((service.cloned(), lane)).or_insert_with(|| Bucket::full(rate, now));
        own.fill(rate, now);
        self.all_instances.fill(ALL_INSTANCES, now);
        let shared = match lane {
            Lane::Instances => Some(&mut self.all_instances),
            Lane::Acts => None,
        };
        if own.left == 0 || shared.as_ref().is_some_and(|shared| shared.left == 0) {
            *self.suppressed.entry(service.cloned()).or_default() += 1;
            return None;
        }
        own.left -= 1;
        if let Some(shared) = shared {
            shared.left -= 1;
        }
        Some(self.suppressed.remove(&service.cloned()).unwrap_or(0))
    }

    fn forget_quiet(&mut self, now: Instant) {
        if self.services.len() < KNOWN_MAX {
            return;
        }
        self.services.retain(|(_, lane), bucket| {
            let rate = rate_of(*lane);
            bucket.fill(rate, now);
            bucket.left < rate.burst
        });
    }
}

fn rate_of(lane: Lane) -> Rate {
    match lane {
        Lane::Instances => INSTANCES,
        Lane::Acts => ACTS,
    }
}

/// What programs do by themselves is thinned out before what was ordered is.
fn lane(what: &What) -> Lane {
    let family = what.word().split('.').next().unwrap_or_default();
    if matches!(family, "run" | "crash" | "health") { Lane::Instances } else { Lane::Acts }
}

#[cfg(test)]
mod tests {
    use super::super::testing::name;
    use super::*;

    const CRASH: fn() -> What = || What::CrashLoopLeft {};

    fn spend(budget: &mut Budget, service: &ServiceName, count: u32, now: Instant) -> u32 {
        let taken = (0..count).filter(|_| budget.take(Some(service), &CRASH(), now).is_some()).count();
        u32::try_from(taken).unwrap()
    }

    #[test]
    fn a_storm_of_one_service_is_cut_and_counted_and_leaves_the_others_alone() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let (noisy, quiet) = (name("noisy"), name("quiet"));
        assert_eq!(spend(&mut budget, &noisy, INSTANCES.burst + 7, start), INSTANCES.burst);
        assert_eq!(budget.take(Some(&quiet), &CRASH(), start), Some(0));
        assert_eq!(
            budget.take(Some(&noisy), &What::ServiceStopped {}, start),
            Some(7),
            "an order is told, with the sum"
        );
        assert_eq!(budget.take(Some(&noisy), &CRASH(), start), None);
        assert_eq!(budget.take(Some(&noisy), &CRASH(), start + INSTANCES.every), Some(1));
        assert_eq!(budget.take(Some(&noisy), &CRASH(), start + INSTANCES.every), None);
    }

    #[test]
    fn many_services_at_once_share_the_disk_but_never_silence_orders() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let all: Vec<ServiceName> = (0..20).map(|number| name(&format!("s{number}"))).collect();
        let taken: u32 = all.iter().map(|service| spend(&mut budget, service, 50, start)).sum();
        assert_eq!(taken, ALL_INSTANCES.burst);
        assert!(budget.take(None, &What::HostDown {}, start).is_some());
        assert!(budget.take(Some(&all[19]), &What::ServiceStarted {}, start).is_some());
    }

    #[test]
    fn a_long_rest_fills_a_bucket_and_no_more() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let service = name("api");
        spend(&mut budget, &service, 1_000, start);
        let later = start + Duration::from_secs(24 * 60 * 60);
        assert_eq!(spend(&mut budget, &service, 1_000, later), INSTANCES.burst);
    }
}
