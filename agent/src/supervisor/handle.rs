//! The room's handle: what the reconcile room may ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentd_protocol::ids::{Epoch, InstanceId};
use agentd_protocol::shim::RESERVE_PREFIX;
use agentd_protocol::shim::event::Event;
use agentd_protocol::shim::spec::User;
use agentd_protocol::shim::state::{LastExit, Phase};
use agentd_protocol::shim::wire::Refusal;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::client::NoLink;
use super::health::{Allowances, Prober};
use super::keeper::{self, Keeper, KeeperView};
use super::launch::{Launch, Record};
use super::layout::Layout;
use super::ports::{Lease, PortWish, Ports, Reservation};
use super::room::{EVENTS_MAX, REACHING_MAX, Room, SPAWNS_MAX, Spawn, Views};
use super::scope::Scope;
use super::task::{InstanceTask, Order, Reply, Request};
use super::tracked::{Now, Tracked};
use super::usage::{Sampler, Usage};
use super::{logs, private_hosts, spec};
use crate::lifecycle;

/// All shims found at start have so long to answer; those that do not are unsupervised and tried on.
const ADOPTION_TIMEOUT: Duration = Duration::from_secs(10);
/// From SPAWN to the shim's Welcome.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(10);
/// From an order to its answer, reconnecting included.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);
/// Past a stop's own deadline: the kill of the tree, and the way of the event.
const STOP_SLACK: Duration = Duration::from_secs(15);
const FORGET_INTERVAL: Duration = Duration::from_millis(20);
/// From an accepted Leave to the end of the shim.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Orders of one instance that wait while its shim is being reached.
const ORDERS_MAX: usize = 16;

const RESERVE_NAME: &str = "port";
/// The keeper's own messages, in the log folder beside the services' folders.
const KEEPER_LOG: &str = "keeper.log";

#[derive(Debug, Clone)]
pub struct Config {
    pub run_dir: PathBuf,
    pub log_dir: PathBuf,
    /// The installed agentd-shim.
    pub shim: PathBuf,
    /// This manager's number; shims refuse lower ones than they have seen.
    pub epoch: Epoch,
    /// Sequence number of the last event the reader of [`Supervisor::events`] keeps of an instance; what came after it
    /// is told again.
    pub events_kept: BTreeMap<InstanceId, u64>,
    /// Of the pool.
    pub ports: RangeInclusive<u16>,
    /// User of programs launched with [`super::RunAs::Configured`]; `None` keeps the manager's.
    pub run_as: Option<User>,
    /// Where the keeper lives, and so everything below it.
    pub scope: Scope,
}

/// Cheap to clone. Dropping it stops nothing: the token given to `start` ends the tasks, and the programs run on.
#[derive(Debug, Clone)]
pub struct Supervisor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    room: Arc<Room>,
    keeper: Keeper,
    ports: Arc<Ports>,
    instances: Mutex<BTreeMap<InstanceId, Entry>>,
    sampler: Sampler,
    /// Until its one reader takes it.
    events: Mutex<Option<mpsc::Receiver<(InstanceId, Event)>>>,
    cancel: CancellationToken,
}

#[derive(Debug)]
struct Entry {
    requests: mpsc::Sender<Request>,
    nudge: Arc<Notify>,
    stop_timeout: Duration,
    task: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Ensures the keeper and adopts every instance that is found, at most ten seconds long.
    pub async fn start(config: Config, cancel: CancellationToken) -> Result<Self, Error> {
        let layout = Layout::prepare(&config.run_dir, &config.log_dir)?;
        let keeper_log = config.log_dir.join(KEEPER_LOG);
        let keeper = Keeper::ensure(&config.run_dir, &config.shim, &keeper_log, config.scope, cancel.clone()).await?;
        let (events, events_taken) = mpsc::channel(EVENTS_MAX);
        let (spawns, spawns_taken) = mpsc::channel(SPAWNS_MAX);
        let room = Room {
            layout,
            epoch: config.epoch,
            prober: Prober::new().map_err(Error::Prober)?,
            allowances: Allowances::default(),
            reaching: Semaphore::new(REACHING_MAX),
            views: watch::Sender::new(Views::default()),
            events,
            spawns,
        };
        let spawning = forward_spawns(keeper.clone(), spawns_taken, cancel.clone());
        lifecycle::spawn_essential("spawns", cancel.clone(), spawning);
        let supervisor = Self(Arc::new(Inner {
            ports: Arc::new(Ports::new(config.ports.clone())),
            config,
            room: Arc::new(room),
            keeper,
            instances: Mutex::default(),
            sampler: Sampler::default(),
            events: Mutex::new(Some(events_taken)),
            cancel,
        }));
        supervisor.adopt().await?;
        let cancel = supervisor.0.cancel.clone();
        lifecycle::spawn_essential("keeper-watch", cancel, supervisor.clone().follow_keeper());
        Ok(supervisor)
    }

