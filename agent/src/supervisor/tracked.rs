//! Everything known of one instance: the mirror of its shim, its health, what to warn of. Pure but for the clocks
//! handed in; the task that owns it does the talking.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentd_protocol::api::{Probe, ProbeOutcome};
use agentd_protocol::ids::Incarnation;
use agentd_protocol::shim::event::{Event, EventKind};
use agentd_protocol::shim::state::{Phase, State};
use tokio::time::Instant;

use super::health::{Effect, Health, Verdict, passed};
use super::instance::Mirror;
use super::launch::{Gate, Record};
use super::ports::Judgement;
use super::view::{InstanceView, PROBES_KEPT, Readiness};

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) steady: Instant,
    pub(super) wall: SystemTime,
}

/// What a warning is about; a new one replaces the old one of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    Shim,
    Stranger,
    OtherPort,
    PublicBind,
    LogDropped,
    Unkillable,
}

/// A probe's answer, and who listens where when that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) incarnation: Incarnation,
    pub(super) probe: Probe,
    pub(super) judgement: Option<Judgement>,
}

#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) record: Record,
    pub(super) mirror: Mirror,
    pub(super) health: Health,
    shim_pid: Option<u32>,
    readiness: Readiness,
    probes: VecDeque<Probe>,
    warnings: BTreeMap<Topic, String>,
    asked_restarts: u32,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }
}

impl Tracked {
    pub(super) fn new(record: Record, asked_restarts: u32, now: Now) -> Self {
        Self {
            record,
            mirror: Mirror::unknown(),
            health: Health::Idle,
            shim_pid: None,
            readiness: Readiness::NotReady { since: now.wall },
            probes: VecDeque::with_capacity(PROBES_KEPT),
            warnings: BTreeMap::new(),
            asked_restarts,
        }
    }

    /// The gate that can be asked: without a port nobody can be connected to.
    pub(super) fn gate(&self) -> &Gate {
        if self.record.port.is_some() { &self.record.gate } else { &Gate::None }
    }

    pub(super) fn welcomed(&mut self, shim_pid: u32, state: &State, now: Now) -> Option<Effect> {
        self.shim_pid = Some(shim_pid);
        self.warnings.remove(&Topic::Shim);
        self.replace(Mirror::welcome(state), now);
        // The word may have been lost with the connection.
        let unmarked = matches!(self.mirror.phase, Phase::Starting { .. } | Phase::Up { ready: false, .. });
        let passed = matches!(self.health, Health::Ready { .. } | Health::Failing { .. });
        (unmarked && passed).then_some(Effect::MarkReady)
    }

    pub(super) fn event(&mut self, event: &Event, now: Now) {
        if event.seq <= self.mirror.event_seq {
            return;
        }
        match event.kind {
            EventKind::Started => {
                for topic in [Topic::Stranger, Topic::OtherPort, Topic::PublicBind, Topic::Unkillable] {
                    self.warnings.remove(&topic);
                }
            }
            EventKind::LogDropped { bytes } => {
                self.warn(Topic::LogDropped, format!("{bytes} bytes of output were dropped: the log disk was full"));
            }
            EventKind::Unkillable { count } => {
                let text = format!("{count} processes survive SIGKILL; look for state D in ps and at the disk behind");
                self.warn(Topic::Unkillable, text);
            }
            EventKind::Exited { .. }
            | EventKind::Backoff { .. }
            | EventKind::Quarantined { .. }
            | EventKind::Stopping
            | EventKind::Stopped
            | EventKind::Adopted
            | EventKind::Stragglers { .. } => {}
        }
        self.replace(self.mirror.clone().step(event), now);
    }

    pub(super) fn marked_ready(&mut self, now: Now) {
        let since_1970 = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_real_ns = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        self.mirror = self.mirror.clone().marked_ready(now_real_ns);
    }

    /// The shim does not answer. What it last said stands: the program runs on.
    pub(super) fn unsupervised(&mut self, why: String) {
        self.shim_pid = None;
        self.warn(Topic::Shim, why);
    }

    /// Told at once rather than as a warning: the connection is being made again.
    pub(super) fn disconnected(&mut self) {
        self.shim_pid = None;
    }

    pub(super) fn asked_restart(&mut self) -> u32 {
        self.asked_restarts += 1;
        self.asked_restarts
    }

