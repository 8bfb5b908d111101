//! The task that gives the workers their orders, and the handle through which versions and commands come in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::api::{LogQuery, Plan, Status};
use agentd_protocol::ids::{ReleaseNumber, ServiceName, Version};
use agentd_protocol::stack::Stack;
use agentd_sys::causes::chain;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::build;
use super::environment::Naming;
use super::logs::{Logs, Reading};
use super::mask::{CredentialFiles, mask_status};
use super::plan::{self, Known};
use super::rollback;
use super::routing::{Entry, Routing};
use super::running::{self, RunProblems};
use super::status;
use super::upkeep;
use super::worker::{Doing, Reports, Rooms, RunWish, Settled, Wanted, Worker, route_of, unix_ms};
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
    /// PATH of every build and instance.
    pub path: String,
    /// Never shown, whoever prints them.
    pub credentials: CredentialFiles,
    /// The manager's own log, for those who ask for it.
    pub agent_log: PathBuf,
    pub facts: status::Facts,
    pub cancel: CancellationToken,
}

/// Orders and questions from sync, api and the app.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    reports: Arc<watch::Sender<Reports>>,
    logs: Arc<Logs>,
}

#[derive(Debug)]
enum Command {
    Apply { version: Version },
    Order { service: ServiceName, act: Act, reply: oneshot::Sender<Result<Ticket, Error>> },
    Prune { service: ServiceName, reply: oneshot::Sender<Result<(), Error>> },
    Status { reply: oneshot::Sender<Result<Status, Error>> },
    Plan { of: Option<Box<Stack>>, reply: oneshot::Sender<Result<Plan, Error>> },
    Down { reply: oneshot::Sender<Vec<(ServiceName, Ticket)>> },
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Stop,
    Start,
    Restart,
    Rollback { to: Option<ReleaseNumber> },
    Unpin,
}

/// An order that was given, and how long carrying it out may take.
#[derive(Debug, Clone, Copy)]
struct Ticket {
    number: u64,
    limit: Duration,
}

impl Handle {
    /// A new version is in the store.
    pub async fn apply(&self, version: Version) -> Result<(), Error> {
        self.commands.send(Command::Apply { version }).await.map_err(|_| Error::Ended)
    }

    pub async fn stop(&self, service: &ServiceName) -> Result<(), Error> {
        self.order(service, Act::Stop).await
    }

    pub async fn start(&self, service: &ServiceName) -> Result<(), Error> {
        self.order(service, Act::Start).await
    }

    /// New instances of the release that runs; beside the old ones where the port allows it.
    pub async fn restart(&self, service: &ServiceName) -> Result<(), Error> {
        self.order(service, Act::Restart).await
    }

    /// To `to`, or to the newest built release before the active one; pins it.
    pub async fn rollback(&self, service: &ServiceName, to: Option<ReleaseNumber>) -> Result<(), Error> {
        self.order(service, Act::Rollback { to }).await
    }

    pub async fn unpin(&self, service: &ServiceName) -> Result<(), Error> {
        self.order(service, Act::Unpin).await
    }

    /// Removes releases, data and logs of a service that has left the document.
    pub async fn prune(&self, service: &ServiceName) -> Result<(), Error> {
        self.ask(|reply| Command::Prune { service: service.clone(), reply }).await?
    }

    pub async fn status(&self) -> Result<Status, Error> {
        self.ask(|reply| Command::Status { reply }).await?
    }

    pub async fn plan(&self) -> Result<Plan, Error> {
        self.ask(|reply| Command::Plan { of: None, reply }).await?
    }

    /// What a document that is not in force would do. Refs it follows are not asked for: one that is followed already
    /// counts as unchanged.
    pub async fn plan_of(&self, stack: Stack) -> Result<Plan, Error> {
        self.ask(|reply| Command::Plan { of: Some(Box::new(stack)), reply }).await?
    }

