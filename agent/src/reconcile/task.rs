//! The task that gives the workers their orders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::api::{Plan, Status, What};
use agentd_protocol::edge::{Absent, ForwardedBy};
use agentd_protocol::ids::{ReleaseNumber, ServiceName, Version};
use agentd_protocol::stack::Stack;
use agentd_sys::causes::chain;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::build;
use super::environment::Naming;
use super::handle::{Act, Command, Handle, Ticket};
use super::hosts::HostsFile;
use super::journal::Journal;
use super::logs::Logs;
use super::mask::{CredentialFiles, KnownSecrets, mask_status};
use super::observer;
use super::plan::{self, Known};
use super::rollback;
use super::routing::{Entry, Routing};
use super::running::{self, RunProblems};
use super::sequence;
use super::status;
use super::status_file::{self, Sources};
use super::transitions::{self, Standing};
use super::upkeep;
use super::users::Users;
use super::worker::{Doing, Report, Reports, Rooms, RunWish, Settled, Wanted, Worker, route_of, unix_ms};
use crate::edge::EdgeClient;
use crate::lifecycle;
use crate::source::Source;
use crate::store::{Store, StoredService, StoredVersion, entry_digest};
use crate::supervisor::{Label, Supervisor};

/// Commands that may wait; each caller waits for its answer, so more than the connections of the API is never needed.
const COMMANDS_MAX: usize = 64;
/// Beyond a service's own drain, stop and start limits, how long a command waits for it.
const COMMAND_SLACK: Duration = Duration::from_secs(60);

/// Deploys of a service among which a rollback looks for releases that never got ready.
const DEPLOYS_LOOKED_AT: u32 = 100;

/// Pause before a version that could not be read from the store is tried again.
const APPLY_RETRY: Duration = Duration::from_secs(5);

/// What the reconciler works with; everything the app has started before it.
#[derive(Debug)]
pub struct Setup {
    pub store: Store,
    pub source: Source,
    pub supervisor: Supervisor,
    pub edge: EdgeClient,
    pub naming: Naming,
    /// Whom the edge is to believe.
    pub client_address: ForwardedBy,
    /// What instances see in the place of /etc/hosts.
    pub hosts: HostsFile,
    pub users: Users,
    /// PATH of every build and instance.
    pub path: String,
    /// Never shown, whoever prints them.
    pub credentials: CredentialFiles,
    /// The manager's own log, for those who ask for it.
    pub agent_log: PathBuf,
    pub facts: status::Facts,
    /// Where the last status lies for those who cannot ask.
    pub status_file: PathBuf,
    pub cancel: CancellationToken,
}

/// The way to one worker.
struct Orders {
    wanted: watch::Sender<Wanted>,
    /// Ends that worker alone, for a service that is pruned.
    cancel: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Converging,
    /// `agentctl shutdown` was asked: nothing is started any more.
    GoingDown,
}

struct Task {
    rooms: Rooms,
    credentials: CredentialFiles,
    facts: status::Facts,
    workers: BTreeMap<ServiceName, Orders>,
    latest: Option<StoredVersion>,
    /// Counts orders.
    ticket: u64,
    course: Course,
    /// What was told last of the newest version.
    standing: Standing,
    /// In the store, but the store could not be read when it was to be applied.
    unapplied: Option<Version>,
    reports: watch::Receiver<Reports>,
    /// Told when the newest version was marked as applied.
    applied: watch::Sender<()>,
    running: watch::Receiver<RunProblems>,
    cancel: CancellationToken,
}

