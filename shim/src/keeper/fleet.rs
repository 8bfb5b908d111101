//! All instances of the host and what happens to them: asked for, died, found again, told to stop.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::state::Exit;
use agentd_protocol::shim::wire::Message;
use agentd_sys::process::{self, DeadChild};
use agentd_sys::seqpacket::Received;

use super::exits::ExitLog;
use super::instance::{Ask, Held, Instance, Shim, merge, open_pipes, pair};
use super::launch::Launcher;
use super::reap;
use super::respawn::Respawns;
use super::takeover::{self, Boot};
use crate::say;
use agentd_sys::causes::chain;

/// More instances than a stack has services, replicas and builds together.
const INSTANCES_MAX: usize = 8_192;
/// After a keeper death the manager asks for every instance again, with its descriptors; a shim we start before that
/// would miss them. Without a manager we wait no longer than this.
const TAKEOVER_GRACE_MS: u64 = 1_000;
/// A living shim answers at once; one that is just starting has its lock before its socket.
const ASK_LIMIT_MS: u64 = 10_000;
const ASK_AGAIN_MS: u64 = 200;
/// Zombies let go in one turn; requests are answered between turns.
const REAPS_PER_TURN: usize = 256;

#[derive(Debug)]
pub(super) struct Fleet {
    instances_dir: PathBuf,
    launcher: Launcher,
    exits: ExitLog,
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    respawning: Respawning,
}

/// On the host's way down, what dies stays dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Respawning {
    On,
    Off,
}

