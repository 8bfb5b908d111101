//! How the tunnel does, from one look to the next (pure). What gets worse must be seen more than once before it is
//! said: the program replaces lost connections by itself, within seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use agentd_protocol::api::{TunnelState, What};

/// Looks in a row without a connection until the tunnel counts as down.
const MISSES_MAX: u32 = 2;
/// Looks in a row with one connection alone; a program that starts has one for some seconds, too.
const WEAK_MAX: u32 = 3;
/// From the start to a first connection, when the program answers: it looks for a way out meanwhile.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// From the start to a first answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// So many losses of every connection within the window are flapping.
const LOSSES_MAX: usize = 3;
const LOSSES_WINDOW: Duration = Duration::from_secs(10 * 60);
/// Without a connection for so long, a program that lives is started again: it may be stuck. Until then it is left to
/// its own retries.
const STUCK_AFTER: Duration = Duration::from_secs(10 * 60);
/// Between two such restarts.
const RESTART_PAUSE: Duration = Duration::from_secs(30 * 60);
/// Between two looks at the network while a restart is due: without a network a restart cures nothing.
const NETWORK_PAUSE: Duration = Duration::from_secs(60);

/// One look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Observation {
    /// Nobody answers, and it is known that no program runs.
    Dead {
        cause: String,
    },
    Silent {
        cause: String,
    },
    Answers {
        connections: u32,
    },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) at: Instant,
    pub(super) unix_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    Down { cause: String },
    Degraded { connections: u32, why: Why },
    Connected { connections: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    OneConnection,
    Flapping,
}

/// What speaks against the state, and has been seen too rarely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    No,
    Missed(u32),
    Weak(u32),
}

/// What was said of a tunnel last, in this manager's life or before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Connected,
    Degraded,
    Down,
}

