//! The instance's state machine: what has happened and what was asked for, to the next state and its effects.
//!
//! Pure. The caller puts the new state on disk before it acts. A step records at most one event, the one its new phase
//! tells of: a shim killed between the two leaves a state from which [`implied_event`] gives the missing record again.

use agentd_protocol::shim::event::EventKind;
use agentd_protocol::shim::spec::Spec;
use agentd_protocol::shim::state::{AfterStop, Exit, Identity, LastExit, Phase, State};

use super::policy::{self, Manager, Next};

/// What processes left behind by a program that ended unasked get to end by themselves, ms.
pub(crate) const STRAGGLER_GRACE_MS: u64 = 2_000;
/// Longest delay the policy gives, ms: an adopted deadline further away is from another boot's clock.
const DELAY_MAX_MS: u64 = policy::QUARANTINE_MS / 5 * 6;
/// After a start that came to nothing for want of space or processes, ms.
const START_RETRY_MS: u64 = 1_000;

/// Clocks and chance at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) boot_ms: u64,
    pub(crate) real_ns: u64,
    pub(crate) random: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// There is no state file: this directory has never been worked on.
    Fresh,
    /// The state cannot be read: something of ours may run.
    StateLost,
    /// The state is an earlier boot's: nothing of ours can run.
    OtherBoot,
    /// The state is this boot's and names no program.
    Resumed,
    /// Forked, waiting at its gate.
    Forked {
        program: Identity,
    },
    /// fork(2) or what it needs failed.
    ForkFailed,
    Executed,
    Ended {
        exit: Exit,
        at_real_ns: u64,
        uptime_ms: u64,
        manager: Manager,
    },
    /// The gate never opened: nothing of the program has run. Not a crash.
    NeverRan {
        shim: NeverRan,
    },
    /// No process of the tree is left.
    TreeGone,
    /// The keeper wants the start later.
    Granted {
        wait_ms: u64,
    },
    RunLimitOver,
    Order(Order),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NeverRan {
    /// The shim before us died at that moment.
    Before,
    /// We could not record the start.
    Ours,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Start,
    Stop { timeout_ms: Option<u64> },
    Restart,
    Kill,
    MarkReady,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Record(EventKind),
    OpenGate,
    /// The stop signal, to the program's process group.
    AskToEnd,
}

pub(crate) fn step(mut state: State, input: Input, spec: &Spec, now: Now) -> (State, Vec<Effect>) {
    let effects = match input {
        Input::Fresh => start_soon(&mut state, now.boot_ms),
        Input::StateLost => {
            state.phase =
                Phase::Clearing { kill_at_boot_ms: now.boot_ms + STRAGGLER_GRACE_MS, then: AfterStop::StartAgain };
            vec![]
        }
        Input::OtherBoot => other_boot(&mut state, now),
        Input::Resumed => resumed(&mut state, spec, now),
        Input::Forked { program } => {
            state.incarnation = state.incarnation.saturating_add(1);
            state.phase = Phase::Starting { program };
            vec![Effect::Record(EventKind::Started), Effect::OpenGate]
        }
        Input::ForkFailed => start_soon(&mut state, now.boot_ms + START_RETRY_MS),
        Input::Executed => {
            if let Phase::Starting { program } = &state.phase {
                state.phase = Phase::Up { program: program.clone(), since_real_ns: now.real_ns, ready: false };
            }
            vec![]
        }
        Input::Ended { exit, at_real_ns, uptime_ms, manager } => {
            let last = LastExit { exit, at_real_ns, incarnation: state.incarnation, uptime_ms };
            ended(&mut state, last, manager, spec, now)
        }
        Input::NeverRan { shim } => match state.phase {
            Phase::Starting { .. } => {
                let wait_ms = if shim == NeverRan::Ours { START_RETRY_MS } else { 0 };
                start_soon(&mut state, now.boot_ms + wait_ms)
            }
            Phase::Stopping { kill_at_boot_ms, then, .. } => {
                state.phase = Phase::Clearing { kill_at_boot_ms, then };
                vec![]
            }
            Phase::Down
            | Phase::Up { .. }
            | Phase::Clearing { .. }
            | Phase::Backoff { .. }
            | Phase::Quarantined { .. } => vec![],
        },
        Input::TreeGone => tree_gone(&mut state, spec, now),
        Input::Granted { wait_ms } => start_soon(&mut state, now.boot_ms + wait_ms),
        Input::RunLimitOver => match state.phase.program().cloned() {
            // Policy as what follows a stop is how a passed limit is remembered.
            Some(program) => to_stopping(&mut state, program, now.boot_ms, AfterStop::Policy),
            None => vec![],
        },
        Input::Order(order) => ordered(&mut state, order, spec, now),
    };
    if effects.iter().any(|effect| matches!(effect, Effect::Record(_))) {
        state.event_seq += 1;
    }
    (state, effects)
}