    /// What a service wrote; `name` is one, or `edge`, or `agentd`.
    pub async fn logs(&self, name: &str, query: LogQuery) -> Result<Reading, Error> {
        self.logs.read(name, query).await
    }

    /// Stops every service without forgetting what was wanted: the next start brings all of it back.
    pub async fn down(&self) -> Result<(), Error> {
        for (service, ticket) in self.ask(|reply| Command::Down { reply }).await? {
            if let Err(error) = self.carried_out(&service, ticket).await {
                tracing::warn!(%service, %error, "did not stop as it should");
            }
        }
        Ok(())
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Error::Ended)?;
        answer.await.map_err(|_| Error::Ended)
    }

    async fn order(&self, service: &ServiceName, act: Act) -> Result<(), Error> {
        let ticket = self.ask(|reply| Command::Order { service: service.clone(), act, reply }).await??;
        self.carried_out(service, ticket).await
    }

    async fn carried_out(&self, service: &ServiceName, ticket: Ticket) -> Result<(), Error> {
        let mut reports = self.reports.subscribe();
        let settled = reports.wait_for(|reports| {
            reports
                .get(service)
                .is_some_and(|report| report.ticket >= ticket.number && matches!(report.doing, Doing::Settled(_)))
        });
        let reports = match tokio::time::timeout(ticket.limit, settled).await {
            Err(_) => return Err(Error::TooSlow { service: service.clone(), limit_s: ticket.limit.as_secs() }),
            Ok(Err(_)) => return Err(Error::Ended),
            Ok(Ok(reports)) => reports.clone(),
        };
        match reports.get(service).and_then(|report| report.problem.as_ref()) {
            Some(problem) => Err(Error::NotDone { service: service.clone(), cause: problem.cause.clone() }),
            None => Ok(()),
        }
    }
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
    /// `agentctl down` was asked: nothing is started any more.
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
    /// In the store, but the store could not be read when it was to be applied.
    unapplied: Option<Version>,
    reports: watch::Receiver<Reports>,
    running: watch::Receiver<RunProblems>,
    cancel: CancellationToken,
}

