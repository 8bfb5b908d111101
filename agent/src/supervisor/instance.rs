//! What the manager believes of an instance, from the shim's whole truth and then event by event. Pure.

use agentd_protocol::ids::Incarnation;
use agentd_protocol::shim::event::{Event, EventKind};
use agentd_protocol::shim::state::{AfterStop, Identity, LastExit, Phase, State};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirror {
    pub(super) phase: Phase,
    pub(super) incarnation: Incarnation,
    pub(super) last_exit: Option<LastExit>,
    pub(super) event_seq: u64,
}

impl Mirror {
    /// Before the shim has said anything.
    pub(super) fn unknown() -> Self {
        Self { phase: Phase::Down, incarnation: Incarnation(0), last_exit: None, event_seq: 0 }
    }

    /// A program is there that may pass its gate. No event tells that an exec succeeded, so one that was met while it
    /// started counts as up.
    pub(super) fn is_running(&self) -> bool {
        match self.phase {
            Phase::Starting { .. } | Phase::Up { .. } => true,
            Phase::Down
            | Phase::Stopping { .. }
            | Phase::Clearing { .. }
            | Phase::Backoff { .. }
            | Phase::Quarantined { .. } => false,
        }
    }

    /// The shim's own word replaces everything.
    pub(super) fn welcome(state: &State) -> Self {
        Self {
            phase: state.phase.clone(),
            incarnation: Incarnation(state.incarnation),
            last_exit: state.last_exit,
            event_seq: state.event_seq,
        }
    }

    /// Events that a Welcome already counted, told again, change nothing.
    pub(super) fn step(self, event: &Event) -> Self {
        if event.seq <= self.event_seq {
            return self;
        }
        let next = Self { event_seq: event.seq, incarnation: Incarnation(event.incarnation), ..self };
        match event.kind {
            EventKind::Started => Self { phase: up(event), ..next },
            EventKind::Exited { exit, uptime_ms } => {
                let last = LastExit { exit, at_real_ns: event.real_ns, incarnation: event.incarnation, uptime_ms };
                Self { phase: after_exit(next.phase), last_exit: Some(last), ..next }
            }
            EventKind::Backoff { retry_at_boot_ms } => Self { phase: Phase::Backoff { retry_at_boot_ms }, ..next },
            EventKind::Quarantined { retry_at_boot_ms } => {
                Self { phase: Phase::Quarantined { retry_at_boot_ms }, ..next }
            }
            EventKind::Stopping => Self { phase: stopping(next.phase, event), ..next },
            EventKind::Stopped => Self { phase: Phase::Down, ..next },
            EventKind::Adopted
            | EventKind::Stragglers { .. }
            | EventKind::LogDropped { .. }
            | EventKind::Unkillable { .. } => next,
        }
    }

    /// The gate was passed and the shim told.
    pub(super) fn marked_ready(self, now_real_ns: u64) -> Self {
        match self.phase {
            Phase::Up { program, since_real_ns, .. } => {
                Self { phase: Phase::Up { program, since_real_ns, ready: true }, ..self }
            }
            Phase::Starting { program } => {
                Self { phase: Phase::Up { program, since_real_ns: now_real_ns, ready: true }, ..self }
            }
            Phase::Down
            | Phase::Stopping { .. }
            | Phase::Clearing { .. }
            | Phase::Backoff { .. }
            | Phase::Quarantined { .. } => self,
        }
    }
}

/// An event names the pid alone; the rest of the identity comes with the next Welcome.
fn program(event: &Event) -> Identity {
    Identity { pid: event.pid, ..Identity::default() }
}

fn up(event: &Event) -> Phase {
    Phase::Up { program: program(event), since_real_ns: event.real_ns, ready: false }
}

/// Until the shim says what follows, what is left of the tree is being cleared.
fn after_exit(phase: Phase) -> Phase {
    match phase {
        Phase::Stopping { kill_at_boot_ms, then, .. } => Phase::Clearing { kill_at_boot_ms, then },
        Phase::Down
        | Phase::Starting { .. }
        | Phase::Up { .. }
        | Phase::Clearing { .. }
        | Phase::Backoff { .. }
        | Phase::Quarantined { .. } => Phase::Clearing { kill_at_boot_ms: 0, then: AfterStop::Policy },
    }
}

fn stopping(phase: Phase, event: &Event) -> Phase {
    let program = phase.program().cloned().unwrap_or_else(|| program(event));
    Phase::Stopping { program, kill_at_boot_ms: 0, then: AfterStop::StayDown }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::shim::state::Exit;

    use super::*;

    fn events(kinds: &[(u32, EventKind)]) -> Vec<Event> {
        let event = |(seq, &(incarnation, kind)): (u64, &(u32, EventKind))| Event {
            seq,
            real_ns: seq * 10,
            boot_ms: seq,
            incarnation,
            pid: incarnation + 100,
            kind,
        };
        (1..).zip(kinds).map(event).collect()
    }

    fn phases(mirror: Mirror, events: &[Event]) -> (Mirror, Vec<&'static str>) {
        events.iter().fold((mirror, Vec::new()), |(mirror, mut names), event| {
            let mirror = mirror.step(event);
            names.push(mirror.phase.name());
            (mirror, names)
        })
    }

    #[test]
    fn a_crash_a_back_off_and_a_stop() {
        let exit = Exit::Signal { number: 9, core: false };
        let told = events(&[
            (1, EventKind::Started),
            (1, EventKind::Exited { exit, uptime_ms: 5 }),
            (1, EventKind::Backoff { retry_at_boot_ms: 9 }),
            (2, EventKind::Started),
            (2, EventKind::Stopping),
            (2, EventKind::Exited { exit: Exit::Code(0), uptime_ms: 7 }),
            (2, EventKind::Stopped),
        ]);
        let (mirror, names) = phases(Mirror::unknown(), &told);
        assert_eq!(names, ["up", "clearing", "backoff", "up", "stopping", "clearing", "down"]);
        let last = LastExit { exit: Exit::Code(0), at_real_ns: 60, incarnation: 2, uptime_ms: 7 };
        assert_eq!((mirror.last_exit, mirror.incarnation, mirror.event_seq), (Some(last), Incarnation(2), 7));
    }

    #[test]
    fn what_a_welcome_counted_is_not_counted_again() {
        let told = events(&[(1, EventKind::Started), (1, EventKind::Stopping), (1, EventKind::Stopped)]);
        let state = State { phase: Phase::Down, incarnation: 1, event_seq: 3, ..State::fresh() };
        let mirror = Mirror::welcome(&state);
        assert_eq!(phases(mirror.clone(), &told).0, mirror);
    }

    #[test]
    fn readiness_belongs_to_one_incarnation() {
        let told = events(&[(1, EventKind::Started), (2, EventKind::Started)]);
        let first = Mirror::unknown().step(&told[0]).marked_ready(7);
        assert!(matches!(first.phase, Phase::Up { ready: true, .. }));
        let second = first.step(&told[1]);
        assert!(matches!(second.phase, Phase::Up { ready: false, .. }));
        assert_eq!(second.phase.program().unwrap().pid, 102);
        let noted = events(&[(1, EventKind::Adopted), (1, EventKind::LogDropped { bytes: 1 })]);
        assert_eq!(phases(Mirror::unknown().marked_ready(7), &noted).1, ["down", "down"]);
    }
}