/// Loads what is known, puts what runs on the routing table, then starts the workers and the task. Nothing is
/// published before the table holds everything that was routed before.
pub async fn start(setup: Setup) -> Result<Handle, Error> {
    let (reports, watched) = watch::channel(Reports::new());
    let secrets = Arc::<KnownSecrets>::default();
    let journal = Journal::start(setup.store.clone(), Arc::clone(&secrets), setup.cancel.clone());
    let (views, suffix) = (setup.supervisor.view(), setup.naming.suffix.clone());
    let (routing, mut publisher) =
        Routing::new(views, setup.edge.clone(), setup.store.clone(), journal.clone(), &suffix, setup.client_address);
    let rooms = Rooms {
        store: setup.store,
        source: setup.source,
        supervisor: setup.supervisor,
        edge: setup.edge,
        routing,
        builds: Arc::new(Semaphore::new(1)),
        naming: Arc::new(setup.naming),
        hosts: Arc::new(setup.hosts),
        users: Arc::new(setup.users),
        path: setup.path.into(),
        journal,
        reports: Arc::new(reports),
        secrets,
    };
    let (applied, applied_seen) = watch::channel(());
    let sources = Sources {
        reports: watched.clone(),
        views: rooms.supervisor.view(),
        edge: rooms.edge.view(),
        document: setup.facts.document.clone(),
        applied: applied_seen,
        tunnel: setup.facts.tunnel.clone(),
    };
    let logs = Logs::new(&rooms, setup.agent_log, setup.cancel.clone());
    let (run_problems, running) = watch::channel(RunProblems::new());
    let mut task = Task {
        rooms,
        credentials: setup.credentials,
        facts: setup.facts,
        workers: BTreeMap::new(),
        latest: None,
        ticket: 0,
        course: Course::Converging,
        standing: Standing::default(),
        unapplied: None,
        reports: watched,
        applied,
        running,
        cancel: setup.cancel.clone(),
    };
    let (version, documents) = (task.facts.version.clone(), task.facts.document.clone());
    observer::start(&task.rooms, &version, documents, &setup.cancel).await?;
    task.load().await?;
    publisher.take_as_known();
    task.begin().await?;
    upkeep::start(&task.rooms, &setup.cancel);
    let watching = running::watch(task.rooms.clone(), task.reports.clone(), run_problems);
    upkeep::spawn("running", &setup.cancel, watching);
    lifecycle::spawn_essential("routing", setup.cancel.clone(), publisher.run(setup.cancel.clone()));
    let (commands, queue) = mpsc::channel(COMMANDS_MAX);
    let handle = Handle { commands, rooms: task.rooms.clone(), logs: Arc::new(logs) };
    status_file::start(setup.status_file, handle.clone(), sources, setup.cancel.clone());
    lifecycle::spawn_essential("reconcile", setup.cancel, task.run(queue));
    Ok(handle)
}

impl Task {
    async fn load(&mut self) -> Result<(), Error> {
        self.rooms.secrets.learn(self.rooms.store.env_values().await?.iter().map(|(name, value)| (name, value)));
        self.credentials.learn(&self.rooms.secrets);
        let Some(latest) = self.rooms.store.latest_version().await? else { return Ok(()) };
        for service in self.rooms.store.services().await?.iter().filter(|service| !service.is_removed()) {
            let Some(active) = self.rooms.store.active_release(&service.name).await? else { continue };
            let worker = Worker::new(service.name.clone(), self.rooms.clone());
            let entry = Entry {
                version: latest.version,
                route: route_of(&active.entry),
                instances: worker.ids_of(active.number),
                absent: Absent::Starting,
                kind: active.entry.kind,
            };
            self.rooms.routing.set(&service.name, Some(entry));
        }
        // Those that were never built have their names too.
        for service in latest.stack.service.iter().filter(|service| self.rooms.routing.get(&service.name).is_none()) {
            let (version, route, kind) = (latest.version, route_of(service), service.kind);
            let entry = Entry { version, route, instances: BTreeSet::new(), absent: Absent::Starting, kind };
            self.rooms.routing.set(&service.name, Some(entry));
        }
        self.latest = Some(latest);
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), Error> {
        if self.latest.is_some() {
            self.sweep_releases().await?;
        }
        self.order_all().await
    }

