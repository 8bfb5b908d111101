//! From what shims tell and what probes find to what is worth an event (pure). The shim says `exited` and only then
//! whether it starts the program again: the two are one event here.

use std::collections::BTreeMap;
use std::time::SystemTime;

use agentd_protocol::api::{Probe, ProbeOutcome, What};
use agentd_protocol::ids::{InstanceId, ReleaseNumber, ServiceName};
use agentd_protocol::shim::event::{Event, EventKind};
use agentd_protocol::shim::state::{AfterStop, Exit, Phase};

use super::gate::describe;
use super::routing::Views;
use super::transitions::Fact;
use super::worker::release_of;
use crate::supervisor::{InstanceView, Label, Readiness};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Service {
        name: ServiceName,
        release: ReleaseNumber,
    },
    Edge,
    /// Builds are told by who runs them, tunnels by who watches them.
    Nobody,
}

#[derive(Debug, Clone)]
struct Life {
    owner: Owner,
    port: Option<u16>,
    asked: Asked,
    ended: Option<Ended>,
    crashes: Crashes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    ToStop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crashes {
    Single,
    Loop,
}

#[derive(Debug, Clone, Copy)]
struct Ended {
    exit: Exit,
    uptime_ms: u64,
}

/// What is remembered of every instance between one word of its shim and the next.
#[derive(Debug)]
pub(super) struct Lives(BTreeMap<InstanceId, Life>);

impl Lives {
    /// From what runs when the manager starts. `recorded`: how far each shim's account is known; where it goes on, the
    /// view is ahead of what will be told.
    pub(super) fn new(views: &Views, recorded: &BTreeMap<InstanceId, u64>) -> Self {
        let life = |view: &InstanceView| match recorded.get(&view.id) {
            Some(seq) if *seq >= view.last_event_seq => Life::of(view),
            Some(_) | None => Life::fresh(view),
        };
        Self(views.iter().map(|(id, view)| (id.clone(), life(view))).collect())
    }

    /// What a word of a shim amounts to. The view may be gone already, or be ahead of the word.
    pub(super) fn told(&mut self, id: &InstanceId, event: &Event, views: &Views) -> Vec<Fact> {
        if !self.0.contains_key(id) {
            let Some(view) = views.get(id) else { return Vec::new() };
            self.0.insert(id.clone(), Life::fresh(view));
        }
        let life = self.0.get_mut(id).expect("it was put there");
        let whats = life.told(event);
        let (at_unix_ms, shim_seq) = (Some(event.real_ns / 1_000_000), Some(event.seq));
        let facts: Vec<Fact> = match &life.owner {
            Owner::Nobody => Vec::new(),
            Owner::Edge => {
                let whats = whats.into_iter().filter_map(of_edge);
                whats.map(|what| Fact { instance: Some(id.clone()), ..Fact::host(what) }).collect()
            }
            Owner::Service { name, release } => {
                whats.into_iter().map(|what| of_instance(name, *release, id, what)).collect()
            }
        };
        facts.into_iter().map(|fact| Fact { at_unix_ms, shim_seq, ..fact }).collect()
    }

    /// Forgets what is no longer there; tells whom. Every word of a shim sent before `views` was published has been told.
    pub(super) fn forget_gone(&mut self, views: &Views) -> Vec<InstanceId> {
        let gone = self.0.extract_if(.., |id, _| !views.contains_key(id));
        gone.map(|(id, _)| id).collect()
    }

    /// What changed in the views.
    pub(super) fn seen(&mut self, before: &Views, after: &Views) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (id, view) in after {
            let Some(release) = release_of(view) else { continue };
            let Ok(service) = ServiceName::new(view.service.clone()) else { continue };
            let life = self.0.entry(id.clone()).or_insert_with(|| Life::fresh(view));
            let mut fact = |what| facts.push(of_instance(&service, release, id, what));
            if let Some(what) = readiness(before.get(id), view) {
                let is_ready = matches!(what, What::RunReady { .. });
                fact(what);
                if is_ready && std::mem::replace(&mut life.crashes, Crashes::Single) == Crashes::Loop {
                    fact(What::CrashLoopLeft {});
                }
            }
        }
        facts
    }
}

impl Life {
    /// Of an instance whose whole account is still to come.
    fn fresh(view: &InstanceView) -> Self {
        let owner = match (&view.label, ServiceName::new(view.service.clone())) {
            (Label::Edge, _) => Owner::Edge,
            (Label::Instance { release }, Ok(name)) => Owner::Service { name, release: *release },
            (Label::Instance { .. }, Err(_)) | (Label::Build { .. } | Label::Tunnel { .. }, _) => Owner::Nobody,
        };
        Self { owner, port: view.port, asked: Asked::Nothing, ended: None, crashes: Crashes::Single }
    }

