//! When to probe and what a result means. Pure: time and jitter come in.

use std::time::Duration;

use tokio::time::Instant;

use super::super::launch::{Gate, ProbePolicy};

/// A starting program is probed often at first: most are up within seconds, and the deploy waits.
const EAGER_INTERVAL: Duration = Duration::from_millis(250);
const EAGER_FOR: Duration = Duration::from_secs(10);
const STARTING_INTERVAL: Duration = Duration::from_secs(1);
/// Without a probe, up for so long is ready.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// Passes in a row that end a failure.
const PASSES_BACK: u32 = 2;
/// Failures in a row, and their least duration, before a restart is asked for.
const LIVENESS_FAILURES: u32 = 6;
const LIVENESS_SPAN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Health {
    /// No program is up: nothing is probed.
    Idle,
    Starting {
        since: Instant,
    },
    /// Still starting, past its deadline.
    Overdue {
        since: Instant,
    },
    Ready {
        misses: Option<Misses>,
    },
    Failing {
        misses: Misses,
        passes: u32,
    },
}

/// Failures in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Misses {
    pub(in super::super) count: u32,
    first: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    Passed,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Effect {
    /// Tell the shim that this incarnation passed its gate.
    MarkReady,
    /// Has failed for so long that a restart is due; asked again with every further failure.
    Restart,
}

impl Misses {
    fn add(misses: Option<Self>, now: Instant) -> Self {
        match misses {
            None => Self { count: 1, first: now },
            Some(misses) => Self { count: misses.count.saturating_add(1), ..misses },
        }
    }

    fn is_fatal(&self, now: Instant, policy: &ProbePolicy) -> bool {
        policy.restart && self.count >= LIVENESS_FAILURES && now.duration_since(self.first) >= LIVENESS_SPAN
    }
}

impl Health {
    pub(in super::super) fn step(self, verdict: Verdict, now: Instant, policy: &ProbePolicy) -> (Self, Option<Effect>) {
        match (self, verdict) {
            (Self::Idle, Verdict::Passed | Verdict::Failed) => (self, None),
            (Self::Starting { .. } | Self::Overdue { .. }, Verdict::Passed) => {
                (Self::Ready { misses: None }, Some(Effect::MarkReady))
            }
            (Self::Starting { .. } | Self::Overdue { .. }, Verdict::Failed) => (self.tick(now, policy), None),
            (Self::Ready { .. }, Verdict::Passed) => (Self::Ready { misses: None }, None),
            (Self::Ready { misses }, Verdict::Failed) => {
                let misses = Misses::add(misses, now);
                if misses.count < policy.failures {
                    return (Self::Ready { misses: Some(misses) }, None);
                }
                let due = misses.is_fatal(now, policy).then_some(Effect::Restart);
                (Self::Failing { misses, passes: 0 }, due)
            }
            (Self::Failing { misses, passes }, Verdict::Passed) => match passes + 1 {
                PASSES_BACK.. => (Self::Ready { misses: None }, None),
                passes => (Self::Failing { misses, passes }, None),
            },
            (Self::Failing { misses, passes }, Verdict::Failed) => {
                let misses = Misses::add((passes == 0).then_some(misses), now);
                let due = misses.is_fatal(now, policy).then_some(Effect::Restart);
                (Self::Failing { misses, passes: 0 }, due)
            }
        }
    }

    /// What the passing of time alone changes.
    pub(in super::super) fn tick(self, now: Instant, policy: &ProbePolicy) -> Self {
        match self {
            Self::Starting { since } if now.duration_since(since) >= policy.start_deadline => Self::Overdue { since },
            Self::Idle | Self::Starting { .. } | Self::Overdue { .. } | Self::Ready { .. } | Self::Failing { .. } => {
                self
            }
        }
    }