    pub(super) fn checked(&mut self, checked: Checked, now: Now) -> Option<Effect> {
        if checked.incarnation != self.mirror.incarnation || self.health == Health::Idle {
            return None;
        }
        let Checked { mut probe, judgement, .. } = checked;
        if let Some(judgement) = judgement {
            if let (true, Some(stranger)) = (passed(&probe.outcome), &judgement.stranger) {
                probe.outcome = ProbeOutcome::Failed { error: stranger.clone() };
            }
            self.judged(judgement);
        }
        let verdict = if passed(&probe.outcome) { Verdict::Passed } else { Verdict::Failed };
        if self.probes.len() == PROBES_KEPT {
            self.probes.pop_front();
        }
        self.probes.push_back(probe);
        let (health, effect) = self.health.step(verdict, now.steady, &self.record.probe);
        self.health = health;
        self.follow_health(now.wall);
        effect
    }

    pub(super) fn view(&self) -> InstanceView {
        InstanceView {
            id: self.record.id.clone(),
            service: self.record.service.clone(),
            label: self.record.label.clone(),
            phase: self.mirror.phase.clone(),
            incarnation: self.mirror.incarnation,
            shim_pid: self.shim_pid,
            port: self.record.port,
            readiness: self.readiness,
            last_exit: self.mirror.last_exit,
            restarts: self.mirror.incarnation.0.saturating_sub(1).saturating_sub(self.asked_restarts),
            probes: self.probes.clone(),
            warnings: self.warnings.values().cloned().collect(),
            last_event_seq: self.mirror.event_seq,
            log_dir: self.record.log_dir.clone(),
        }
    }

    fn judged(&mut self, judgement: Judgement) {
        let Judgement { stranger, public_bind, other_port } = judgement;
        for (topic, text) in
            [(Topic::Stranger, stranger), (Topic::PublicBind, public_bind), (Topic::OtherPort, other_port)]
        {
            match text {
                Some(text) => self.warn(topic, text),
                None => drop(self.warnings.remove(&topic)),
            }
        }
    }

    fn warn(&mut self, topic: Topic, text: String) {
        if self.warnings.get(&topic) != Some(&text) {
            tracing::warn!(instance = %self.record.id, service = %self.record.service, "{text}");
            self.warnings.insert(topic, text);
        }
    }

    /// Takes the new mirror and lets health follow: a program that is not up is not ready, a new one starts anew.
    fn replace(&mut self, mirror: Mirror, now: Now) {
        let same = self.mirror.is_running() && mirror.is_running() && self.mirror.incarnation == mirror.incarnation;
        self.mirror = mirror;
        if same {
            return;
        }
        match &self.mirror.phase {
            Phase::Starting { .. } => {
                self.health = Health::Starting { since: now.steady };
                self.readiness = Readiness::NotReady { since: now.wall };
            }
            Phase::Up { since_real_ns, ready, .. } => {
                let since = UNIX_EPOCH + Duration::from_nanos(*since_real_ns);
                if *ready {
                    self.health = Health::Ready { misses: None };
                    self.readiness = Readiness::Ready { since };
                } else {
                    let age = now.wall.duration_since(since).unwrap_or_default();
                    let since = now.steady.checked_sub(age).unwrap_or(now.steady);
                    self.health = Health::Starting { since };
                    self.readiness = Readiness::NotReady { since: now.wall };
                }
            }
            Phase::Down
            | Phase::Stopping { .. }
            | Phase::Clearing { .. }
            | Phase::Backoff { .. }
            | Phase::Quarantined { .. } => {
                self.health = Health::Idle;
                self.follow_health(now.wall);
            }
        }
    }