/// Why an instance was not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotSpawned {
    /// The request is wrong in itself.
    #[error("{0}")]
    Wrong(&'static str),
    #[error("the instance folder does not exist")]
    NoFolder,
    #[error("the keeper keeps as many instances as it can, {INSTANCES_MAX}")]
    Full,
    #[error("the keeper is ending")]
    GoingDown,
    #[error("cannot open out.fifo or err.fifo; the manager makes both before it asks")]
    Pipes(#[source] io::Error),
    #[error("cannot tell whether a shim lives; see the instance's lock file")]
    Lock(#[source] io::Error),
    #[error("cannot execute the shim; see whether its disk is mounted noexec and the limits on tasks")]
    Exec(#[source] io::Error),
}

impl Fleet {
    pub(super) fn new(instances_dir: PathBuf, launcher: Launcher, exits: ExitLog) -> Self {
        Self { instances_dir, launcher, exits, instances: BTreeMap::new(), respawning: Respawning::On }
    }

    /// Sees to it that a shim runs for this instance. One that runs keeps running; descriptors are merged by name.
    pub(super) fn spawn(&mut self, id: &InstanceId, held: Vec<Held>, now_ms: u64) -> Result<(), NotSpawned> {
        if self.respawning == Respawning::Off {
            return Err(NotSpawned::GoingDown);
        }
        // A shim that has just left must not pass for one that runs.
        self.reap(now_ms);
        let dir = self.instances_dir.join(id.as_str());
        // Not a link: nobody but us and the manager makes entries here, and both make folders.
        if !std::fs::symlink_metadata(&dir).is_ok_and(|found| found.is_dir()) {
            return Err(NotSpawned::NoFolder);
        }
        if !self.instances.contains_key(id) {
            if self.instances.len() >= INSTANCES_MAX {
                return Err(NotSpawned::Full);
            }
            let pipes = open_pipes(&dir).map_err(NotSpawned::Pipes)?;
            self.insert(id, pipes, Shim::Due { at_ms: now_ms });
        }
        let Some(instance) = self.instances.get_mut(id) else { return Err(NotSpawned::NoFolder) };
        let merged = merge(&mut instance.held, held).map_err(NotSpawned::Wrong);
        instance.respawns.reset();
        if matches!(instance.shim, Shim::Due { .. }) {
            // A request that is refused leaves nothing behind that would start by itself.
            if let Err(error) = merged.and_then(|()| self.start(id, now_ms)) {
                self.instances.remove(id);
                return Err(error);
            }
            return Ok(());
        }
        merged
    }

    fn insert(&mut self, id: &InstanceId, pipes: Vec<File>, shim: Shim) {
        let instance = Instance { held: Vec::new(), pipes, shim, respawns: Respawns::default() };
        self.instances.insert(id.clone(), instance);
    }

    /// Starts the shim, or adopts the one that holds the lock.
    fn start(&mut self, id: &InstanceId, now_ms: u64) -> Result<(), NotSpawned> {
        let dir = self.instances_dir.join(id.as_str());
        let Some(instance) = self.instances.get_mut(id) else { return Ok(()) };
        instance.shim = match takeover::living(&dir).map_err(NotSpawned::Lock)? {
            Some((pid, pidfd)) => {
                let ask = Ask::Again { at_ms: now_ms, until_ms: now_ms + ASK_LIMIT_MS };
                Shim::Adopted { pid, pidfd, since_ms: now_ms, ask }
            }
            None => {
                let (pid, pidfd) = self.launcher.start(&dir, &instance.held).map_err(NotSpawned::Exec)?;
                Shim::Child { pid, pidfd, started_ms: now_ms }
            }
        };
        Ok(())
    }

    /// A keeper's first look around. Living shims are adopted whatever the boot; programs without one only when the
    /// files are of this boot.
    pub(super) fn take_over(&mut self, boot: Boot, now_ms: u64) {
        let entries = match std::fs::read_dir(&self.instances_dir) {
            Ok(entries) => entries,
            Err(error) => return say(&format!("instances cannot be listed: {error}")),
        };
        for name in entries.flatten().take(INSTANCES_MAX).filter_map(|entry| entry.file_name().into_string().ok()) {
            let Ok(id) = InstanceId::new(name) else { continue };
            let dir = self.instances_dir.join(id.as_str());
            let alive = match takeover::living(&dir) {
                Ok(found) => found.is_some(),
                // Somebody is about to hold it.
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            };
            if !alive && (boot == Boot::New || !takeover::wants_shim(&dir)) {
                continue;
            }
            let pipes = open_pipes(&dir).unwrap_or_else(|error| {
                say(&format!("{id}: log pipes are not held: {error}"));
                Vec::new()
            });
            let at_ms = if alive { now_ms } else { now_ms + TAKEOVER_GRACE_MS };
            self.insert(&id, pipes, Shim::Due { at_ms });
        }
        self.run_due(now_ms);
    }

    /// Everything that was put off until now.
    pub(super) fn run_due(&mut self, now_ms: u64) {
        let due = |instance: &Instance| match &instance.shim {
            Shim::Due { at_ms } => *at_ms <= now_ms,
            Shim::Adopted { ask: Ask::Again { at_ms, .. }, .. } => *at_ms <= now_ms,
            Shim::Adopted { ask: Ask::Sent { until_ms, .. }, .. } => *until_ms <= now_ms,
            Shim::Adopted { ask: Ask::Finished, .. } | Shim::Child { .. } => false,
        };
        let ids: Vec<InstanceId> =
            self.instances.iter().filter(|(_, instance)| due(instance)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            match self.instances.get(&id).map(|instance| &instance.shim) {
                Some(Shim::Due { .. }) => self.start_due(&id, now_ms),
                Some(Shim::Adopted { .. }) => self.ask(&id, now_ms),
                Some(Shim::Child { .. }) | None => {}
            }
        }
    }

    /// The next moment `run_due` has something to do.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        let at = |instance: &Instance| match &instance.shim {
            Shim::Due { at_ms } | Shim::Adopted { ask: Ask::Again { at_ms, .. }, .. } => Some(*at_ms),
            Shim::Adopted { ask: Ask::Sent { until_ms, .. }, .. } => Some(*until_ms),
            Shim::Adopted { ask: Ask::Finished, .. } | Shim::Child { .. } => None,
        };
        self.instances.values().filter_map(at).min()
    }

    fn start_due(&mut self, id: &InstanceId, now_ms: u64) {
        if !self.instances_dir.join(id.as_str()).is_dir() {
            say(&format!("{id}: its folder is gone; forgotten"));
            self.instances.remove(id);
            return;
        }
        let Err(error) = self.start(id, now_ms) else { return };
        let Some(instance) = self.instances.get_mut(id) else { return };
        let at_ms = match &error {
            // The lock has just been taken or left.
            NotSpawned::Lock(cause) if cause.kind() == io::ErrorKind::WouldBlock => now_ms + ASK_AGAIN_MS,
            _ => {
                say(&format!("{id}: {}", chain(&error)));
                instance.respawns.next_at_ms(now_ms, now_ms).max(now_ms + ASK_AGAIN_MS)
            }
        };
        instance.shim = Shim::Due { at_ms };
    }

    fn ask(&mut self, id: &InstanceId, now_ms: u64) {
        let dir = self.instances_dir.join(id.as_str());
        let Some(Instance { shim: Shim::Adopted { pid, ask, .. }, .. }) = self.instances.get_mut(id) else { return };
        let (Ask::Again { until_ms, .. } | Ask::Sent { until_ms, .. }) = ask else { return };
        let until_ms = *until_ms;
        *ask = match takeover::ask_held(&dir, *pid) {
            _ if until_ms <= now_ms => {
                say(&format!("{id}: its shim did not say which descriptors it holds"));
                Ask::Finished
            }
            Ok(connection) => Ask::Sent { connection, until_ms },
            Err(_) => Ask::Again { at_ms: now_ms + ASK_AGAIN_MS, until_ms },
        };
    }

    /// The adopted shim of `id` wrote, or closed the connection.
    pub(super) fn answered(&mut self, id: &InstanceId, now_ms: u64) {
        let Some(Instance { shim: Shim::Adopted { ask, .. }, held, .. }) = self.instances.get_mut(id) else { return };
        let Ask::Sent { connection, until_ms } = ask else { return };
        let again = Ask::Again { at_ms: now_ms + ASK_AGAIN_MS, until_ms: *until_ms };
        match connection.receive() {
            Ok(Received::Message { envelope, fds }) => match envelope.message {
                Message::Held { names } => {
                    // What the manager has given us meanwhile is newer.
                    let given = std::mem::take(held);
                    let all = pair(names, fds).and_then(|theirs| merge(held, theirs)).and_then(|()| merge(held, given));
                    if let Err(rule) = all {
                        say(&format!("{id}: held descriptors: {rule}"));
                    }
                    *ask = Ask::Finished;
                }
                // A manager of a higher epoch has greeted it since we read its state, most likely.
                Message::Refused { .. } => *ask = again,
                // The Welcome, or an event: for managers.
                _ => {}
            },
            Ok(Received::Bad(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(Received::Closed) | Err(_) => *ask = again,
        }
    }

    /// Children that ended: shims are started again, what they left is written down. True when there may be more.
    pub(super) fn reap(&mut self, now_ms: u64) -> bool {
        for _ in 0..REAPS_PER_TURN {
            let dead = match process::dead_child() {
                Ok(Some(dead)) => dead,
                Ok(None) => return false,
                Err(error) => {
                    say(&format!("cannot look at dead children: {error}"));
                    return false;
                }
            };
            let shim = self.instances.iter().find(|(_, instance)| match instance.shim {
                Shim::Child { pid, .. } => pid == dead.pid,
                Shim::Adopted { .. } | Shim::Due { .. } => false,
            });
            let shim = shim.map(|(id, _)| id.clone());
            if shim.is_none() {
                self.record(dead);
            }
            if let Err(error) = process::reap(dead.pid) {
                say(&format!("cannot reap pid {}: {error}", dead.pid));
                return false;
            }
            if let Some(id) = shim {
                self.shim_ended(&id, Some(dead.exit), now_ms);
            }
        }
        true
    }

    /// A program, or what one has left behind. Not recorded means unknown; a zombie kept for it would hide later ones.
    fn record(&self, dead: DeadChild) {
        if let Err(error) = self.exits.append(&reap::record(dead)) {
            say(&format!("the exit of pid {} is not recorded: {error}", dead.pid));
        }
    }

    /// The pidfd of an adopted shim says it has ended; somebody else is its parent.
    pub(super) fn adopted_ended(&mut self, id: &InstanceId, now_ms: u64) {
        let exit =
            self.instances.get(id).and_then(|instance| instance.shim.pidfd()).and_then(|pidfd| pidfd.exit_info());
        self.shim_ended(id, exit, now_ms);
    }

    /// Exit status 0 is a shim that was told to leave, or that found another at work. When nobody can tell, its
    /// `state` does.
    fn shim_ended(&mut self, id: &InstanceId, exit: Option<Exit>, now_ms: u64) {
        let dir = self.instances_dir.join(id.as_str());
        let left = match exit {
            Some(exit) => exit == Exit::Code(0) && takeover::living(&dir).is_ok_and(|found| found.is_none()),
            None => !takeover::wants_shim(&dir),
        };
        if left || self.respawning == Respawning::Off {
            self.instances.remove(id);
            return;
        }
        let Some(instance) = self.instances.get_mut(id) else { return };
        let (Shim::Child { started_ms, .. } | Shim::Adopted { since_ms: started_ms, .. }) = instance.shim else {
            return;
        };
        let at_ms = instance.respawns.next_at_ms(started_ms, now_ms);
        say(&format!("{id}: its shim ended ({exit:?}); a new one adopts in {} ms", at_ms - now_ms));
        instance.shim = Shim::Due { at_ms };
        self.run_due(now_ms);
    }

    /// Drops what is kept for an instance without a shim. True when it was, or nothing was kept.
    pub(super) fn forget(&mut self, id: &InstanceId) -> bool {
        if self.instances.get(id).is_some_and(|instance| instance.shim.pid().is_some()) {
            return false;
        }
        self.instances.remove(id);
        true
    }

    pub(super) fn living(&self) -> impl Iterator<Item = (String, u32)> {
        self.instances.iter().filter_map(|(id, instance)| Some((id.to_string(), instance.shim.pid()?)))
    }

    /// The host goes down: every shim stops its program and ends; none is started again.
    pub(super) fn stop_all(&mut self) {
        self.respawning = Respawning::Off;
        self.instances.retain(|_, instance| instance.shim.pid().is_some());
        for (id, instance) in &self.instances {
            let Some(pidfd) = instance.shim.pidfd() else { continue };
            match pidfd.signal(libc::SIGTERM) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    say(&format!("{id}: its shim cannot be told to end: {error}"));
                }
                // ESRCH: it has ended and its notice is on the way.
                Ok(()) | Err(_) => {}
            }
        }
    }
}