impl Told {
    pub fn of(what: &What) -> Option<Self> {
        match what {
            What::TunnelConnected { .. } => Some(Self::Connected),
            What::TunnelDegraded { .. } => Some(Self::Degraded),
            What::TunnelDown { .. } => Some(Self::Down),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Watch {
    pub(super) state: State,
    pub(super) since_unix_ms: u64,
    since: Instant,
    doubt: Doubt,
    /// When every connection was lost, oldest first.
    losses: VecDeque<Instant>,
    told: Option<Told>,
    without_since: Option<Instant>,
    restart_not_before: Option<Instant>,
}

impl Watch {
    pub(super) fn new(told: Option<Told>, now: Now) -> Self {
        Self {
            state: State::Connecting,
            since_unix_ms: now.unix_ms,
            since: now.at,
            doubt: Doubt::No,
            losses: VecDeque::new(),
            told,
            without_since: None,
            restart_not_before: None,
        }
    }

    /// Whether a program that lives should be started again, had it a network.
    pub(super) fn restart_is_due(&self, now: Now) -> bool {
        self.without_since.is_some_and(|since| now.at.duration_since(since) >= STUCK_AFTER)
            && self.restart_not_before.is_none_or(|not_before| now.at >= not_before)
    }

    pub(super) fn restarted(self, now: Now) -> Self {
        Self { restart_not_before: Some(now.at + RESTART_PAUSE), ..self }
    }

    pub(super) fn had_no_network(self, now: Now) -> Self {
        Self { restart_not_before: Some(now.at + NETWORK_PAUSE), ..self }
    }

    fn carries(&self) -> bool {
        match self.state {
            State::Degraded { .. } | State::Connected { .. } => true,
            State::Connecting | State::Down { .. } => false,
        }
    }

    fn lost(mut self, now: Now) -> Self {
        if self.carries() && !matches!(self.doubt, Doubt::Missed(_)) {
            self.losses.push_back(now.at);
        }
        self.without_since = self.without_since.or(Some(now.at));
        self.doubt = match self.doubt {
            Doubt::Missed(count) => Doubt::Missed(count.saturating_add(1)),
            Doubt::No | Doubt::Weak(_) => Doubt::Missed(1),
        };
        self
    }

    fn found(mut self, connections: u32) -> Self {
        self.without_since = None;
        self.doubt = match (connections, self.doubt) {
            (1, Doubt::Weak(count)) => Doubt::Weak(count.saturating_add(1)),
            (1, Doubt::No | Doubt::Missed(_)) => Doubt::Weak(1),
            (_, _) => Doubt::No,
        };
        self
    }

    fn forget_old_losses(&mut self, now: Now) {
        self.losses.retain(|at| now.at.duration_since(*at) < LOSSES_WINDOW);
        while self.losses.len() > LOSSES_MAX {
            self.losses.pop_front();
        }
    }
}

/// What is to be said of a look, if anything.
pub(super) fn step(mut watch: Watch, observation: Observation, now: Now) -> (Watch, Option<What>) {
    watch.forget_old_losses(now);
    let waited = now.at.duration_since(watch.since);
    watch = match &observation {
        Observation::Answers { connections: 1.. } => watch,
        Observation::Answers { connections: 0 } | Observation::Silent { .. } | Observation::Dead { .. } => {
            watch.lost(now)
        }
    };
    let missed = match watch.doubt {
        Doubt::Missed(count) => count,
        Doubt::No | Doubt::Weak(_) => 0,
    };
    let next = match (observation, watch.state.clone()) {
        (Observation::Answers { connections: connections @ 1.. }, _) => {
            watch = watch.found(connections);
            with(connections, &watch)
        }
        (Observation::Dead { cause }, State::Connecting) => State::Down { cause },
        (Observation::Silent { cause }, State::Connecting) if waited >= ANSWER_TIMEOUT => State::Down { cause },
        (Observation::Answers { connections: 0 }, State::Connecting) if waited >= CONNECT_TIMEOUT => {
            State::Down { cause: no_connection() }
        }
        (_, State::Connecting) => State::Connecting,
        (observation, State::Degraded { .. } | State::Connected { .. }) if missed >= MISSES_MAX => {
            State::Down { cause: cause(observation) }
        }
        (observation, State::Down { .. }) => State::Down { cause: cause(observation) },
        (_, state @ (State::Degraded { .. } | State::Connected { .. })) => state,
    };
    enter(watch, next, now)
}

fn with(connections: u32, watch: &Watch) -> State {
    let weak = matches!(watch.doubt, Doubt::Weak(count) if count >= WEAK_MAX);
    let was_weak = matches!(watch.state, State::Degraded { why: Why::OneConnection, .. }) && connections == 1;
    if watch.losses.len() >= LOSSES_MAX {
        State::Degraded { connections, why: Why::Flapping }
    } else if weak || was_weak {
        State::Degraded { connections, why: Why::OneConnection }
    } else {
        State::Connected { connections }
    }
}

fn cause(observation: Observation) -> String {
    match observation {
        Observation::Dead { cause } | Observation::Silent { cause } => cause,
        Observation::Answers { .. } => no_connection(),
    }
}

fn no_connection() -> String {
    "cloudflared has no connection to Cloudflare: it needs UDP or TCP port 7844 outwards, and DNS; its log says more"
        .to_owned()
}

fn enter(mut watch: Watch, next: State, now: Now) -> (Watch, Option<What>) {
    if next.kind() != watch.state.kind() {
        (watch.since, watch.since_unix_ms) = (now.at, now.unix_ms);
    }
    watch.state = next;
    let what = watch.state.what();
    let told = what.as_ref().and_then(Told::of);
    let news = what.filter(|_| told != watch.told);
    watch.told = told.or(watch.told);
    (watch, news)
}

impl State {
    pub(super) fn kind(&self) -> TunnelState {
        match self {
            Self::Connecting => TunnelState::Connecting,
            Self::Down { .. } => TunnelState::Down,
            Self::Degraded { .. } => TunnelState::Degraded,
            Self::Connected { .. } => TunnelState::Connected,
        }
    }

    pub(super) fn connections(&self) -> u32 {
        match self {
            Self::Connecting | Self::Down { .. } => 0,
            Self::Degraded { connections, .. } | Self::Connected { connections } => *connections,
        }
    }

    pub(super) fn cause(&self) -> Option<String> {
        match self {
            Self::Connecting | Self::Connected { .. } => None,
            Self::Down { cause } => Some(cause.clone()),
            Self::Degraded { why: Why::OneConnection, .. } => {
                Some("one connection is left of the usual four".to_owned())
            }
            Self::Degraded { why: Why::Flapping, .. } => {
                Some(format!("lost {LOSSES_MAX} times within {} minutes", LOSSES_WINDOW.as_secs() / 60))
            }
        }
    }

    fn what(&self) -> Option<What> {
        let (connections, cause) = (self.connections(), self.cause().unwrap_or_default());
        match self {
            Self::Connecting => None,
            Self::Down { .. } => Some(What::TunnelDown { cause }),
            Self::Degraded { .. } => Some(What::TunnelDegraded { connections, cause }),
            Self::Connected { .. } => Some(What::TunnelConnected { connections }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks, five seconds apart, and the words of the events they lead to.
    struct Run {
        watch: Watch,
        begun: Instant,
        s: u64,
        said: Vec<String>,
    }

    impl Run {
        fn new(told: Option<Told>) -> Self {
            let begun = Instant::now();
            Self { watch: Watch::new(told, Now { at: begun, unix_ms: 0 }), begun, s: 0, said: Vec::new() }
        }

        fn now(&self) -> Now {
            Now { at: self.begun + Duration::from_secs(self.s), unix_ms: self.s * 1_000 }
        }

        fn look(&mut self, observation: Observation) -> TunnelState {
            self.s += 5;
            let (watch, event) = step(self.watch.clone(), observation, self.now());
            self.watch = watch;
            self.said.extend(event.map(|event| event.word().to_owned()));
            self.watch.state.kind()
        }

        fn has(&mut self, connections: u32) -> TunnelState {
            self.look(Observation::Answers { connections })
        }

        fn silent(&mut self) -> TunnelState {
            self.look(Observation::Silent { cause: "silence".into() })
        }
    }

    #[test]
    fn it_connects_and_one_missed_look_is_no_loss() {
        let mut run = Run::new(None);
        assert_eq!(run.silent(), TunnelState::Connecting);
        assert_eq!(
            [run.has(0), run.has(1), run.has(4)].map(|state| state == TunnelState::Connecting),
            [true, false, false]
        );
        let since = run.watch.since_unix_ms;
        assert_eq!([run.has(0), run.has(4), run.silent(), run.has(3)], [TunnelState::Connected; 4]);
        assert_eq!((run.watch.since_unix_ms, run.said), (since, vec!["tunnel.connected".to_owned()]));
    }

    #[test]
    fn two_misses_are_a_loss_with_the_last_cause() {
        let mut run = Run::new(None);
        run.has(4);
        run.has(0);
        assert_eq!(run.silent(), TunnelState::Down);
        assert_eq!(run.watch.state.cause().as_deref(), Some("silence"));
        assert_eq!(run.has(0), TunnelState::Down);
        assert!(run.watch.state.cause().unwrap().contains("7844"));
        assert_eq!(run.has(4), TunnelState::Connected);
        assert_eq!(run.said, ["tunnel.connected", "tunnel.down", "tunnel.connected"]);
    }

    #[test]
    fn one_connection_for_long_is_degraded() {
        let mut run = Run::new(None);
        assert_eq!([run.has(1), run.has(1)], [TunnelState::Connected; 2]);
        assert_eq!([run.has(1), run.has(0), run.has(1)], [TunnelState::Degraded; 3]);
        assert_eq!(run.has(2), TunnelState::Connected);
        assert_eq!(run.said, ["tunnel.connected", "tunnel.degraded", "tunnel.connected"]);
    }

    #[test]
    fn what_keeps_being_lost_is_degraded_until_the_window_is_over() {
        let mut run = Run::new(None);
        for _ in 0..LOSSES_MAX {
            assert_ne!(run.has(4), TunnelState::Down);
            assert_ne!(run.has(0), TunnelState::Down, "one look is not enough");
        }
        for _ in 0..10 {
            assert_eq!(run.has(4), TunnelState::Degraded);
            run.has(0);
        }
        run.s += LOSSES_WINDOW.as_secs();
        assert_eq!(run.has(4), TunnelState::Connected);
        assert_eq!(run.said, ["tunnel.connected", "tunnel.degraded", "tunnel.connected"], "not one event a loss");
    }

    #[test]
    fn a_start_that_leads_nowhere_is_said_in_time() {
        let mut run = Run::new(None);
        assert_eq!([run.silent(), run.silent()], [TunnelState::Connecting; 2]);
        assert_eq!(run.silent(), TunnelState::Down);
        let mut run = Run::new(None);
        for _ in 0..11 {
            assert_eq!(run.has(0), TunnelState::Connecting);
        }
        assert_eq!(run.has(0), TunnelState::Down);
        let mut run = Run::new(None);
        assert_eq!(run.look(Observation::Dead { cause: "no program".into() }), TunnelState::Down);
        assert_eq!(run.said, ["tunnel.down"]);
    }

    #[test]
    fn what_a_manager_before_said_is_no_news() {
        let mut run = Run::new(Some(Told::Connected));
        run.has(4);
        assert!(run.said.is_empty());
        let mut run = Run::new(Some(Told::Down));
        run.has(4);
        assert_eq!(run.said, ["tunnel.connected"]);
    }

    #[test]
    fn a_program_is_started_again_after_long_and_rarely() {
        let mut run = Run::new(None);
        run.has(4);
        run.has(0);
        assert!(!run.watch.restart_is_due(run.now()));
        run.s += STUCK_AFTER.as_secs() - 5;
        run.has(0);
        assert!(run.watch.restart_is_due(run.now()));
        let offline = run.watch.clone().had_no_network(run.now());
        assert!(!offline.restart_is_due(run.now()));
        run.watch = run.watch.clone().restarted(run.now());
        run.s += STUCK_AFTER.as_secs();
        assert!(!run.watch.restart_is_due(run.now()), "once in half an hour");
        assert!(offline.restart_is_due(run.now()));
        run.s += RESTART_PAUSE.as_secs();
        assert!(run.watch.restart_is_due(run.now()));
        run.has(1);
        assert!(!run.watch.restart_is_due(run.now()));
    }
}