    async fn adopt(&self) -> Result<(), Error> {
        let deadline = Instant::now() + ADOPTION_TIMEOUT;
        let mut welcomes = Vec::new();
        for (id, record) in self.0.room.layout.found()? {
            match record {
                Ok(record) => {
                    let lease = record.port.map(|port| self.0.ports.adopt(port));
                    welcomes.push(self.supervise(record, lease));
                }
                // Kept: whatever runs there may be precious, and nobody knows what it is.
                Err(error) => tracing::error!(instance = %id, %error, "instance without a label is left alone"),
            }
        }
        for welcome in welcomes {
            // A shim past the deadline is shown as unsupervised and tried on.
            let _ = timeout_at(deadline, welcome).await;
        }
        Ok(())
    }

    /// A keeper that was started anew has found what lives; the shims that died with the old one are asked for here.
    async fn follow_keeper(self) {
        let mut keepers = self.0.keeper.view();
        keepers.mark_unchanged();
        while let Some(Ok(())) = self.0.cancel.run_until_cancelled(keepers.changed()).await {
            let ids: Vec<InstanceId> = self.0.instances.lock().expect("no holder panics").keys().cloned().collect();
            for id in ids {
                if let Err(error) = self.0.room.spawn(&id, Vec::new()).await {
                    tracing::warn!(instance = %id, %error, "the new keeper has no shim for an instance");
                }
            }
        }
    }

    /// Keeps a port for a launch to come.
    pub async fn reserve(&self, wish: PortWish) -> Result<Reservation, Error> {
        let ports = Arc::clone(&self.0.ports);
        // Naming the owner of a taken port reads all of /proc.
        lifecycle::spawn_blocking("port-reserve", move || ports.reserve(wish)).await.map_err(|_| Error::Ending)?
    }