    /// Of an instance whose account is known as far as the view goes.
    fn of(view: &InstanceView) -> Self {
        let last = view.last_exit.map(|last| Ended { exit: last.exit, uptime_ms: last.uptime_ms });
        let life = Self::fresh(view);
        match &view.phase {
            Phase::Stopping { .. } => Self { asked: Asked::ToStop, ..life },
            Phase::Clearing { then: AfterStop::Policy, .. } => Self { ended: last, ..life },
            Phase::Clearing { .. } => Self { asked: Asked::ToStop, ended: last, ..life },
            Phase::Quarantined { .. } => Self { crashes: Crashes::Loop, ..life },
            Phase::Down | Phase::Starting { .. } | Phase::Up { .. } | Phase::Backoff { .. } => life,
        }
    }

    fn told(&mut self, event: &Event) -> Vec<What> {
        match event.kind {
            EventKind::Started => {
                let before = self.ended.take();
                let asked = std::mem::replace(&mut self.asked, Asked::Nothing);
                let again = before.map(|ended| match asked {
                    Asked::ToStop => What::HealthRestart { exit: describe(ended.exit), uptime_ms: ended.uptime_ms },
                    Asked::Nothing => crashed(ended, Some(0)),
                });
                let port = self.port;
                let started = What::RunStarted { pid: event.pid, port, incarnation: event.incarnation };
                again.into_iter().chain([started]).collect()
            }
            EventKind::Exited { exit, uptime_ms } => {
                self.ended = Some(Ended { exit, uptime_ms });
                Vec::new()
            }
            EventKind::Backoff { retry_at_boot_ms } => {
                let wait = retry_at_boot_ms.saturating_sub(event.boot_ms);
                self.ended.take().map(|ended| crashed(ended, Some(wait))).into_iter().collect()
            }
            EventKind::Quarantined { retry_at_boot_ms } => {
                let retry_in_ms = retry_at_boot_ms.saturating_sub(event.boot_ms);
                let crash = self.ended.take().map(|ended| crashed(ended, Some(retry_in_ms)));
                let entered = std::mem::replace(&mut self.crashes, Crashes::Loop) == Crashes::Single;
                crash.into_iter().chain(entered.then_some(What::CrashLoopEntered { retry_in_ms })).collect()
            }
            EventKind::Stopping => {
                self.asked = Asked::ToStop;
                Vec::new()
            }
            EventKind::Stopped => {
                self.crashes = Crashes::Single;
                let asked = std::mem::replace(&mut self.asked, Asked::Nothing);
                vec![match (self.ended.take(), asked) {
                    (Some(ended), Asked::Nothing) if ended.exit != Exit::Code(0) => crashed(ended, None),
                    (Some(ended), Asked::Nothing | Asked::ToStop) => {
                        What::RunStopped { exit: Some(describe(ended.exit)), uptime_ms: Some(ended.uptime_ms) }
                    }
                    (None, Asked::Nothing | Asked::ToStop) => What::RunStopped { exit: None, uptime_ms: None },
                }]
            }
            EventKind::Adopted => vec![What::RunAdopted { pid: event.pid }],
            EventKind::Stragglers { count } => vec![What::RunStragglers { count }],
            EventKind::LogDropped { bytes } => vec![What::RunLogDropped { bytes }],
            EventKind::Unkillable { count } => vec![What::RunUnkillable { count }],
        }
    }
}

fn crashed(ended: Ended, restart_in_ms: Option<u64>) -> What {
    What::CrashExited { exit: describe(ended.exit), uptime_ms: ended.uptime_ms, restart_in_ms }
}

/// The edge is nobody's service: of its life only this is told.
fn of_edge(what: What) -> Option<What> {
    match what {
        What::RunStarted { pid, .. } => Some(What::EdgeStarted { pid }),
        What::CrashExited { exit, uptime_ms, .. } => Some(What::EdgeLost { exit, uptime_ms }),
        _ => None,
    }
}

fn of_instance(service: &ServiceName, release: ReleaseNumber, id: &InstanceId, what: What) -> Fact {
    Fact { release: Some(release), instance: Some(id.clone()), ..Fact::service(service, what) }
}