/// Wanted up, with nothing to tell: the caller starts what is in Backoff and due.
fn start_soon(state: &mut State, at_boot_ms: u64) -> Vec<Effect> {
    state.phase = Phase::Backoff { retry_at_boot_ms: at_boot_ms };
    vec![]
}

fn to_down(state: &mut State) -> Vec<Effect> {
    state.phase = Phase::Down;
    vec![Effect::Record(EventKind::Stopped)]
}

fn to_stopping(state: &mut State, program: Identity, kill_at_boot_ms: u64, then: AfterStop) -> Vec<Effect> {
    state.phase = Phase::Stopping { program, kill_at_boot_ms, then };
    vec![Effect::Record(EventKind::Stopping)]
}

fn other_boot(state: &mut State, now: Now) -> Vec<Effect> {
    let unknown =
        LastExit { exit: Exit::Unknown, at_real_ns: now.real_ns, incarnation: state.incarnation, uptime_ms: 0 };
    match &state.phase {
        Phase::Down => vec![],
        Phase::Stopping { then: AfterStop::StayDown, .. } | Phase::Clearing { then: AfterStop::StayDown, .. } => {
            state.last_exit = Some(unknown);
            to_down(state)
        }
        Phase::Starting { .. } | Phase::Up { .. } | Phase::Stopping { .. } => {
            state.last_exit = Some(unknown);
            state.unstable_exits = 0;
            state.phase = Phase::Clearing { kill_at_boot_ms: now.boot_ms, then: AfterStop::StartAgain };
            vec![Effect::Record(EventKind::Exited { exit: Exit::Unknown, uptime_ms: 0 })]
        }
        Phase::Clearing { .. } | Phase::Backoff { .. } | Phase::Quarantined { .. } => {
            state.unstable_exits = 0;
            start_soon(state, now.boot_ms)
        }
    }
}

/// Deadlines of another boot's clock are brought within reach; nothing else changes.
fn resumed(state: &mut State, spec: &Spec, now: Now) -> Vec<Effect> {
    let delay_max = now.boot_ms + DELAY_MAX_MS;
    match &mut state.phase {
        Phase::Backoff { retry_at_boot_ms } | Phase::Quarantined { retry_at_boot_ms } => {
            *retry_at_boot_ms = (*retry_at_boot_ms).min(delay_max);
        }
        Phase::Clearing { kill_at_boot_ms, .. } | Phase::Stopping { kill_at_boot_ms, .. } => {
            *kill_at_boot_ms = (*kill_at_boot_ms).min(now.boot_ms + spec.stop_timeout_ms.max(STRAGGLER_GRACE_MS));
        }
        Phase::Down | Phase::Starting { .. } | Phase::Up { .. } => {}
    }
    vec![]
}

