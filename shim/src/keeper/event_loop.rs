//! The one poll(2): signals, the control socket, its connections, and shims that are not our children.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;

use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::wire::WireError;
use agentd_sys::clock;
use agentd_sys::seqpacket::{Blocking, Connection, Received};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::Error;
use super::args::{self, Args};
use super::bucket::StartBucket;
use super::exits::ExitLog;
use super::fleet::Fleet;
use super::instance::{Ask, Shim};
use super::launch::Launcher;
use super::requests::{self, After};
use super::setup::{self, Ready, Role};
use crate::say;

/// As in agentd's table: the act failed; the command line is wrong; another one runs.
const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_LOCKED: u8 = 7;
/// One manager, some tools, and every shim of a full host asking for a start at once would wait in the backlog.
const CONNECTIONS_MAX: usize = 512;
const ACCEPT_PAUSE_MS: u64 = 1_000;
/// Messages taken from one connection before the others have their turn.
const MESSAGES_PER_TURN: usize = 32;
/// From SIGTERM to the end whatever the shims do; the service manager's own patience is 90 s.
const HOST_DOWN_LIMIT_MS: u64 = 60_000;

struct Keeper {
    ready: Ready,
    fleet: Fleet,
    bucket: StartBucket,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// Later than now after a failed accept.
    accept_at_ms: u64,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// SIGTERM came: shims are ending.
    HostDown {
        until_ms: u64,
    },
    Ended,
}

/// What poll(2) found something at.
#[derive(Debug, Clone)]
enum Source {
    Signals,
    Listener,
    Connection(u64),
    AdoptedShim(InstanceId),
    Asked(InstanceId),
}

/// Runs until told to end; `args` are those after the verb.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let ended = args::parse(args).ok_or(Error::Usage).and_then(|args| {
        setup::close_inherited();
        match setup::part(args.parentage)? {
            Role::Starter => Ok(()),
            Role::Keeper => Keeper::start(&args)?.serve(),
        }
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&agentd_sys::causes::chain(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Usage => EXIT_USAGE,
        Error::Held { .. } => EXIT_LOCKED,
        Error::Detach(_)
        | Error::RunDir(_)
        | Error::Lock(_)
        | Error::Signals(_)
        | Error::Socket(_)
        | Error::Poll(_) => EXIT_FAILED,
    }
}

impl Keeper {
    fn start(args: &Args) -> Result<Self, Error> {
        let shim = args.shim.as_deref().map(Path::canonicalize).transpose().map_err(Error::RunDir)?;
        let ready = setup::prepare(&args.run_dir)?;
        let launcher = Launcher::new(shim.as_deref(), ready.open_files).map_err(Error::RunDir)?;
        let mut fleet = Fleet::new(ready.instances_dir.clone(), launcher, ExitLog::new(ready.exits_path.clone()));
        fleet.take_over(ready.boot, clock::boot_ms());
        let bucket = StartBucket::default();
        Ok(Self {
            ready,
            fleet,
            bucket,
            connections: BTreeMap::new(),
            next_connection: 0,
            accept_at_ms: 0,
            phase: Phase::Serving,
        })
    }

    fn serve(&mut self) -> Result<(), Error> {
        loop {
            for source in self.wait()? {
                self.handle(source);
            }
            let now_ms = clock::boot_ms();
            self.fleet.run_due(now_ms);
            match self.phase {
                Phase::Serving => {}
                Phase::HostDown { .. } if self.fleet.instances.is_empty() => return Ok(()),
                Phase::HostDown { until_ms } if until_ms <= now_ms => {
                    say(&format!("{} shims did not end; leaving them", self.fleet.instances.len()));
                    return Ok(());
                }
                Phase::HostDown { .. } => {}
                Phase::Ended => return Ok(()),
            }
        }
    }

    /// Waits for the next events, or for the next thing that is due.
    fn wait(&self) -> Result<Vec<Source>, Error> {
        let now_ms = clock::boot_ms();
        let watched = self.watched(now_ms);
        let mut fds: Vec<PollFd<'_>> = watched.iter().map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, self.timeout(now_ms)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::Poll(errno.into())),
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        Ok(watched.iter().zip(&fds).filter(|(_, fd)| ready(fd)).map(|((source, _), _)| source.clone()).collect())
    }

