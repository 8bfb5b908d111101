//! What is wrong with a service whose last order was carried out, but whose instances are not all ready (pure).

use std::time::{SystemTime, UNIX_EPOCH};

use agentd_protocol::shim::state::Phase;

use super::gate::{describe, last_probe};
use crate::supervisor::{InstanceView, Readiness};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) cause: String,
    /// When it began, as far as the instances tell.
    pub(super) since_unix_ms: Option<u64>,
}

/// Of the instances that should serve, the worst first: one that keeps ending says more than one that is slow.
pub(super) fn trouble(instances: &[&InstanceView]) -> Trouble {
    let rank = |view: &&&InstanceView| match view.phase {
        Phase::Quarantined { .. } => 0,
        Phase::Backoff { .. } | Phase::Clearing { .. } | Phase::Down => 1,
        Phase::Starting { .. } | Phase::Up { .. } | Phase::Stopping { .. } => 2,
    };
    match instances.iter().filter(|view| !view.is_ready()).min_by_key(rank) {
        Some(view) => of_instance(view),
        None => Trouble { cause: "no instance of it runs".to_owned(), since_unix_ms: None },
    }
}

fn of_instance(view: &InstanceView) -> Trouble {
    let ended = view.last_exit.map(|last| (describe(last.exit), last.at_real_ns / 1_000_000));
    let (cause, since_unix_ms) = match (&view.phase, ended) {
        (Phase::Quarantined { .. }, Some((exit, at))) => {
            (format!("crash loop, tried again every few minutes: {exit}"), Some(at))
        }
        (Phase::Backoff { .. } | Phase::Clearing { .. }, Some((exit, at))) => {
            (format!("is being started again: {exit}"), Some(at))
        }
        (Phase::Down, Some((exit, at))) => (format!("does not run: {exit}"), Some(at)),
        (Phase::Quarantined { .. } | Phase::Backoff { .. } | Phase::Clearing { .. } | Phase::Down, None) => {
            ("does not run".to_owned(), None)
        }
        (Phase::Stopping { .. }, _) => ("is being stopped".to_owned(), None),
        (Phase::Starting { .. } | Phase::Up { .. }, ended) => (not_ready(view, ended), since(view.readiness)),
    };
    Trouble { cause, since_unix_ms }
}

fn not_ready(view: &InstanceView, ended: Option<(String, u64)>) -> String {
    let said = match (view.readiness, ended) {
        (Readiness::Failing { failures, .. }, _) => {
            format!("runs, but {failures} probes in a row failed: {}", last_probe(view))
        }
        (Readiness::StartDeadlineOver { .. }, _) => {
            format!("not ready within its start deadline: {}", last_probe(view))
        }
        (Readiness::NotReady { .. } | Readiness::Ready { .. }, Some((exit, _))) if view.restarts > 0 => {
            format!("started again and not ready yet: {exit}")
        }
        (Readiness::NotReady { .. } | Readiness::Ready { .. }, _) => "started and not ready yet".to_owned(),
    };
    match view.warnings.first() {
        Some(warning) => format!("{said}; {warning}"),
        None => said,
    }
}

pub(super) fn since(readiness: Readiness) -> Option<u64> {
    match readiness {
        Readiness::NotReady { since }
        | Readiness::Ready { since }
        | Readiness::Failing { since, .. }
        | Readiness::StartDeadlineOver { since } => unix_ms(since),
    }
}

fn unix_ms(time: SystemTime) -> Option<u64> {
    u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use agentd_protocol::shim::state::Exit;

    use super::super::testing::{ended, failing, not_ready, ready};
    use super::*;

    fn cause(instances: &[&InstanceView]) -> String {
        trouble(instances).cause
    }

    #[test]
    fn the_worst_instance_speaks_for_the_service() {
        let crash = ended(Exit::Signal { number: 9, core: false });
        let looping =
            InstanceView { phase: Phase::Quarantined { retry_at_boot_ms: 1 }, last_exit: crash, ..failing('b') };
        assert_eq!(
            cause(&[&ready('a'), &not_ready('c'), &looping]),
            "crash loop, tried again every few minutes: killed by SIGKILL"
        );
        let waiting = InstanceView { phase: Phase::Backoff { retry_at_boot_ms: 1 }, ..looping };
        assert_eq!(cause(&[&waiting]), "is being started again: killed by SIGKILL");
        assert_eq!(trouble(&[&waiting]).since_unix_ms, Some(0), "when it ended");
        assert_eq!(cause(&[&failing('a')]), "runs, but 3 probes in a row failed: no probe was answered");
        assert_eq!(cause(&[&not_ready('a')]), "started and not ready yet");
        let back = InstanceView { last_exit: crash, restarts: 1, ..not_ready('a') };
        assert_eq!(cause(&[&back]), "started again and not ready yet: killed by SIGKILL");
        assert_eq!(cause(&[]), "no instance of it runs");
    }
}