/// Loads what is known, puts what runs on the routing table, then starts the workers and the task. Nothing is
/// published before the table holds everything that was routed before.
pub async fn start(setup: Setup) -> Result<Handle, Error> {
    let (reports, watched) = watch::channel(Reports::new());
    let reports = Arc::new(reports);
    let (routing, publisher) = Routing::new(setup.supervisor.view(), setup.edge.clone(), setup.store.clone());
    let rooms = Rooms {
        store: setup.store,
        source: setup.source,
        supervisor: setup.supervisor,
        edge: setup.edge,
        routing,
        builds: Arc::new(Semaphore::new(1)),
        naming: Arc::new(setup.naming),
        path: setup.path.into(),
        reports: Arc::clone(&reports),
        secrets: Arc::default(),
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
        unapplied: None,
        reports: watched,
        running,
        cancel: setup.cancel.clone(),
    };
    task.load().await?;
    upkeep::start(&task.rooms, &setup.cancel);
    let watching = running::watch(task.rooms.clone(), task.reports.clone(), run_problems);
    upkeep::spawn("running", &setup.cancel, watching);
    lifecycle::spawn_essential("routing", setup.cancel.clone(), publisher.run(setup.cancel.clone()));
    let (commands, queue) = mpsc::channel(COMMANDS_MAX);
    lifecycle::spawn_essential("reconcile", setup.cancel, task.run(queue));
    Ok(Handle { commands, reports, logs: Arc::new(logs) })
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
                absent: agentd_protocol::edge::Absent::Starting,
            };
            self.rooms.routing.set(&service.name, Some(entry));
        }
        self.latest = Some(latest);
        self.sweep_releases().await?;
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
        loop {
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
        if self.latest.as_ref().is_some_and(|latest| latest.version > version) {
            return Ok(());
        }
        self.unpin_changed(&stored.stack).await?;
        stored.stack.service.iter().for_each(|entry| self.rooms.secrets.learn(&entry.env));
        self.credentials.learn(&self.rooms.secrets);
        tracing::info!(%version, services = stored.stack.service.len(), "applying");
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
            }
        }
        Ok(())
    }

    /// Gives every worker its order by the newest version; starts and keeps workers for services that left it too.
    async fn order_all(&mut self) -> Result<(), Error> {
        let Some(latest) = self.latest.clone() else { return Ok(()) };
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
        let run = match act {
            Act::Stop => {
                store.set_stopped(name, true).await?;
                RunWish::Stop
            }
            Act::Start => {
                store.set_stopped(name, false).await?;
                RunWish::Run
            }
            Act::Restart => {
                store.set_stopped(name, false).await?;
                RunWish::RunFresh
            }
            Act::Rollback { to } => {
                let to = self.rollback_target(name, to).await?;
                let latest = self.latest.as_ref().expect("there is a version");
                let entry = latest.stack.service.iter().find(|entry| entry.name == *name);
                store.pin(name, to, entry_digest(entry.ok_or_else(|| Error::NoService(name.clone()))?)).await?;
                store.set_stopped(name, false).await?;
                RunWish::Run
            }
            Act::Unpin => {
                store.unpin(name).await?;
                if service.stopped { RunWish::Stop } else { RunWish::Run }
            }
        };
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
        self.rooms.reports.send_modify(|reports| drop(reports.remove(name)));
        Ok(())
    }

    fn stop_all(&mut self) -> Vec<(ServiceName, Ticket)> {
        self.course = Course::GoingDown;
        let mut tickets = Vec::new();
        for (name, orders) in &self.workers {
            self.ticket += 1;
            let mut limit = COMMAND_SLACK;
            orders.wanted.send_modify(|wanted| {
                wanted.ticket = self.ticket;
                if let Some(entry) = &wanted.entry {
                    wanted.run = RunWish::Stop;
                    limit += entry.drain.0 + entry.stop.timeout.0;
                }
            });
            tickets.push((name.clone(), Ticket { number: self.ticket, limit }));
        }
        tickets
    }

    /// Marks the newest version applied once every service is as it wants it.
    async fn judge(&mut self) {
        let reports = self.reports.borrow_and_update().clone();
        // What `down` stops was not brought there by the version.
        if self.course == Course::GoingDown {
            return;
        }
        let Some(latest) = self.latest.as_mut().filter(|latest| !latest.applied) else { return };
        let all = self.workers.iter().all(|(name, orders)| {
            let ticket = orders.wanted.borrow().ticket;
            reports.get(name).is_some_and(|report| {
                report.ticket == ticket
                    && matches!(report.doing, Doing::Settled(Settled::Running | Settled::Stopped | Settled::Removed))
            })
        });
        if !all {
            return;
        }
        match self.rooms.store.mark_applied(latest.version).await {
            Ok(()) => {
                latest.applied = true;
                tracing::info!(version = %latest.version, "applied");
            }
            Err(error) => tracing::error!(error = chain(&error), "applied, but not noted in the store"),
        }
    }

    async fn status(&self) -> Result<Status, Error> {
        let services = self.rooms.store.services().await?;
        let applied = self.rooms.store.last_applied().await?.map(|stored| stored.version);
        let (views, edge) = (self.rooms.supervisor.view(), self.rooms.edge.view());
        // Each is borrowed once: a second borrow would wait for a writer that waits for the first.
        let (views, edge, reports) = (views.borrow(), edge.borrow(), self.reports.borrow());
        let seen = status::Seen {
            facts: &self.facts,
            latest: self.latest.as_ref(),
            applied,
            services: &services,
            reports: &reports,
            running: &running::current(&self.running.borrow(), &reports, &views),
            views: &views,
            edge: &edge,
            keeper_pid: self.rooms.supervisor.keeper_pid(),
        };
        let mut status = status::status(&seen);
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