    fn watched(&self, now_ms: u64) -> Vec<(Source, BorrowedFd<'_>)> {
        let mut watched = vec![(Source::Signals, self.ready.signals_fd())];
        if self.connections.len() < CONNECTIONS_MAX && self.accept_at_ms <= now_ms {
            watched.push((Source::Listener, self.ready.listener.as_fd()));
        }
        watched.extend(self.connections.iter().map(|(key, one)| (Source::Connection(*key), one.as_fd())));
        for (id, instance) in &self.fleet.instances {
            let Shim::Adopted { pidfd, ask, .. } = &instance.shim else { continue };
            watched.push((Source::AdoptedShim(id.clone()), pidfd.as_fd()));
            if let Ask::Sent { connection, .. } = ask {
                watched.push((Source::Asked(id.clone()), connection.as_fd()));
            }
        }
        watched
    }

    fn timeout(&self, now_ms: u64) -> PollTimeout {
        let accept = (self.accept_at_ms > now_ms).then_some(self.accept_at_ms);
        let deadline = match self.phase {
            Phase::HostDown { until_ms } => Some(until_ms),
            Phase::Serving | Phase::Ended => None,
        };
        let Some(at_ms) = self.fleet.next_due_ms().into_iter().chain(deadline).chain(accept).min() else {
            return PollTimeout::NONE;
        };
        let wait_ms = at_ms.saturating_sub(now_ms);
        PollTimeout::try_from(wait_ms).unwrap_or(PollTimeout::MAX)
    }

    fn handle(&mut self, source: Source) {
        let now_ms = clock::boot_ms();
        match source {
            Source::Signals => self.signals(now_ms),
            Source::Listener => self.accept(now_ms),
            Source::Connection(key) => self.read(key, now_ms),
            Source::AdoptedShim(id) => self.fleet.adopted_ended(&id, now_ms),
            Source::Asked(id) => self.fleet.answered(&id, now_ms),
        }
    }

    fn signals(&mut self, now_ms: u64) {
        // Signals of one kind merge, so the children are looked at and not the notices.
        while let Ok(Some(notice)) = self.ready.signals.read_signal() {
            let is_term = i32::try_from(notice.ssi_signo) == Ok(libc::SIGTERM);
            if is_term && self.phase == Phase::Serving {
                self.phase = Phase::HostDown { until_ms: now_ms + HOST_DOWN_LIMIT_MS };
                self.fleet.stop_all();
            }
        }
        if self.fleet.reap(now_ms) {
            // More are waiting and no new notice will come for them: leave one for the next turn.
            let _ = nix::sys::signal::raise(Signal::SIGCHLD);
        }
    }

    fn accept(&mut self, now_ms: u64) {
        match self.ready.listener.accept(Blocking::No) {
            Ok(Some(connection)) => match connection.peer() {
                Ok(peer) if peer.uid == 0 || peer.uid == nix::unistd::geteuid().as_raw() => {
                    self.connections.insert(self.next_connection, connection);
                    self.next_connection += 1;
                }
                Ok(peer) => say(&format!("user {} may not ask here", peer.uid)),
                Err(error) => say(&format!("a connection without credentials: {error}")),
            },
            Ok(None) => {}
            Err(error) => {
                // No descriptor is free, most likely: it would fail again at once.
                say(&format!("accepting failed: {error}"));
                self.accept_at_ms = now_ms + ACCEPT_PAUSE_MS;
            }
        }
    }

    /// Answers what one connection has to say; drops it when it ends or misbehaves.
    fn read(&mut self, key: u64, now_ms: u64) {
        let Some(connection) = self.connections.remove(&key) else { return };
        for _ in 0..MESSAGES_PER_TURN {
            match self.turn(&connection, now_ms) {
                Ok(Turn::Answered) => {}
                Ok(Turn::Last) => {
                    self.phase = Phase::Ended;
                    return;
                }
                Ok(Turn::Idle) => break,
                Ok(Turn::Closed) => return,
                Err(error) => return say(&format!("a connection is dropped: {error}")),
            }
        }
        self.connections.insert(key, connection);
    }

    fn turn(&mut self, connection: &Connection, now_ms: u64) -> io::Result<Turn> {
        match connection.receive() {
            Ok(Received::Message { envelope, fds }) => {
                let after = requests::answer(&mut self.fleet, &mut self.bucket, connection, (envelope, fds), now_ms)?;
                Ok(if after == After::End { Turn::Last } else { Turn::Answered })
            }
            Ok(Received::Bad(WireError::Unsupported { seq })) => {
                requests::refuse_unknown(connection, seq).map(|()| Turn::Answered)
            }
            Ok(Received::Bad(cause)) => Err(io::Error::new(io::ErrorKind::InvalidData, cause)),
            Ok(Received::Closed) => Ok(Turn::Closed),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Turn::Idle),
            // It died with an answer unread: a shim that asked for a start, most often.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Turn::Closed),
            Err(error) => Err(error),
        }
    }
}

/// One read of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Answered,
    Idle,
    Closed,
    /// The keeper ends after this answer.
    Last,
}