    fn follow_health(&mut self, wall: SystemTime) {
        self.readiness = match (self.health, self.readiness) {
            (Health::Idle | Health::Starting { .. }, Readiness::NotReady { since }) => Readiness::NotReady { since },
            (Health::Idle | Health::Starting { .. }, _) => Readiness::NotReady { since: wall },
            (Health::Overdue { .. }, Readiness::StartDeadlineOver { since }) => Readiness::StartDeadlineOver { since },
            (Health::Overdue { .. }, _) => Readiness::StartDeadlineOver { since: wall },
            (Health::Ready { .. }, Readiness::Ready { since }) => Readiness::Ready { since },
            (Health::Ready { .. }, _) => Readiness::Ready { since: wall },
            (Health::Failing { misses, .. }, Readiness::Failing { since, .. }) => {
                Readiness::Failing { since, failures: misses.count }
            }
            (Health::Failing { misses, .. }, _) => Readiness::Failing { since: wall, failures: misses.count },
        };
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::ids::InstanceId;
    use agentd_protocol::shim::state::Identity;

    use super::super::launch::{Label, ProbePolicy};
    use super::*;

    fn tracked(gate: Gate) -> Tracked {
        let record = Record {
            id: InstanceId::new("abcdef012345").unwrap(),
            service: "api".into(),
            label: Label::Edge,
            port: Some(20_017),
            gate,
            probe: ProbePolicy::default(),
            stop_timeout: Duration::from_secs(1),
            log_dir: "/l".into(),
            uid: 0,
        };
        Tracked::new(record, 0, Now::read())
    }

    fn up(now: Now, age: Duration, ready: bool) -> State {
        let since = (now.wall - age).duration_since(UNIX_EPOCH).unwrap();
        let since_real_ns = u64::try_from(since.as_nanos()).unwrap();
        let program = Identity { pid: 9, ..Identity::default() };
        State { phase: Phase::Up { program, since_real_ns, ready }, incarnation: 2, ..State::fresh() }
    }

    fn answer(outcome: ProbeOutcome, judgement: Judgement) -> Checked {
        let probe = Probe { at_unix_ms: 1, latency_ms: 1, outcome };
        Checked { incarnation: Incarnation(2), probe, judgement: Some(judgement) }
    }

    fn passing(judgement: Judgement) -> Checked {
        answer(ProbeOutcome::Passed { status: None }, judgement)
    }

    #[test]
    fn a_strangers_answer_opens_no_gate() {
        let now = Now::read();
        let mut tracked = tracked(Gate::Tcp);
        assert_eq!(tracked.welcomed(7, &up(now, Duration::ZERO, false), now), None);
        let stranger = Judgement { stranger: Some("somebody else".into()), ..Judgement::default() };
        assert_eq!(tracked.checked(passing(stranger), now), None);
        let view = tracked.view();
        assert_eq!((view.is_ready(), view.warnings), (false, vec!["somebody else".to_owned()]));
        assert_eq!(view.probes[0].outcome, ProbeOutcome::Failed { error: "somebody else".into() });
        assert_eq!(tracked.checked(passing(Judgement::default()), now), Some(Effect::MarkReady));
        assert!(tracked.view().is_ready() && tracked.view().warnings.is_empty());
    }

    #[test]
    fn answers_of_another_incarnation_count_for_nothing() {
        let now = Now::read();
        let mut tracked = tracked(Gate::Tcp);
        tracked.welcomed(7, &up(now, Duration::ZERO, false), now);
        let old = Checked { incarnation: Incarnation(1), ..passing(Judgement::default()) };
        assert_eq!(tracked.checked(old, now), None);
        assert!(tracked.view().probes.is_empty());
    }

    #[test]
    fn the_start_deadline_counts_from_the_start_of_the_program() {
        let now = Now::read();
        let mut tracked = tracked(Gate::Tcp);
        tracked.welcomed(7, &up(now, Duration::from_secs(30), false), now);
        let refused = || answer(ProbeOutcome::Refused, Judgement::default());
        tracked.checked(refused(), now);
        assert!(matches!(tracked.view().readiness, Readiness::NotReady { .. }));
        let later = Now { steady: now.steady + Duration::from_secs(31), ..now };
        tracked.checked(refused(), later);
        assert!(matches!(tracked.view().readiness, Readiness::StartDeadlineOver { .. }));
    }

    #[test]
    fn a_ready_word_lost_with_the_connection_is_said_again() {
        let now = Now::read();
        let mut tracked = tracked(Gate::Tcp);
        assert_eq!(tracked.welcomed(7, &up(now, Duration::ZERO, false), now), None);
        tracked.checked(passing(Judgement::default()), now);
        tracked.marked_ready(now);
        tracked.disconnected();
        assert_eq!(tracked.welcomed(8, &up(now, Duration::ZERO, false), now), Some(Effect::MarkReady));
        assert_eq!(tracked.welcomed(8, &up(now, Duration::ZERO, true), now), None);
        assert!(tracked.view().is_ready());
    }
}
