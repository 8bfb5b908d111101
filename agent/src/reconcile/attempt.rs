//! What a worker is in the middle of, so that its end can be told with where it came from and how long it took.

use std::sync::{Mutex, PoisonError};

use agentd_protocol::api::{DeployPhase, Problem, What};
use agentd_protocol::ids::ReleaseNumber;
use tokio::time::Instant;

use super::transitions;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    Build { release: ReleaseNumber },
    Deploy { from: Option<ReleaseNumber>, to: ReleaseNumber },
}

/// At most one at a time: a pass builds, then deploys.
#[derive(Debug, Default)]
pub(super) struct Underway(Mutex<Option<(Attempt, Instant)>>);

impl Underway {
    pub(super) fn begin(&self, attempt: Attempt) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((attempt, Instant::now()));
    }

    /// What was under way and for how long, ms.
    pub(super) fn end(&self) -> Option<(Attempt, u64)> {
        let (attempt, since) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some((attempt, u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)))
    }
}

/// The event of a pass that failed; `before` is the problem that was known already.
pub(super) fn failed(
    attempt: Option<(Attempt, u64)>,
    before: Option<&Problem>,
    after: &Problem,
    active: Option<ReleaseNumber>,
) -> Option<(Option<ReleaseNumber>, What)> {
    let cause = after.cause.clone();
    match attempt {
        Some((Attempt::Deploy { from, to }, took)) => {
            Some((Some(to), What::DeployFailed { from, phase: after.phase, cause, duration_ms: Some(took) }))
        }
        Some((Attempt::Build { release }, took)) => {
            let phase = if after.phase == DeployPhase::Fetch { DeployPhase::Fetch } else { DeployPhase::Build };
            Some((Some(release), What::BuildFailed { phase, cause, duration_ms: Some(took) }))
        }
        None => transitions::problem(before, after, active).map(|what| (after.release, what)),
    }
}