fn readiness(before: Option<&InstanceView>, after: &InstanceView) -> Option<What> {
    let was = before.filter(|before| before.incarnation == after.incarnation).map(|before| before.readiness);
    match (was, after.readiness) {
        (Some(Readiness::Ready { .. }), Readiness::Ready { .. })
        | (Some(Readiness::Failing { .. }), Readiness::Failing { .. })
        | (Some(Readiness::StartDeadlineOver { .. }), Readiness::StartDeadlineOver { .. })
        | (_, Readiness::NotReady { .. }) => None,
        (Some(Readiness::Failing { since, .. }), Readiness::Ready { since: now }) => {
            Some(What::HealthRecovered { after_ms: between(since, now) })
        }
        (None | Some(Readiness::NotReady { .. } | Readiness::StartDeadlineOver { .. }), Readiness::Ready { since }) => {
            Some(What::RunReady { after_ms: started(after).and_then(|started| between(started, since)) })
        }
        (_, Readiness::Failing { failures, .. }) => Some(What::HealthFailing { failures, cause: last_probe(after) }),
        (_, Readiness::StartDeadlineOver { .. }) => Some(What::HealthOverdue { cause: last_probe(after) }),
    }
}

fn started(view: &InstanceView) -> Option<SystemTime> {
    match &view.phase {
        Phase::Up { since_real_ns, .. } => {
            Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(*since_real_ns))
        }
        Phase::Down
        | Phase::Starting { .. }
        | Phase::Stopping { .. }
        | Phase::Clearing { .. }
        | Phase::Backoff { .. }
        | Phase::Quarantined { .. } => None,
    }
}

fn between(from: SystemTime, to: SystemTime) -> Option<u64> {
    to.duration_since(from).ok().and_then(|took| u64::try_from(took.as_millis()).ok())
}