    /// When to probe next, `None` for never; `jitter` is from 0 to 1 and keeps replicas from beating together.
    pub(in super::super) fn next_probe(
        &self,
        gate: &Gate,
        now: Instant,
        policy: &ProbePolicy,
        jitter: f64,
    ) -> Option<Instant> {
        let watched = match gate {
            Gate::None => false,
            Gate::Tcp | Gate::Http { .. } => true,
        };
        match self {
            Self::Idle => None,
            Self::Starting { since } | Self::Overdue { since } if !watched => Some(*since + SETTLED_AFTER),
            Self::Starting { since } if now.duration_since(*since) < EAGER_FOR => Some(now + EAGER_INTERVAL),
            Self::Starting { .. } | Self::Overdue { .. } => Some(now + STARTING_INTERVAL),
            Self::Ready { .. } | Self::Failing { .. } => {
                watched.then(|| now + policy.interval.mul_f64(0.9 + 0.2 * jitter))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn run(start: Health, verdicts: &str, apart: Duration, policy: &ProbePolicy) -> (Health, Vec<(usize, Effect)>) {
        let mut now = Instant::now();
        let mut effects = Vec::new();
        let mut health = start;
        for (at, verdict) in verdicts.chars().enumerate() {
            let verdict = if verdict == '+' { Verdict::Passed } else { Verdict::Failed };
            let (next, effect) = health.step(verdict, now, policy);
            effects.extend(effect.map(|effect| (at, effect)));
            health = next;
            now += apart;
        }
        (health, effects)
    }

    #[test]
    fn one_pass_opens_the_gate_and_marks_once() {
        let starting = Health::Starting { since: Instant::now() };
        let (health, effects) = run(starting, "---+++", SECOND, &ProbePolicy::default());
        assert_eq!(health, Health::Ready { misses: None });
        assert_eq!(effects, [(3, Effect::MarkReady)]);
    }

    #[test]
    fn the_deadline_is_told_and_a_late_pass_counts() {
        let policy = ProbePolicy { start_deadline: 3 * SECOND, ..ProbePolicy::default() };
        let since = Instant::now();
        let starting = Health::Starting { since };
        assert_eq!(starting.tick(since + 2 * SECOND, &policy), starting);
        assert_eq!(starting.tick(since + 3 * SECOND, &policy), Health::Overdue { since });
        let (health, _) = run(starting, "-----", SECOND, &policy);
        assert!(matches!(health, Health::Overdue { .. }), "{health:?}");
        assert!(matches!(run(health, "+", SECOND, &policy).0, Health::Ready { .. }));
    }

    #[test]
    fn failing_takes_failures_in_a_row_and_two_passes_end_it() {
        let policy = ProbePolicy::default();
        let ready = Health::Ready { misses: None };
        for (verdicts, failing) in
            [("--", false), ("--+--", false), ("---", true), ("---+", true), ("---+-+", true), ("---++", false)]
        {
            let (health, effects) = run(ready, verdicts, SECOND, &policy);
            assert_eq!(matches!(health, Health::Failing { .. }), failing, "{verdicts}");
            assert!(effects.is_empty(), "{verdicts}");
        }
    }

    #[test]
    fn liveness_needs_six_failures_over_a_minute() {
        let policy = ProbePolicy::default();
        let ready = Health::Ready { misses: None };
        assert_eq!(run(ready, "------", 12 * SECOND, &policy).1, [(5, Effect::Restart)]);
        assert_eq!(run(ready, "--------", 10 * SECOND, &policy).1, [(6, Effect::Restart), (7, Effect::Restart)]);
        assert!(run(ready, "--------------", SECOND, &policy).1.is_empty(), "too short");
        assert!(run(ready, "-----+-----", 12 * SECOND, &policy).1.is_empty(), "not in a row");
        let off = ProbePolicy { restart: false, ..policy };
        assert!(run(ready, "-----------", 12 * SECOND, &off).1.is_empty());
    }

    #[test]
    fn probes_are_eager_then_calm() {
        let policy = ProbePolicy::default();
        let since = Instant::now();
        let starting = Health::Starting { since };
        let delay = |health: Health, gate: &Gate, now: Instant, jitter: f64| {
            health.next_probe(gate, now, &policy, jitter).map(|at| at.duration_since(now))
        };
        assert_eq!(delay(starting, &Gate::Tcp, since, 0.0), Some(EAGER_INTERVAL));
        assert_eq!(delay(starting, &Gate::Tcp, since + 10 * SECOND, 0.0), Some(SECOND));
        assert_eq!(delay(starting, &Gate::None, since, 0.0), Some(SECOND));
        let ready = Health::Ready { misses: None };
        assert_eq!(delay(ready, &Gate::Tcp, since, 0.0), Some(9 * SECOND));
        assert_eq!(delay(ready, &Gate::Tcp, since, 1.0), Some(11 * SECOND));
        assert_eq!(delay(ready, &Gate::None, since, 0.5), None);
        assert_eq!(delay(Health::Idle, &Gate::Tcp, since, 0.5), None);
    }
}