fn ended(state: &mut State, last: LastExit, manager: Manager, spec: &Spec, now: Now) -> Vec<Effect> {
    let mut last = last;
    let grace_over = now.boot_ms + STRAGGLER_GRACE_MS;
    let unasked = match &state.phase {
        Phase::Starting { .. } => Some(false),
        Phase::Up { ready, .. } => Some(*ready),
        Phase::Stopping { kill_at_boot_ms, then, .. } => {
            let (kill_at_boot_ms, then) = (*kill_at_boot_ms, *then);
            state.phase = Phase::Clearing { kill_at_boot_ms, then };
            if then == AfterStop::Policy {
                last.exit = Exit::TimeLimit;
                state.unstable_exits = state.unstable_exits.saturating_add(1);
            }
            None
        }
        Phase::Down | Phase::Clearing { .. } | Phase::Backoff { .. } | Phase::Quarantined { .. } => return vec![],
    };
    if let Some(ready) = unasked {
        let stable = policy::is_stable(last.uptime_ms, spec.stable_after_ms, ready, manager);
        state.unstable_exits = if stable { 0 } else { state.unstable_exits.saturating_add(1) };
        state.phase = Phase::Clearing { kill_at_boot_ms: grace_over, then: AfterStop::Policy };
    }
    state.last_exit = Some(last);
    vec![Effect::Record(EventKind::Exited { exit: last.exit, uptime_ms: last.uptime_ms })]
}

fn tree_gone(state: &mut State, spec: &Spec, now: Now) -> Vec<Effect> {
    let Phase::Clearing { then, .. } = state.phase else { return vec![] };
    let next = match then {
        AfterStop::StayDown => Next::Down,
        AfterStop::StartAgain => Next::StartNow,
        AfterStop::Policy => {
            let exit = state.last_exit.map_or(Exit::Unknown, |last| last.exit);
            policy::after_exit(spec.restart, exit, state.unstable_exits, now.random)
        }
    };
    match next {
        Next::Down => to_down(state),
        Next::StartNow => start_soon(state, now.boot_ms),
        Next::Backoff { wait_ms } => {
            let retry_at_boot_ms = now.boot_ms + wait_ms;
            state.phase = Phase::Backoff { retry_at_boot_ms };
            vec![Effect::Record(EventKind::Backoff { retry_at_boot_ms })]
        }
        Next::Quarantine { wait_ms } => {
            let retry_at_boot_ms = now.boot_ms + wait_ms;
            state.phase = Phase::Quarantined { retry_at_boot_ms };
            vec![Effect::Record(EventKind::Quarantined { retry_at_boot_ms })]
        }
    }
}

fn ordered(state: &mut State, order: Order, spec: &Spec, now: Now) -> Vec<Effect> {
    match order {
        Order::Start => start(state, now),
        Order::Stop { timeout_ms } => {
            let timeout_ms = timeout_ms.unwrap_or(spec.stop_timeout_ms);
            end(state, now.boot_ms.saturating_add(timeout_ms), AfterStop::StayDown, AskFirst::Yes)
        }
        Order::Kill => end(state, now.boot_ms, AfterStop::StayDown, AskFirst::No),
        Order::Restart => match state.phase {
            Phase::Down | Phase::Backoff { .. } | Phase::Quarantined { .. } => start(state, now),
            Phase::Starting { .. } | Phase::Up { .. } | Phase::Stopping { .. } | Phase::Clearing { .. } => {
                let kill_at = now.boot_ms.saturating_add(spec.stop_timeout_ms);
                end(state, kill_at, AfterStop::StartAgain, AskFirst::Yes)
            }
        },
        Order::MarkReady => {
            if let Phase::Up { ready, .. } = &mut state.phase {
                *ready = true;
            }
            vec![]
        }
    }
}