    /// Half-written releases and trash of a manager that was killed. A build that runs on keeps its folder until its
    /// worker has ended it.
    async fn sweep_releases(&self) -> Result<(), Error> {
        let views = self.rooms.supervisor.view().borrow().clone();
        let mut building = Vec::new();
        for view in views.values().filter(|view| matches!(view.label, Label::Build { .. })) {
            let Ok(service) = ServiceName::new(view.service.clone()) else { continue };
            let releases = self.rooms.store.releases(&service).await?;
            building.extend(releases.iter().map(|release| self.rooms.source.release_dir(&service, &release.dir_name)));
        }
        match self.rooms.source.sweep(&building).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(removed = removed.len(), "releases that were never finished are removed"),
            Err(error) => tracing::warn!(error = chain(&error), "left-overs of releases stay until the next start"),
        }
        Ok(())
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let cancel = self.cancel.clone();
        let pulse = lifecycle::pulse("reconcile");
        loop {
            pulse.beat();
            tokio::select! {
                () = cancel.cancelled() => return,
                command = commands.recv() => match command {
                    Some(command) => self.handle(command).await,
                    None => return,
                },
                changed = self.reports.changed() => {
                    if changed.is_err() { return }
                    self.judge().await;
                }
                () = tokio::time::sleep(APPLY_RETRY), if self.unapplied.is_some() => {
                    if let Some(version) = self.unapplied.take() {
                        self.try_apply(version).await;
                    }
                }
                () = pulse.due() => {}
            }
        }
    }

    async fn handle(&mut self, command: Command) {
        // A caller that has gone away does not take its command back: every reply may fall on deaf ears.
        match command {
            Command::Apply { version } => self.try_apply(version).await,
            Command::Order { reply, .. } if self.course == Course::GoingDown => {
                drop(reply.send(Err(Error::GoingDown)));
            }
            Command::Prune { reply, .. } if self.course == Course::GoingDown => {
                drop(reply.send(Err(Error::GoingDown)));
            }
            Command::Order { service, act, reply } => drop(reply.send(self.order(&service, act).await)),
            Command::Prune { service, reply } => drop(reply.send(self.prune(&service).await)),
            Command::Status { reply } => drop(reply.send(self.status().await)),
            Command::Plan { of, reply } => drop(reply.send(self.plan(of).await)),
            Command::Down { reply } => drop(reply.send(self.stop_all())),
        }
    }

    async fn try_apply(&mut self, version: Version) {
        if self.course == Course::GoingDown {
            return;
        }
        if let Err(error) = self.apply(version).await {
            tracing::error!(%version, error = chain(&error), "version cannot be applied yet");
            self.unapplied = Some(version);
        }
    }

    async fn apply(&mut self, version: Version) -> Result<(), Error> {
        let Some(stored) = self.rooms.store.version(version).await? else { return Ok(()) };
        if self.latest.as_ref().is_some_and(|latest| (latest.era, latest.version) > (stored.era, version)) {
            return Ok(());
        }
        self.unpin_changed(&stored.stack).await?;
        stored.stack.service.iter().for_each(|entry| self.rooms.secrets.learn(&entry.env));
        self.credentials.learn(&self.rooms.secrets);
        let services = stored.stack.service.len();
        tracing::info!(%version, services, "applying");
        self.rooms.journal.host(What::ConfigPublished { version, services });
        self.latest = Some(stored);
        self.order_all().await
    }

    /// A pin ends when its service's entry changes.
    async fn unpin_changed(&self, stack: &Stack) -> Result<(), Error> {
        for service in self.rooms.store.services().await? {
            let Some(pin) = service.pinned else { continue };
            let entry = stack.service.iter().find(|entry| entry.name == service.name);
            if entry.map(entry_digest) != Some(pin.entry) {
                tracing::info!(service = %service.name, "its entry changed: the pin ends");
                self.rooms.store.unpin(&service.name).await?;
                let cause = "its entry in the document changed".to_owned();
                self.rooms.journal.service(&service.name, Some(pin.release), What::ServiceUnpinned { cause });
            }
        }
        Ok(())
    }

    /// Gives every worker its order by the newest version; starts and keeps workers for services that left it too.
    async fn order_all(&mut self) -> Result<(), Error> {
        let Some(latest) = self.latest.clone() else { return Ok(()) };
        self.rooms.hosts.set(latest.stack.service.iter().map(|entry| entry.name.clone()).collect());
        self.rooms.routing.set_health_path(latest.stack.proxy.health_path.clone());
        for service in self.rooms.store.services().await? {
            if service.is_removed() && latest.stack.service.iter().all(|entry| entry.name != service.name) {
                continue;
            }
            let run = if service.stopped { RunWish::Stop } else { RunWish::Run };
            self.give(&service, run);
        }
        Ok(())
    }

    fn give(&mut self, service: &StoredService, run: RunWish) -> Ticket {
        self.ticket += 1;
        let latest = self.latest.as_ref().expect("orders are given once there is a version");
        let entry = latest.stack.service.iter().find(|entry| entry.name == service.name).cloned();
        let limit = entry.as_ref().map_or(COMMAND_SLACK, |entry| {
            entry.drain.0 + entry.stop.timeout.0 + entry.start_deadline.0 + COMMAND_SLACK
        });
        let wanted = Wanted {
            ticket: self.ticket,
            version: latest.version,
            after: match run {
                RunWish::Run | RunWish::RunFresh => sequence::before_start(&latest.stack.service, entry.as_ref()),
                // One service alone, by its operator's wish: whoever needs it is not asked.
                RunWish::Stop => Arc::new([]),
            },
            entry: entry.map(Arc::new),
            services: Arc::new(latest.stack.service.iter().map(|entry| entry.name.clone()).collect()),
            run,
            pinned: service.pinned.map(|pin| pin.release),
        };
        match self.workers.get(&service.name) {
            Some(orders) => drop(orders.wanted.send_replace(wanted)),
            None => self.start_worker(&service.name, wanted),
        }
        Ticket { number: self.ticket, limit }
    }

    fn start_worker(&mut self, name: &ServiceName, wanted: Wanted) {
        let worker = Worker::new(name.clone(), self.rooms.clone());
        worker.report(&wanted, |report| report.since_unix_ms = unix_ms());
        let (wanted, queue) = watch::channel(wanted);
        let cancel = self.cancel.child_token();
        lifecycle::spawn_essential("service", cancel.clone(), worker.run(queue, cancel.clone()));
        self.workers.insert(name.clone(), Orders { wanted, cancel });
    }

    async fn known(&self, name: &ServiceName) -> Result<StoredService, Error> {
        let services = self.rooms.store.services().await?;
        services.into_iter().find(|service| service.name == *name).ok_or_else(|| Error::NoService(name.clone()))
    }

    async fn order(&mut self, name: &ServiceName, act: Act) -> Result<Ticket, Error> {
        let service = self.known(name).await?;
        if self.latest.is_none() || service.is_removed() {
            return Err(Error::NoService(name.clone()));
        }
        let store = &self.rooms.store;
        let active = service.active;
        let (run, release, what) = match act {
            Act::Stop => {
                store.set_stopped(name, true).await?;
                (RunWish::Stop, active, What::ServiceStopped {})
            }
            Act::Start => {
                store.set_stopped(name, false).await?;
                (RunWish::Run, active, What::ServiceStarted {})
            }
            Act::Restart => {
                store.set_stopped(name, false).await?;
                (RunWish::RunFresh, active, What::ServiceRestarted {})
            }
            Act::Rollback { to } => {
                let to = self.rollback_target(name, to).await?;
                let latest = self.latest.as_ref().expect("there is a version");
                let entry = latest.stack.service.iter().find(|entry| entry.name == *name);
                store.pin(name, to, entry_digest(entry.ok_or_else(|| Error::NoService(name.clone()))?)).await?;
                store.set_stopped(name, false).await?;
                (RunWish::Run, Some(to), What::ServicePinned {})
            }
            Act::Unpin => {
                store.unpin(name).await?;
                let cause = "unpinned by the operator".to_owned();
                let run = if service.stopped { RunWish::Stop } else { RunWish::Run };
                (run, service.pinned.map(|pin| pin.release), What::ServiceUnpinned { cause })
            }
        };
        self.rooms.journal.service(name, release, what);
        let service = self.known(name).await?;
        Ok(self.give(&service, run))
    }

    async fn rollback_target(&self, name: &ServiceName, to: Option<ReleaseNumber>) -> Result<ReleaseNumber, Error> {
        let releases = self.rooms.store.releases(name).await?;
        let built: Vec<ReleaseNumber> = releases.iter().filter(|r| r.is_built()).map(|r| r.number).collect();
        match to {
            Some(number) if built.contains(&number) => Ok(number),
            Some(release) => {
                let kept = built.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(Error::NoRelease { service: name.clone(), release, kept })
            }
            None => {
                let active = self.rooms.store.active_release(name).await?;
                let deploys = self.rooms.store.deploys(name, DEPLOYS_LOOKED_AT).await?;
                rollback::target(active.as_ref(), &releases, &deploys)
                    .ok_or_else(|| Error::NothingEarlier(name.clone()))
            }
        }
    }

    async fn prune(&mut self, name: &ServiceName) -> Result<(), Error> {
        let service = self.known(name).await?;
        if !service.is_removed() {
            return Err(Error::StillWanted(name.clone()));
        }
        if let Some(orders) = self.workers.remove(name) {
            orders.cancel.cancel();
        }
        self.rooms.source.prune(name).await?;
        self.rooms.supervisor.remove_logs(name.as_str())?;
        self.rooms.store.prune_service(name).await?;
        self.rooms.journal.service(name, None, What::ServicePruned {});
        self.rooms.reports.send_modify(|reports| drop(reports.remove(name)));
        Ok(())
    }

    fn stop_all(&mut self) -> Vec<(ServiceName, Ticket)> {
        self.course = Course::GoingDown;
        let mut tickets = Vec::new();
        let stack = self.latest.as_ref().map_or(&[][..], |latest| &latest.stack.service);
        let limit = COMMAND_SLACK + sequence::stop_limit(stack);
        for (name, orders) in &self.workers {
            self.ticket += 1;
            orders.wanted.send_modify(|wanted| {
                wanted.ticket = self.ticket;
                wanted.after = sequence::before_stop(stack, name);
                if wanted.entry.is_some() {
                    wanted.run = RunWish::Stop;
                }
            });
            tickets.push((name.clone(), Ticket { number: self.ticket, limit }));
        }
        tickets
    }

    /// Marks the newest version applied once every service is as it wants it; tells when it is, or when nobody works on
    /// it any more although it is not.
    async fn judge(&mut self) {
        let reports = self.reports.borrow_and_update().clone();
        // What `down` stops was not brought there by the version.
        if self.course == Course::GoingDown {
            return;
        }
        let Some(latest) = self.latest.as_mut().filter(|latest| !latest.applied) else { return };
        let version = latest.version;
        let now = standing(
            version,
            self.workers.iter().map(|(name, orders)| (orders.wanted.borrow().ticket, reports.get(name))),
        );
        if matches!(now, Standing::Applied(_)) {
            match self.rooms.store.mark_applied(version).await {
                Ok(()) => {
                    latest.applied = true;
                    self.applied.send_replace(());
                    tracing::info!(%version, "applied");
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "applied, but not noted in the store");
                    return;
                }
            }
        }
        if let Some(fact) = transitions::verdict(&self.standing, &now) {
            self.rooms.journal.note(fact);
            self.standing = now;
        }
    }

    async fn status(&self) -> Result<Status, Error> {
        let services = self.rooms.store.services().await?;
        let past_restarts = self.rooms.store.past_restarts().await?;
        let applied = self.rooms.store.last_applied().await?.map(|stored| stored.version);
        // Copies: a borrow that is held while another is taken waits for a writer who may wait for it.
        let views = self.rooms.supervisor.view().borrow().clone();
        let edge = self.rooms.edge.view().borrow().clone();
        let (reports, problems) = (self.reports.borrow().clone(), self.running.borrow().clone());
        let seen = status::Seen {
            now_unix_ms: unix_ms(),
            facts: &self.facts,
            latest: self.latest.as_ref(),
            applied,
            services: &services,
            past_restarts: &past_restarts,
            naming: &self.rooms.naming,
            reports: &reports,
            running: &running::current(&problems, &reports, &views),
            views: &views,
            edge: &edge,
            keeper_pid: self.rooms.supervisor.keeper_pid(),
        };
        let mut status = status::status(&seen);
        status.limitations.extend(self.rooms.hosts.notes());
        mask_status(&mut status, &self.rooms.secrets.current());
        Ok(status)
    }

    async fn plan(&self, of: Option<Box<Stack>>) -> Result<Plan, Error> {
        let (mut wanted, version) = match (of, &self.latest) {
            (Some(stack), Some(latest)) => (plan::with_known_commits(*stack, &latest.stack, &latest.refs), None),
            (Some(stack), None) => (*stack, None),
            (None, Some(latest)) => (latest.stack.clone(), Some(latest.version)),
            (None, None) => return Ok(Plan { version: None, steps: Vec::new(), notes: Vec::new() }),
        };
        for entry in &mut wanted.service {
            // A file that cannot be read is the deploy's to report.
            if let Ok(env) = build::user_env(entry) {
                entry.env = env;
            }
        }
        let mut known = Vec::new();
        for service in self.rooms.store.services().await? {
            let active = self.rooms.store.active_release(&service.name).await?;
            known.push(Known {
                active: active.map(|release| (release.number, release.commit.clone(), release.entry)),
                pinned: service.pinned.map(|pin| pin.release),
                stopped: service.stopped,
                removed: service.is_removed(),
                name: service.name,
            });
        }
        Ok(plan::plan(&known, &wanted, version))
    }
}

/// Where a version stands by what its workers report of their newest orders.
fn standing<'a>(version: Version, workers: impl Iterator<Item = (u64, Option<&'a Report>)>) -> Standing {
    let mut failed = None;
    for (ticket, report) in workers {
        match report.filter(|report| report.ticket == ticket).map(|report| (report.doing, &report.problem)) {
            Some((Doing::Settled(Settled::Running | Settled::Stopped | Settled::Removed), _)) => {}
            Some((Doing::Settled(Settled::Failed), problem)) => failed = failed.or(problem.as_ref()),
            _ => return Standing::Applying(version),
        }
    }
    failed.map_or(Standing::Applied(version), |problem| Standing::Degraded(version, Box::new(problem.clone())))
}