fn last_probe(view: &InstanceView) -> String {
    match view.probes.back().map(|probe: &Probe| &probe.outcome) {
        None => "it was not asked yet".into(),
        Some(ProbeOutcome::Passed { .. }) => "the last probe passed, those before did not".into(),
        Some(ProbeOutcome::Status { status }) => format!("answers {status}"),
        Some(ProbeOutcome::Refused) => "nothing listens on its port".into(),
        Some(ProbeOutcome::TimedOut) => "no answer in time".into(),
        Some(ProbeOutcome::Failed { error }) => error.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{failing, id, not_ready, ready, views};
    use super::*;

    const SECOND: fn(u64) -> SystemTime = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);

    fn words(facts: &[Fact]) -> Vec<&str> {
        facts.iter().map(|fact| fact.what.word()).collect()
    }

    /// Tells the kinds one after the other, 100 ms apart.
    fn told(lives: &mut Lives, seen: &Views, kinds: &[EventKind]) -> Vec<Fact> {
        let event = |(seq, kind): (u64, &EventKind)| Event {
            seq: seq + 1,
            real_ns: (seq + 1) * 1_000_000_000,
            boot_ms: 1_000,
            incarnation: 1,
            pid: 7,
            kind: *kind,
        };
        let events = (0..).zip(kinds).map(event);
        events.flat_map(|event| lives.told(&id('a'), &event, seen)).collect()
    }

    const STARTED: EventKind = EventKind::Started;
    const EXITED: EventKind = EventKind::Exited { exit: Exit::Code(1), uptime_ms: 500 };
    const BACKOFF: EventKind = EventKind::Backoff { retry_at_boot_ms: 1_250 };
    const QUARANTINED: EventKind = EventKind::Quarantined { retry_at_boot_ms: 301_000 };

    #[test]
    fn an_end_is_a_crash_a_stop_or_a_restart_by_what_was_asked() {
        let cases: [(&[EventKind], &[&str]); 7] = [
            (&[STARTED, EXITED, BACKOFF, STARTED], &["run.started", "crash.exited", "run.started"]),
            (&[EXITED, QUARANTINED], &["crash.exited", "crash.loop-entered"]),
            (
                &[EXITED, QUARANTINED, STARTED, EXITED, QUARANTINED],
                &["crash.exited", "crash.loop-entered", "run.started", "crash.exited"],
            ),
            (&[EventKind::Stopping, EXITED, EventKind::Stopped], &["run.stopped"]),
            (&[EventKind::Stopping, EXITED, STARTED], &["health.restart", "run.started"]),
            (&[EXITED, EventKind::Stopped], &["crash.exited"]),
            (&[EventKind::Exited { exit: Exit::Code(0), uptime_ms: 1 }, EventKind::Stopped], &["run.stopped"]),
        ];
        for (kinds, expected) in cases {
            let seen = views([not_ready('a')]);
            let facts = told(&mut Lives::new(&seen, &BTreeMap::new()), &seen, kinds);
            assert_eq!(words(&facts), expected, "{kinds:?}");
        }
    }

    #[test]
    fn a_crash_says_when_it_was_how_it_ended_and_when_it_starts_again() {
        let seen = views([not_ready('a')]);
        let facts = told(&mut Lives::new(&seen, &BTreeMap::new()), &seen, &[EXITED, BACKOFF]);
        let what = What::CrashExited { exit: "exit code 1".into(), uptime_ms: 500, restart_in_ms: Some(250) };
        assert_eq!(facts[0].what, what);
        assert_eq!((facts[0].at_unix_ms, facts[0].shim_seq), (Some(2_000), Some(2)));
        assert_eq!(facts[0].service.as_ref().map(ServiceName::as_str), Some("api"));
        assert_eq!((facts[0].release, facts[0].instance.clone()), (Some(ReleaseNumber(1)), Some(id('a'))));
    }

    #[test]
    fn the_last_word_is_told_although_the_instance_is_gone_from_the_view() {
        let seen = views([ready('a')]);
        let mut lives = Lives::new(&seen, &BTreeMap::new());
        let facts = told(&mut lives, &Views::new(), &[EventKind::Stopping, EXITED, EventKind::Stopped]);
        assert_eq!(words(&facts), ["run.stopped"]);
        assert_eq!(lives.forget_gone(&Views::new()), [id('a')]);
        assert_eq!(told(&mut lives, &Views::new(), &[STARTED]), []);
    }

    #[test]
    fn the_edge_and_builds_are_no_services() {
        let labelled = |label| views([InstanceView { label, ..not_ready('a') }]);
        let edge = labelled(Label::Edge);
        let facts = told(&mut Lives::new(&edge, &BTreeMap::new()), &edge, &[STARTED, EXITED, BACKOFF]);
        assert_eq!(words(&facts), ["edge.started", "edge.lost"]);
        assert!(facts.iter().all(|fact| fact.service.is_none()));
        let build = labelled(Label::Build { key: "1".into() });
        assert_eq!(told(&mut Lives::new(&build, &BTreeMap::new()), &build, &[STARTED, EXITED]), []);
    }

    #[test]
    fn a_restarted_manager_goes_on_where_the_one_before_stopped() {
        let quarantined = InstanceView { phase: Phase::Quarantined { retry_at_boot_ms: 1 }, ..not_ready('a') };
        let seen = views([InstanceView { last_event_seq: 9, ..quarantined }]);
        let mut knows = Lives::new(&seen, &BTreeMap::from([(id('a'), 9)]));
        assert_eq!(words(&told(&mut knows, &seen, &[STARTED, EXITED, QUARANTINED])), ["run.started", "crash.exited"]);
        let mut behind = Lives::new(&seen, &BTreeMap::from([(id('a'), 7)]));
        assert_eq!(words(&told(&mut behind, &seen, &[EXITED, QUARANTINED])), ["crash.exited", "crash.loop-entered"]);
    }

    #[test]
    fn readiness_is_told_when_it_changes() {
        let at = |readiness| InstanceView { readiness, ..ready('a') };
        let not = || not_ready('a');
        let (is, fails) = (|| at(Readiness::Ready { since: SECOND(9) }), || failing('a'));
        let overdue = || at(Readiness::StartDeadlineOver { since: SECOND(1) });
        let again = || InstanceView { incarnation: agentd_protocol::ids::Incarnation(2), ..is() };
        for (before, after, expected) in [
            (not(), is(), Some("run.ready")),
            (is(), fails(), Some("health.failing")),
            (fails(), is(), Some("health.recovered")),
            (not(), overdue(), Some("health.overdue")),
            (overdue(), is(), Some("run.ready")),
            (is(), again(), Some("run.ready")),
            (is(), is(), None),
            (fails(), fails(), None),
            (is(), not(), None),
        ] {
            let (before, after) = (views([before]), views([after]));
            let facts = Lives::new(&before, &BTreeMap::new()).seen(&before, &after);
            assert_eq!(words(&facts), Vec::from_iter(expected), "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_crash_loop_ends_when_the_program_is_ready() {
        let seen = views([not_ready('a')]);
        let mut lives = Lives::new(&seen, &BTreeMap::new());
        told(&mut lives, &seen, &[EXITED, QUARANTINED, STARTED]);
        let up = views([ready('a')]);
        assert_eq!(words(&lives.seen(&seen, &up)), ["run.ready", "crash.loop-left"]);
        assert_eq!(words(&lives.seen(&seen, &up)), ["run.ready"]);
    }
}
