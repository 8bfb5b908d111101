//! The loop: waits for pipes, the program's end, orders and deadlines, and puts each through the state machine.

use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_protocol::shim::event::{Event, EventKind};
use agentd_protocol::shim::log::Source;
use agentd_protocol::shim::spec::Spec;
use agentd_protocol::shim::state::{Phase, State};
use agentd_protocol::shim::{EVENTS_FILE, STATE_FILE, STDERR_FIFO, STDOUT_FIFO};
use agentd_sys::clock;
use agentd_sys::files::{self, Durability, Lock};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::control::Control;
use super::events::EventLog;
use super::exec::Plan;
use super::instance::{self, Effect, Input, Now, Order};
use super::logs::Logs;
use super::program::{Program, Sight};
use super::setup::{self, Stored};
use super::sweep::Sweep;
use super::tree::Root;
use super::{Error, ended};
use crate::say;

/// Wake-ups by output within a second past which we let bytes gather before the next look, and for how long.
const WAKE_UPS_MAX: u32 = 200;
const GATHER: Duration = Duration::from_millis(2);
/// Between looks at what tells nothing by itself (a stranger's exit status, an adopted exec), ms.
const RECHECK_MS: u64 = 10;
/// Longest sleep, so that the time until a poll is always in range, ms.
const SLEEP_MAX_MS: u64 = 60_000;

