//! What the kernel has against what it should have, and how often it is put right (pure).

use std::collections::VecDeque;
use std::time::Duration;

use agentd_protocol::security::Mode;
use tokio::time::Instant;

use super::Revision;
use super::files::{Active, Moment, Pending};
use super::inspect::Found;

/// Repairs at once: a tool that reloads a few times is none that fights.
const REPAIRS_MAX: usize = 10;
/// In this time. Beyond, one repair for each of these.
const REPAIRS_IN: Duration = Duration::from_secs(60);
const FIGHT_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    OnTrial,
    /// Ours, but the host has changed: a new bridge, another SSH port.
    Refresh,
    /// Somebody else's doing; why.
    Repair(String),
    /// Not ours to judge: a table without a record.
    Foreign(String),
    RevertTrial(String),
}

pub(super) fn judge(
    found: &Found,
    pending: Option<&Pending>,
    active: Option<&Active>,
    wanted: &Revision,
    expected: Option<&Revision>,
    now: &Moment,
) -> Verdict {
    if let Some(pending) = pending {
        return match found {
            _ if pending.left_ms(now) == 0 => Verdict::RevertTrial("nobody confirmed it in time".to_owned()),
            Found::Trial { .. } => Verdict::OnTrial,
            // Between the two strokes of a confirmation.
            Found::Confirmed { .. } => Verdict::OnTrial,
            Found::Absent => Verdict::RevertTrial("somebody removed our table during the trial".to_owned()),
            Found::Altered { reason } => Verdict::RevertTrial(format!("somebody changed our table: {reason}")),
        };
    }
    let Some(active) = active else {
        return match found {
            Found::Absent => Verdict::Right,
            Found::Confirmed { .. } | Found::Trial { .. } | Found::Altered { .. } => {
                Verdict::Foreign("a table of ours is in the kernel, and no file says what was confirmed".to_owned())
            }
        };
    };
    match (active.policy.mode, found) {
        (Mode::Open, Found::Absent) => Verdict::Right,
        (Mode::Open, Found::Confirmed { .. } | Found::Trial { .. } | Found::Altered { .. }) => {
            Verdict::Repair("our table is in the kernel, though `open` was confirmed".to_owned())
        }
        (Mode::DaemonPort | Mode::Tunnel, Found::Confirmed { revision, .. }) if revision == wanted => Verdict::Right,
        (Mode::DaemonPort | Mode::Tunnel, Found::Confirmed { revision, mode }) => {
            let known = expected.is_some_and(|expected| expected == revision) || active.revision == revision.0;
            if known && *mode == active.policy.mode {
                Verdict::Refresh
            } else {
                Verdict::Repair("our table has other rules than were confirmed".to_owned())
            }
        }
        (Mode::DaemonPort | Mode::Tunnel, Found::Absent) => {
            Verdict::Repair("somebody removed our table (`nft flush ruleset` does)".to_owned())
        }
        (Mode::DaemonPort | Mode::Tunnel, Found::Trial { .. }) => Verdict::Repair("a trial was left behind".to_owned()),
        (Mode::DaemonPort | Mode::Tunnel, Found::Altered { reason }) => {
            Verdict::Repair(format!("somebody changed our table: {reason}"))
        }
    }
}

/// When rules were put back: a tool that fights us is not fought without bound.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    recent: VecDeque<Instant>,
}

impl Repairs {
    /// How long to wait, where not now.
    pub(super) fn may(&mut self, now: Instant) -> Result<(), Duration> {
        while self.recent.front().is_some_and(|first| now.duration_since(*first) >= REPAIRS_IN) {
            self.recent.pop_front();
        }
        if let (true, Some(last)) = (self.recent.len() >= REPAIRS_MAX, self.recent.back()) {
            let since = now.duration_since(*last);
            if since < FIGHT_PAUSE {
                return Err(FIGHT_PAUSE - since);
            }
        }
        self.recent.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::api::Origin;

    use super::*;
    use crate::firewall::inspect::Alteration;
    use crate::firewall::{Policy, Stamp};

    fn revision(text: &str) -> Revision {
        Revision(text.to_owned())
    }

    fn active(mode: Mode) -> Active {
        Active {
            policy: Policy { mode, ..Policy::open() },
            origin: Origin::Local,
            tx: "t".into(),
            document: None,
            revision: "stored".into(),
            nft: serde_json::Value::Null,
        }
    }

    fn verdict(found: Found, active: Option<&Active>) -> Verdict {
        let now = Moment { boot_id: "b".into(), boot_ms: 5, unix_ms: 0 };
        judge(&found, None, active, &revision("wanted"), Some(&revision("expected")), &now)
    }

    #[test]
    fn what_is_right_is_left_alone_and_what_somebody_did_is_undone() {
        let tunnel = active(Mode::Tunnel);
        let confirmed = |text| Found::Confirmed { mode: Mode::Tunnel, revision: revision(text) };
        assert_eq!(verdict(confirmed("wanted"), Some(&tunnel)), Verdict::Right);
        assert_eq!(verdict(confirmed("expected"), Some(&tunnel)), Verdict::Refresh);
        assert_eq!(verdict(confirmed("stored"), Some(&tunnel)), Verdict::Refresh);
        assert!(matches!(verdict(confirmed("strange"), Some(&tunnel)), Verdict::Repair(_)));
        assert!(matches!(verdict(Found::Absent, Some(&tunnel)), Verdict::Repair(_)));
        let altered = Found::Altered { reason: Alteration::Changed };
        assert!(matches!(verdict(altered.clone(), Some(&tunnel)), Verdict::Repair(_)));
        assert_eq!(verdict(Found::Absent, Some(&active(Mode::Open))), Verdict::Right);
        assert_eq!(verdict(Found::Absent, None), Verdict::Right);
        assert!(matches!(verdict(altered, None), Verdict::Foreign(_)), "a lost file opens no host");
    }

    #[test]
    fn a_trial_ends_at_its_time_or_when_somebody_meddles() {
        let now = Moment { boot_id: "b".into(), boot_ms: 5, unix_ms: 0 };
        let pending = Pending {
            tx: "t".into(),
            from: Policy::open(),
            to: Policy::open(),
            by: Origin::Local,
            document: None,
            boot_id: "b".into(),
            deadline_boot_ms: 10,
            deadline_unix_ms: 0,
            window_ms: 5,
            consent: None,
            sessions: Vec::new(),
        };
        let of = |found: &Found, pending: &Pending| judge(found, Some(pending), None, &revision("w"), None, &now);
        let stamp = |mode| Stamp { mode, revision: revision("r") };
        let trial = Found::Trial { from: stamp(Mode::Open), to: stamp(Mode::Tunnel), left: Duration::from_secs(1) };
        assert_eq!(of(&trial, &pending), Verdict::OnTrial);
        assert!(matches!(of(&Found::Absent, &pending), Verdict::RevertTrial(_)));
        let over = Pending { deadline_boot_ms: 5, ..pending };
        assert!(matches!(of(&trial, &over), Verdict::RevertTrial(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fight_slows_down_and_never_ends() {
        let (mut repairs, mut done) = (Repairs::default(), 0);
        for _ in 0..600 {
            done += usize::from(repairs.may(Instant::now()).is_ok());
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert!((REPAIRS_MAX + 3..=REPAIRS_MAX + 6).contains(&done), "{done} repairs in a minute");
        assert!(repairs.may(Instant::now()).is_err() || done > 0);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(repairs.may(Instant::now()), Ok(()));
    }
}