    /// Returns when the shim has said Welcome; the program may not even have started.
    pub async fn launch(&self, launch: Launch) -> Result<InstanceId, Error> {
        let id = new_id();
        let room = &self.0.room;
        let log_dir = room.layout.log_dir(&launch.service, &id);
        let spec = spec::of(&launch, &id, &log_dir, self.0.config.run_as.as_ref())?;
        let uid = spec.user.as_ref().map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid);
        let Launch { service, label, port, mut held, stop_timeout, gate, probe, .. } = launch;
        let record =
            Record { id, service, label, port: port.as_ref().map(|r| r.port), gate, probe, stop_timeout, log_dir, uid };
        let lease = port.map(|Reservation { fd, lease, .. }| {
            held.push((format!("{RESERVE_PREFIX}{RESERVE_NAME}"), fd));
            lease
        });
        room.layout.create(&record, &spec)?;
        let id = record.id.clone();
        if let Err(error) = room.spawn(&id, held).await {
            // The keeper's refusal is what matters; a folder that stays is adopted, and shown, at the next start.
            let _ = room.layout.remove(&id);
            return Err(match error {
                NoLink::Spawn(cause) => Error::Keeper(cause),
                NoLink::Ending
                | NoLink::Dead
                | NoLink::Hung
                | NoLink::Superseded
                | NoLink::Refused { .. }
                | NoLink::Socket(_) => Error::Ending,
            });
        }
        let welcomed = self.supervise(record, lease);
        match timeout(LAUNCH_TIMEOUT, welcomed).await {
            Ok(Ok(())) => Ok(id),
            Ok(Err(_)) | Err(_) => Err(Error::Unreachable { id }),
        }
    }

    /// Starts the task of an instance whose folder exists. The receiver is told at the first Welcome.
    fn supervise(&self, record: Record, lease: Option<Lease>) -> oneshot::Receiver<()> {
        let (requests, requests_taken) = mpsc::channel(ORDERS_MAX);
        let (welcomed, told) = oneshot::channel();
        let nudge = Arc::new(Notify::new());
        let room = Arc::clone(&self.0.room);
        let id = record.id.clone();
        let stop_timeout = record.stop_timeout;
        let asked_restarts = room.layout.asked_restarts(&id);
        let task = InstanceTask {
            dir: room.layout.dir(&id),
            tracked: Tracked::new(record, asked_restarts, Now::read()),
            room,
            events_kept: self.0.config.events_kept.get(&id).copied().unwrap_or(0),
            requests: requests_taken,
            nudge: Arc::clone(&nudge),
            welcomed: Some(welcomed),
            _lease: lease,
        };
        // Its own token: a task that ends with its shim says so, one that panics ends the process.
        let cancel = self.0.cancel.child_token();
        let task = Some(lifecycle::spawn_essential("instance", cancel.clone(), task.run(cancel)));
        let entry = Entry { requests, nudge, stop_timeout, task };
        self.0.instances.lock().expect("no holder panics").insert(id, entry);
        told
    }

    /// Resolves when nothing of the tree is left.
    pub async fn stop(&self, id: &InstanceId, timeout: Option<Duration>) -> Result<(), Error> {
        let own = self.entry(id, |entry| entry.stop_timeout)?;
        let deadline = Instant::now() + timeout.unwrap_or(own).saturating_add(STOP_SLACK);
        let work = async {
            // Asked again when the shim was lost before it answered: a second Stop changes nothing.
            while let Err(error) = self.order(id, || Order::Stop { timeout }).await {
                if !matches!(error, Error::Unreachable { .. }) {
                    return Err(error);
                }
            }
            self.until(id, |phase, _| matches!(phase, Phase::Down).then_some(())).await
        };
        timeout_at(deadline, work).await.unwrap_or_else(|_| Err(Error::NotStopped { id: id.clone() }))
    }

    /// Returns when the shim has accepted; the view tells when the new incarnation is ready.
    pub async fn restart(&self, id: &InstanceId) -> Result<(), Error> {
        self.order(id, || Order::Restart).await.map(drop)
    }

    /// From down, back-off or crash loop; in other phases nothing changes.
    pub async fn start_again(&self, id: &InstanceId) -> Result<(), Error> {
        self.order(id, || Order::Start).await.map(drop)
    }

    /// Only when down. The shim ends, the folder goes, the port is freed; logs stay.
    pub async fn remove(&self, id: &InstanceId) -> Result<(), Error> {
        let phase = self.0.room.views.borrow().get(id).map(|view| view.phase.clone());
        if !matches!(phase, None | Some(Phase::Down)) {
            return Err(Error::NotDown { id: id.clone() });
        }
        match self.order(id, || Order::Leave).await {
            Ok(_) => {}
            // Removed by a call before this one.
            Err(Error::Unknown { .. }) if phase.is_none() => return Ok(()),
            // The shim has left already, on the word of a call that was not carried to its end.
            Err(Error::Unknown { .. }) => {}
            Err(Error::Ending) if !self.0.cancel.is_cancelled() => {}
            Err(error) => return Err(error),
        }
        let task = self.0.instances.lock().expect("no holder panics").remove(id).and_then(|entry| entry.task);
        if let Some(task) = task {
            // A panic has been reported by the runtime; the folder goes in any case.
            let _ = timeout(LEAVE_TIMEOUT, task).await;
        }
        self.0.room.withdraw(id);
        self.forget(id).await?;
        self.0.room.layout.remove(id)
    }

    /// The shim has said that it leaves; the keeper is busy with it until it has reaped it.
    async fn forget(&self, id: &InstanceId) -> Result<(), Error> {
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        loop {
            match self.0.keeper.forget(id).await {
                Err(keeper::Error::Refused { reason: Refusal::Busy, .. }) if Instant::now() < deadline => {
                    sleep(FORGET_INTERVAL).await;
                }
                answer => return Ok(answer?),
            }
        }
    }

    /// Waits until a program that is not started again has ended, and nothing of its tree is left.
    pub async fn finished(&self, id: &InstanceId) -> Result<LastExit, Error> {
        self.until(id, |phase, last_exit| last_exit.filter(|_| matches!(phase, Phase::Down))).await
    }

    pub fn view(&self) -> watch::Receiver<Views> {
        self.0.room.views.subscribe()
    }

    /// What happened to all instances, in order per instance, from where [`Config::events_kept`] ends.
    /// `None` after the first call: there is one reader.
    pub fn events(&self) -> Option<mpsc::Receiver<(InstanceId, Event)>> {
        self.0.events.lock().expect("no holder panics").take()
    }

    /// A hint that something may be wrong: probes soon, and a few times a second at most.
    pub fn probe_now(&self, id: &InstanceId) {
        if let Ok(nudge) = self.entry(id, |entry| Arc::clone(&entry.nudge)) {
            nudge.notify_one();
        }
    }

    /// The last lines of both streams, oldest first. Also of instances that are gone, while their folder is kept.
    pub fn tail(&self, service: &str, id: &InstanceId, lines: usize) -> Result<Vec<String>, Error> {
        let dir = self.0.room.layout.log_dir(spec::folder_name(service)?, id);
        logs::tail(&dir, lines).map_err(|source| Error::Logs { dir, source })
    }

    /// The logs there are of a service, oldest first; those of instances that are gone stay for a while.
    pub fn log_folders(&self, service: &str) -> Result<Vec<logs::LogFolder>, Error> {
        let dir = self.0.room.layout.logs().join(spec::folder_name(service)?);
        logs::folders(&dir).map_err(|source| Error::Logs { dir, source })
    }

    /// Every log of a service that has no instances any more.
    pub fn remove_logs(&self, service: &str) -> Result<(), Error> {
        let dir = self.0.room.layout.logs().join(spec::folder_name(service)?);
        match std::fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Logs { dir, source }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes old folders of instances that are gone; tells how many.
    pub fn sweep_logs(&self) -> Result<usize, Error> {
        let alive: BTreeSet<String> = self.0.room.views.borrow().keys().map(InstanceId::to_string).collect();
        let dir = self.0.room.layout.logs();
        logs::sweep(dir, &alive).map_err(|source| Error::Logs { dir: dir.to_owned(), source })
    }

    /// Shows `hosts_file` again to the instances that have lost it.
    pub async fn renew_hosts(&self, hosts_file: &Path) {
        let views = self.view().borrow().clone();
        private_hosts::renew_all(&self.0.config.shim, &views, hosts_file).await;
    }

    /// Duplicates of what was handed along at launch, from the shim or, where that fails, the keeper.
    pub async fn held(&self, id: &InstanceId) -> Result<Vec<(String, OwnedFd)>, Error> {
        match self.order(id, || Order::Held).await {
            Ok(Reply::Held(held)) => Ok(held),
            Ok(Reply::Done) | Err(_) => Ok(self.0.keeper.held(id).await?),
        }
    }

    /// Which keeper there is.
    pub fn keeper(&self) -> watch::Receiver<KeeperView> {
        self.0.keeper.view()
    }

    /// What instances use now, and the host; `home` names the disk. Costs a look at all of /proc, once a second at most.
    pub async fn usage(&self, home: PathBuf) -> Usage {
        let views = self.view().borrow().clone();
        self.0.sampler.usage(views, home).await
    }

    pub fn keeper_pid(&self) -> Option<u32> {
        Some(self.0.keeper.pid())
    }

    /// Ends the keeper. All instances must have been removed.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let count = self.0.instances.lock().expect("no holder panics").len();
        if count > 0 {
            return Err(Error::NotEmpty { count });
        }
        Ok(self.0.keeper.shutdown().await?)
    }

    fn entry<T>(&self, id: &InstanceId, read: impl FnOnce(&Entry) -> T) -> Result<T, Error> {
        let instances = self.0.instances.lock().expect("no holder panics");
        instances.get(id).map(read).ok_or_else(|| Error::Unknown { id: id.clone() })
    }

    async fn order(&self, id: &InstanceId, order: impl FnOnce() -> Order) -> Result<Reply, Error> {
        let requests = self.entry(id, |entry| entry.requests.clone())?;
        let (reply, answer) = oneshot::channel();
        let unreachable = || Error::Unreachable { id: id.clone() };
        let asked = async {
            requests.send(Request { order: order(), reply }).await.map_err(|_| Error::Ending)?;
            answer.await.map_err(|_| unreachable())?
        };
        timeout(ORDER_TIMEOUT, asked).await.map_err(|_| unreachable())?
    }

    /// Waits without a limit for what the caller is looking for; the caller has one, or the program has (builds).
    async fn until<T>(
        &self,
        id: &InstanceId,
        mut found: impl FnMut(&Phase, Option<LastExit>) -> Option<T>,
    ) -> Result<T, Error> {
        let mut views = self.view();
        loop {
            match views.borrow_and_update().get(id) {
                None => return Err(Error::Unknown { id: id.clone() }),
                Some(view) => {
                    if let Some(value) = found(&view.phase, view.last_exit) {
                        return Ok(value);
                    }
                }
            }
            tokio::select! {
                () = self.0.cancel.cancelled() => return Err(Error::Ending),
                changed = views.changed() => changed.map_err(|_| Error::Ending)?,
            }
        }
    }
}

async fn forward_spawns(keeper: Keeper, mut spawns: mpsc::Receiver<Spawn>, cancel: CancellationToken) {
    while let Some(Some(Spawn { id, held, done })) = cancel.run_until_cancelled(spawns.recv()).await {
        // Dropped: whoever asked has ended.
        let _ = done.send(keeper.spawn(&id, held).await);
    }
}

/// 12 of [a-z0-9]: 62 bits, so two never meet on one host.
fn new_id() -> InstanceId {
    let text: String =
        std::iter::repeat_with(fastrand::alphanumeric).map(|letter| letter.to_ascii_lowercase()).take(12).collect();
    InstanceId::new(text).expect("12 of a-z and 0-9")
}
