//! Which release a rollback goes to when nobody names one (pure).

use agentd_protocol::ids::ReleaseNumber;

use crate::store::{DeployEnd, StoredDeploy, StoredRelease};

/// Where a rollback from `active` goes among `releases`: to another program, since the same one under an older number
/// would be no change. `deploys` are newest first.
pub(super) fn target(
    active: Option<&StoredRelease>,
    releases: &[StoredRelease],
    deploys: &[StoredDeploy],
) -> Option<ReleaseNumber> {
    let same = active.map(|active| active.program_digest);
    let others = releases.iter().filter(|release| release.is_built() && Some(release.program_digest) != same);
    let others: Vec<ReleaseNumber> = others.map(|release| release.number).collect();
    earlier(&others, active.map(|active| active.number), deploys)
}

/// The newest built release before the active one whose last deploy, where one is remembered, got it ready. `deploys`
/// are newest first.
fn earlier(built: &[ReleaseNumber], active: Option<ReleaseNumber>, deploys: &[StoredDeploy]) -> Option<ReleaseNumber> {
    let never_ready = |number: ReleaseNumber| {
        let ends = deploys.iter().filter(|deploy| deploy.to == number).filter_map(|deploy| deploy.end.as_ref());
        let mut ends = ends.filter(|end| **end != DeployEnd::Superseded);
        ends.next().is_some_and(|end| *end != DeployEnd::Done)
    };
    built.iter().copied().filter(|number| Some(*number) < active && !never_ready(*number)).max()
}

#[cfg(test)]
mod tests {
    use agentd_protocol::api::{DeployPhase, Problem};
    use agentd_protocol::ids::ServiceName;

    use super::*;
    use crate::store::DeployId;

    fn deploy(to: u64, end: Option<DeployEnd>) -> StoredDeploy {
        StoredDeploy {
            id: DeployId(to),
            service: ServiceName::new("api").unwrap(),
            from: None,
            to: ReleaseNumber(to),
            phase: DeployPhase::Start,
            started_unix_ms: 0,
            end,
            ended_unix_ms: None,
        }
    }

    fn failed() -> Option<DeployEnd> {
        Some(DeployEnd::Failed(Box::new(Problem {
            service: None,
            phase: DeployPhase::Health,
            cause: "x".into(),
            commit: None,
            release: None,
            probes: Vec::new(),
            log_tail: Vec::new(),
            why: Default::default(),
            since_unix_ms: 0,
        })))
    }

    #[test]
    fn a_rollback_passes_over_releases_that_never_got_ready() {
        let built = [4, 3, 2, 1].map(ReleaseNumber);
        let four = Some(ReleaseNumber(4));
        assert_eq!(earlier(&built, four, &[]), Some(ReleaseNumber(3)), "nothing is remembered against it");
        assert_eq!(earlier(&built, four, &[deploy(3, failed()), deploy(2, None)]), Some(ReleaseNumber(2)));
        let served_before =
            [deploy(3, Some(DeployEnd::Superseded)), deploy(3, Some(DeployEnd::Done)), deploy(3, failed())];
        assert_eq!(earlier(&built, four, &served_before), Some(ReleaseNumber(3)));
        assert_eq!(earlier(&built, Some(ReleaseNumber(1)), &[]), None);
        assert_eq!(earlier(&built, None, &[]), None);
    }
}