pub(super) struct Shim {
    pub(super) dir: PathBuf,
    pub(super) exits_path: PathBuf,
    pub(super) spec: Spec,
    pub(super) plan: Plan,
    pub(super) lock: Lock,
    pub(super) held: Vec<(String, OwnedFd)>,
    pub(super) state: State,
    pub(super) events: EventLog,
    pub(super) logs: Logs,
    pub(super) fifos: [(File, Source); 2],
    pub(super) control: Control,
    pub(super) program: Option<Program>,
    pub(super) sweep: Sweep,
    /// Whose tree is cleared; unknown after a take-over.
    pub(super) last_root: Root,
    /// The keeper has let the next start pass; asked again for the one after.
    pub(super) granted: bool,
    pub(super) lifetime: Lifetime,
    signals: SignalFd,
    persisted: Persisted,
    wake_ups: (u64, u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifetime {
    Serving,
    /// SIGTERM: the host goes down; we leave once nothing of the instance is left.
    HostGoesDown,
    /// Dismissed by a manager.
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Persisted {
    Yes,
    No,
}

/// What woke us.
#[derive(Debug, Clone, Copy)]
enum Token {
    Signals,
    Listener,
    Output(usize),
    ProgramEnd,
    ExecStatus,
    Peer(usize),
}

/// Runs until dismissed. Returns at once when another shim works on the directory.
pub(crate) fn run(dir: &Path) -> Result<(), Error> {
    let held = setup::held_fds()?;
    let Some(lock) = setup::lock(dir)? else {
        say("another shim works on this directory");
        return Ok(());
    };
    let mut shim = Shim::new(dir, lock, held)?;
    shim.take_over();
    loop {
        shim.tick();
        shim.control.deliver(&shim.events, clock::boot_ms());
        shim.control.forget_gone();
        let done = match shim.lifetime {
            Lifetime::Serving => false,
            Lifetime::HostGoesDown => shim.state.phase == Phase::Down,
            Lifetime::Left => true,
        };
        if done {
            return Ok(());
        }
        shim.wait()?;
    }
}

impl Shim {
    fn new(dir: &Path, lock: Lock, held: Vec<(String, OwnedFd)>) -> Result<Self, Error> {
        let spec = setup::read_spec(dir)?;
        let signals = setup::become_shim(&spec.service)?;
        let plan = Plan::new(&spec, &held)?;
        let log_dir = PathBuf::from(std::ffi::OsString::from(to_os(&spec.log_dir)));
        let fifos = [
            (setup::open_fifo(dir.join(STDOUT_FIFO))?, Source::Stdout),
            (setup::open_fifo(dir.join(STDERR_FIFO))?, Source::Stderr),
        ];
        let events_path = dir.join(EVENTS_FILE);
        let events = EventLog::open(&events_path, 0).map_err(|source| Error::Open { path: events_path, source })?;
        let control = Control::bind(dir).map_err(|source| Error::Listen { dir: dir.to_owned(), source })?;
        Ok(Self {
            exits_path: ended::exits_path(dir),
            dir: dir.to_owned(),
            logs: Logs::open(&log_dir, spec.log_segment_bytes, spec.log_segments_max),
            spec,
            plan,
            lock,
            held,
            state: State::fresh(),
            events,
            fifos,
            control,
            program: None,
            sweep: Sweep::default(),
            last_root: Root::default(),
            granted: false,
            lifetime: Lifetime::Serving,
            signals,
            persisted: Persisted::Yes,
            wake_ups: (0, 0),
        })
    }

    /// Goes on from what the shim before us left.
    fn take_over(&mut self) {
        let input = match setup::read_state(&self.dir) {
            Stored::Nothing => Input::Fresh,
            Stored::Unreadable => {
                say("the state file cannot be read: ending whatever runs of this instance, then starting anew");
                if let Ok(Some((_, Some(last)))) = self.events.after(self.events.last_seq().saturating_sub(1)) {
                    self.state.incarnation = last.incarnation;
                }
                Input::StateLost
            }
            Stored::Known(state) => {
                self.restore(state);
                match self.look_for_program() {
                    Sight::None => Input::Resumed,
                    Sight::OtherBoot => Input::OtherBoot,
                    Sight::Alive(program) => {
                        self.program = Some(program);
                        self.record(EventKind::Adopted);
                        Input::Resumed
                    }
                    Sight::Gone(input) => input,
                }
            }
        };
        self.feed(input);
    }

    /// Takes the state and writes the event that a killed shim owed.
    fn restore(&mut self, state: State) {
        let owed = state.event_seq > self.events.last_seq();
        self.state = state;
        if owed {
            if self.events.last_seq() == 0 {
                let before = self.state.event_seq.saturating_sub(1);
                match EventLog::open(&self.dir.join(EVENTS_FILE), before) {
                    Ok(events) => self.events = events,
                    Err(error) => say(&format!("cannot open the events file again: {error}")),
                }
            }
            if let Some(kind) = instance::implied_event(&self.state) {
                self.record(kind);
            }
        }
    }

    pub(super) fn now(&self) -> Now {
        // The standard library seeds every RandomState from the system; enough for jitter.
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        Now { boot_ms: clock::boot_ms(), real_ns: clock::real_ns(), random }
    }

    /// One step: state to disk, then the effects.
    pub(super) fn feed(&mut self, input: Input) {
        self.state.event_seq = self.events.last_seq();
        let (next, effects) = instance::step(self.state.clone(), input, &self.spec, self.now());
        if next.phase.name() != self.state.phase.name() {
            self.sweep = Sweep::default();
        }
        if next != self.state {
            self.state = next;
            self.persist();
        }
        for effect in effects {
            match effect {
                Effect::Record(kind) => self.record(kind),
                Effect::OpenGate => self.open_gate(),
                Effect::AskToEnd => self.ask_to_end(),
            }
        }
    }

    /// Without a record no gate opens; everything else goes on without one.
    pub(super) fn persist(&mut self) {
        let path = self.dir.join(STATE_FILE);
        self.persisted = match files::write_atomic(&path, &self.state.encode(), 0o600, Durability::Crash) {
            Ok(()) => Persisted::Yes,
            Err(error) => {
                say(&format!("cannot write the state file; look at the space in the run folder: {error}"));
                Persisted::No
            }
        };
    }

    pub(super) fn is_persisted(&self) -> bool {
        self.persisted == Persisted::Yes
    }

    pub(super) fn record(&mut self, kind: EventKind) {
        let event = Event {
            seq: self.events.last_seq() + 1,
            real_ns: clock::real_ns(),
            boot_ms: clock::boot_ms(),
            incarnation: self.state.incarnation,
            pid: self.state.phase.program().map_or(0, |program| program.pid),
            kind,
        };
        if let Err(error) = self.events.append(event) {
            say(&format!("cannot write an event; look at the space in the run folder: {error}"));
        }
    }

    /// Does what is due by time alone.
    fn tick(&mut self) {
        let boot_ms = clock::boot_ms();
        if let Some(bytes) = self.logs.take_loss(boot_ms) {
            self.record(EventKind::LogDropped { bytes });
        }
        self.recheck_program(boot_ms);
        match self.state.phase {
            Phase::Backoff { retry_at_boot_ms } | Phase::Quarantined { retry_at_boot_ms } => {
                if boot_ms >= retry_at_boot_ms {
                    self.launch();
                }
            }
            Phase::Up { .. } => {
                if self.run_limit_boot_ms().is_some_and(|at| boot_ms >= at) {
                    self.feed(Input::RunLimitOver);
                }
            }
            Phase::Stopping { .. } | Phase::Clearing { .. } | Phase::Down | Phase::Starting { .. } => {}
        }
        self.sweep(boot_ms);
    }

    fn run_limit_boot_ms(&self) -> Option<u64> {
        let program = self.program.as_ref().filter(|_| self.spec.run_limit_ms > 0)?;
        Some(program.started_boot_ms().saturating_add(self.spec.run_limit_ms))
    }

    /// The earliest moment at which `tick` has something to do.
    fn deadline(&self, boot_ms: u64) -> u64 {
        let by_phase = match self.state.phase {
            Phase::Backoff { retry_at_boot_ms } | Phase::Quarantined { retry_at_boot_ms } => Some(retry_at_boot_ms),
            Phase::Up { .. } => self.run_limit_boot_ms(),
            Phase::Stopping { kill_at_boot_ms, .. } => Some(kill_at_boot_ms.max(self.sweep.due_boot_ms())),
            Phase::Clearing { .. } => Some(self.sweep.due_boot_ms()),
            Phase::Down | Phase::Starting { .. } => None,
        };
        let rechecked = self.program.as_ref().is_some_and(Program::needs_recheck);
        let recheck = rechecked.then_some(boot_ms + RECHECK_MS);
        let earliest = by_phase.into_iter().chain(recheck).min();
        earliest.unwrap_or(u64::MAX).min(boot_ms + SLEEP_MAX_MS)
    }

    fn wait(&mut self) -> Result<(), Error> {
        let boot_ms = clock::boot_ms();
        let sleep_ms = self.deadline(boot_ms).saturating_sub(boot_ms);
        let timeout = PollTimeout::try_from(sleep_ms).unwrap_or(PollTimeout::MAX);
        let tokens: Vec<Token> = {
            let (mut polled, tokens) = self.watched();
            match poll(&mut polled, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::Poll(errno.into())),
            }
            let woken = polled.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            woken.zip(tokens).filter_map(|(woken, token)| woken.then_some(token)).collect()
        };
        // Output first: whoever learns that the program has ended finds its last words on disk.
        if tokens.iter().any(|token| matches!(token, Token::Output(_))) {
            self.gather();
        }
        for token in tokens {
            match token {
                Token::Output(stream) => self.drain(stream),
                Token::ExecStatus => self.read_exec_status(),
                Token::Signals => self.read_signals(),
                Token::ProgramEnd => self.stranger_ended(),
                Token::Peer(peer) => self.answer(peer),
                Token::Listener => self.control.accept(),
            }
        }
        Ok(())
    }

    fn watched(&self) -> (Vec<PollFd<'_>>, Vec<Token>) {
        let mut watched = Vec::new();
        for (stream, (fifo, _)) in self.fifos.iter().enumerate() {
            watched.push((PollFd::new(fifo.as_fd(), PollFlags::POLLIN), Token::Output(stream)));
        }
        if let Some(program) = &self.program {
            if let Some(status) = program.exec_status_fd() {
                watched.push((PollFd::new(status, PollFlags::POLLIN), Token::ExecStatus));
            }
            if let Some(pidfd) = program.end_fd() {
                watched.push((PollFd::new(pidfd, PollFlags::POLLIN), Token::ProgramEnd));
            }
        }
        watched.push((PollFd::new(self.signals.as_fd(), PollFlags::POLLIN), Token::Signals));
        for (peer, (fd, stuck)) in self.control.peers().enumerate() {
            let out = if stuck { PollFlags::POLLOUT } else { PollFlags::empty() };
            watched.push((PollFd::new(fd, PollFlags::POLLIN | out), Token::Peer(peer)));
        }
        watched.push((PollFd::new(self.control.listener(), PollFlags::POLLIN), Token::Listener));
        watched.into_iter().unzip()
    }

    /// A chatty program costs a wake-up per line; letting bytes gather makes it one per 2 ms.
    fn gather(&mut self) {
        let second = clock::boot_ms() / 1_000;
        let (counted, wake_ups) = self.wake_ups;
        self.wake_ups = if counted == second { (second, wake_ups + 1) } else { (second, 0) };
        if self.wake_ups.1 > WAKE_UPS_MAX {
            std::thread::sleep(GATHER);
        }
    }

    pub(super) fn drain(&mut self, stream: usize) {
        if let Some((fifo, source)) = self.fifos.get(stream) {
            self.logs.drain(fifo, *source, clock::boot_ms());
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            if Signal::try_from(number) == Ok(Signal::SIGTERM) {
                say("told to end: stopping the program first");
                self.lifetime = Lifetime::HostGoesDown;
                self.feed(Input::Order(Order::Stop { timeout_ms: None }));
            }
        }
        // One SIGCHLD may stand for many children.
        self.reap();
    }
}

fn to_os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}