fn start(state: &mut State, now: Now) -> Vec<Effect> {
    match &mut state.phase {
        Phase::Down | Phase::Backoff { .. } | Phase::Quarantined { .. } => {
            state.unstable_exits = 0;
            start_soon(state, now.boot_ms)
        }
        // The last order counts: a stop under way ends in a start.
        Phase::Stopping { then, .. } | Phase::Clearing { then, .. } => {
            if *then == AfterStop::StayDown {
                *then = AfterStop::StartAgain;
            }
            vec![]
        }
        Phase::Starting { .. } | Phase::Up { .. } => vec![],
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AskFirst {
    Yes,
    No,
}

/// Ends whatever there is, no later than asked before.
fn end(state: &mut State, kill_at: u64, after: AfterStop, ask: AskFirst) -> Vec<Effect> {
    match &mut state.phase {
        Phase::Down | Phase::Backoff { .. } | Phase::Quarantined { .. } => to_down(state),
        Phase::Starting { program } | Phase::Up { program, .. } => {
            let program = program.clone();
            let mut effects = to_stopping(state, program, kill_at, after);
            if ask == AskFirst::Yes {
                effects.push(Effect::AskToEnd);
            }
            effects
        }
        Phase::Stopping { kill_at_boot_ms, then, .. } | Phase::Clearing { kill_at_boot_ms, then } => {
            *kill_at_boot_ms = (*kill_at_boot_ms).min(kill_at);
            *then = after;
            vec![]
        }
    }
}

/// The event of the step that led to this state; what is missing when a shim was killed between the two.
pub(crate) fn implied_event(state: &State) -> Option<EventKind> {
    match &state.phase {
        Phase::Starting { .. } => Some(EventKind::Started),
        Phase::Stopping { .. } => Some(EventKind::Stopping),
        Phase::Clearing { .. } => {
            state.last_exit.map(|last| EventKind::Exited { exit: last.exit, uptime_ms: last.uptime_ms })
        }
        Phase::Backoff { retry_at_boot_ms } => Some(EventKind::Backoff { retry_at_boot_ms: *retry_at_boot_ms }),
        Phase::Quarantined { retry_at_boot_ms } => Some(EventKind::Quarantined { retry_at_boot_ms: *retry_at_boot_ms }),
        Phase::Down => Some(EventKind::Stopped),
        Phase::Up { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let mut out = agentd_protocol::shim::tlv::Writer::new();
        for tag in [1, 3, 5, 8] {
            out.text(tag, "x");
        }
        Spec::decode(&out.finish()).unwrap()
    }

    fn program() -> Identity {
        Identity { boot_id: "b".into(), pid: 7, pidfd_inode: 9, start_ticks: 11 }
    }

    fn now(boot_ms: u64) -> Now {
        Now { boot_ms, real_ns: 1, random: 0 }
    }

    fn run(state: State, inputs: &[Input]) -> (State, Vec<Effect>) {
        let mut all = Vec::new();
        let mut state = state;
        for input in inputs {
            let effects;
            (state, effects) = step(state, input.clone(), &spec(), now(1_000));
            all.extend(effects);
        }
        (state, all)
    }

    fn up() -> State {
        run(State::fresh(), &[Input::Fresh, Input::Forked { program: program() }, Input::Executed]).0
    }

    fn ended_with(exit: Exit, uptime_ms: u64) -> Input {
        Input::Ended { exit, at_real_ns: 5, uptime_ms, manager: Manager::Away }
    }

    #[test]
    fn a_start_is_recorded_before_its_gate_opens() {
        let (state, effects) = run(State::fresh(), &[Input::Fresh, Input::Forked { program: program() }]);
        assert_eq!(effects, [Effect::Record(EventKind::Started), Effect::OpenGate]);
        assert_eq!((state.incarnation, state.event_seq), (1, 1));
        assert_eq!(state.phase, Phase::Starting { program: program() });
    }

    #[test]
    fn a_crash_waits_for_its_tree_and_then_for_the_policy() {
        let crash = Exit::Signal { number: 6, core: false };
        let (state, _) = run(up(), &[ended_with(crash, 20_000)]);
        assert!(matches!(state.phase, Phase::Clearing { then: AfterStop::Policy, kill_at_boot_ms: 3_000 }));
        let (state, effects) = run(state, &[Input::TreeGone]);
        assert_eq!((state.phase, effects), (Phase::Backoff { retry_at_boot_ms: 1_000 }, vec![]), "stable: at once");

        let (state, effects) = run(up(), &[ended_with(crash, 10), Input::TreeGone]);
        assert_eq!(state.unstable_exits, 1);
        assert_eq!(state.phase, Phase::Backoff { retry_at_boot_ms: 1_200 });
        assert_eq!(effects.last(), Some(&Effect::Record(EventKind::Backoff { retry_at_boot_ms: 1_200 })));
    }

    #[test]
    fn a_stop_is_no_crash_and_ends_down() {
        let stop = Input::Order(Order::Stop { timeout_ms: None });
        let (state, effects) = run(up(), &[stop, ended_with(Exit::Signal { number: 15, core: false }, 10)]);
        assert!(effects.contains(&Effect::AskToEnd));
        assert!(matches!(state.phase, Phase::Clearing { then: AfterStop::StayDown, kill_at_boot_ms: 31_000 }));
        let (state, effects) = run(state, &[Input::TreeGone]);
        assert_eq!((state.phase, state.unstable_exits), (Phase::Down, 0));
        assert_eq!(effects, [Effect::Record(EventKind::Stopped)]);
    }

    #[test]
    fn the_last_order_wins_while_stopping() {
        let stop = || Input::Order(Order::Stop { timeout_ms: Some(9) });
        let (state, _) = run(up(), &[stop(), Input::Order(Order::Start)]);
        assert!(matches!(state.phase, Phase::Stopping { then: AfterStop::StartAgain, kill_at_boot_ms: 1_009, .. }));
        let (state, _) = run(up(), &[Input::Order(Order::Restart), stop(), Input::Order(Order::Kill)]);
        assert!(matches!(state.phase, Phase::Stopping { then: AfterStop::StayDown, kill_at_boot_ms: 1_000, .. }));
    }

    #[test]
    fn a_passed_run_limit_is_told_as_such() {
        let (state, _) = run(up(), &[Input::RunLimitOver, ended_with(Exit::Signal { number: 9, core: false }, 10)]);
        assert_eq!(state.last_exit.unwrap().exit, Exit::TimeLimit);
        assert!(matches!(state.phase, Phase::Clearing { then: AfterStop::Policy, .. }));
    }

    #[test]
    fn what_never_ran_is_no_crash() {
        let forked = Input::Forked { program: program() };
        let (state, _) = run(State::fresh(), &[forked, Input::NeverRan { shim: NeverRan::Before }]);
        assert_eq!((state.phase, state.unstable_exits), (Phase::Backoff { retry_at_boot_ms: 1_000 }, 0));
        assert_eq!(state.last_exit, None);
    }

    #[test]
    fn another_boot_starts_what_was_wanted_and_nothing_else() {
        let (state, effects) = run(up(), &[Input::OtherBoot, Input::TreeGone]);
        assert_eq!(state.phase, Phase::Backoff { retry_at_boot_ms: 1_000 });
        assert_eq!(effects, [Effect::Record(EventKind::Exited { exit: Exit::Unknown, uptime_ms: 0 })]);
        let (state, effects) = run(State::fresh(), &[Input::OtherBoot]);
        assert_eq!((state.phase, effects), (Phase::Down, vec![]));
    }

    #[test]
    fn a_recorded_step_implies_its_event() {
        let inputs = [
            Input::Fresh,
            Input::Forked { program: program() },
            Input::Executed,
            Input::Order(Order::Restart),
            ended_with(Exit::Code(1), 4),
            Input::TreeGone,
            Input::Forked { program: program() },
            ended_with(Exit::Code(1), 4),
            Input::TreeGone,
            Input::Order(Order::Stop { timeout_ms: None }),
        ];
        let mut state = State::fresh();
        for input in inputs {
            let before = state.event_seq;
            let (next, effects) = step(state, input, &spec(), now(5));
            let recorded: Vec<_> = effects
                .iter()
                .filter_map(|effect| if let Effect::Record(kind) = effect { Some(*kind) } else { None })
                .collect();
            match recorded[..] {
                [] => assert_eq!(next.event_seq, before),
                [kind] => assert_eq!((next.event_seq, implied_event(&next)), (before + 1, Some(kind))),
                _ => panic!("two events in one step"),
            }
            state = next;
        }
    }
}
