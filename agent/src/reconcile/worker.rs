//! One service's worker: takes the newest order and works until it is true. An order that comes meanwhile drops the
//! work under way; whatever that leaves behind is swept by the next pass, as after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentd_protocol::api::{DeployPhase, Problem, What, Why};
use agentd_protocol::edge::Absent;
use agentd_protocol::ids::{Commit, InstanceId, ReleaseNumber, ServiceName, Version};
use agentd_protocol::shim::state::{LastExit, Phase};
use agentd_protocol::stack::{Restart, Service};
use agentd_sys::causes::chain;
use tokio::sync::{RwLock, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::attempt::{self, Attempt, Underway};
use super::environment::Naming;
use super::hosts::HostsFile;
use super::journal::Journal;
use super::mask::{KnownSecrets, mask};
use super::routing::{Entry, RouteWish, Routing};
use crate::edge::EdgeClient;
use crate::lifecycle;
use crate::source::Source;
use crate::store::{Store, StoredRelease};
use crate::supervisor::{self, InstanceView, Label, Supervisor};

/// Log lines kept with a problem.
pub(super) const TAIL_LINES: usize = 20;
/// First pause after a failure that may pass by itself, and the longest one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);

/// What all workers share.
#[derive(Debug, Clone)]
pub(super) struct Rooms {
    pub(super) store: Store,
    pub(super) source: Source,
    pub(super) supervisor: Supervisor,
    pub(super) edge: EdgeClient,
    pub(super) routing: Routing,
    /// One build at a time.
    pub(super) builds: Arc<Semaphore>,
    pub(super) naming: Arc<Naming>,
    pub(super) hosts: Arc<HostsFile>,
    /// PATH of every build and instance.
    pub(super) path: Arc<str>,
    pub(super) journal: Journal,
    pub(super) reports: Arc<watch::Sender<Reports>>,
    /// What no problem, event or log line may tell.
    pub(super) secrets: Arc<KnownSecrets>,
}

pub(super) type Reports = BTreeMap<ServiceName, Report>;

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Grows with every order; reports name the one they are about.
    pub(super) ticket: u64,
    pub(super) version: Version,
    /// `None`: the service has left the document.
    pub(super) entry: Option<Arc<Service>>,
    /// Every service of the stack, for the URLs.
    pub(super) services: Arc<Vec<ServiceName>>,
    pub(super) run: RunWish,
    /// Services that go first: to be ready before this one starts, or gone before it stops.
    pub(super) after: Arc<[ServiceName]>,
    pub(super) pinned: Option<ReleaseNumber>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunWish {
    Run,
    /// New instances of what runs, even if nothing else changed.
    RunFresh,
    Stop,
}

/// Where a worker stands, for status and for those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) ticket: u64,
    pub(super) doing: Doing,
    pub(super) problem: Option<Problem>,
    pub(super) active: Option<Active>,
    pub(super) since_unix_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Active {
    pub(super) release: ReleaseNumber,
    pub(super) commit: Commit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Pending,
    Fetching,
    Building,
    Starting,
    Draining,
    Stopping,
    /// The order has been carried out, or has failed as `problem` says.
    Settled(Settled),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Running,
    Stopped,
    Removed,
    Failed,
}

/// Whether an order is carried out for the first time, or again after a failure that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    First,
    Retry,
}

/// Why a pass ended early.
#[derive(Debug)]
pub(super) struct Halt {
    /// Boxed: it travels through every step's result.
    pub(super) problem: Box<Problem>,
    pub(super) again: Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// The cause may pass: the network, a port, a disk.
    Later,
    /// Only another document, commit or command changes the outcome.
    WhenChanged,
}

pub(super) struct Worker {
    pub(super) name: ServiceName,
    pub(super) rooms: Rooms,
    /// Held shared by acts that a newer order must not cut in two; a pass begins when none is left.
    uncut: Arc<RwLock<()>>,
    /// Ticket of the last order whose fresh instances are there: carried on, it asks for no others.
    fresh_done: AtomicU64,
    pub(super) underway: Underway,
}

pub(super) fn unix_ms() -> u64 {
    agentd_sys::clock::real_ns() / 1_000_000
}

impl Worker {
    pub(super) fn new(name: ServiceName, rooms: Rooms) -> Self {
        Self { name, rooms, uncut: Arc::default(), fresh_done: AtomicU64::new(0), underway: Underway::default() }
    }

    pub(super) async fn run(self, mut orders: watch::Receiver<Wanted>, cancel: CancellationToken) {
        let mut pause = RETRY_FIRST;
        let mut pass = Pass::First;
        loop {
            let wanted = orders.borrow_and_update().clone();
            let outcome = tokio::select! {
                () = cancel.cancelled() => return,
                changed = orders.changed() => {
                    if changed.is_err() { return }
                    (pause, pass) = (RETRY_FIRST, Pass::First);
                    self.overtaken();
                    continue;
                }
                outcome = self.converge(&wanted) => outcome,
            };
            let again = outcome.as_ref().err().map(|halt| halt.again);
            self.settle(&wanted, outcome, pass);
            pass = Pass::First;
            let retry = match again {
                Some(Again::Later) => Some(pause),
                Some(Again::WhenChanged) | None => None,
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = orders.changed() => {
                    if changed.is_err() { return }
                    pause = RETRY_FIRST;
                }
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {
                    (pause, pass) = ((pause * 2).min(RETRY_LAST), Pass::Retry);
                }
                () = self.instance_lost(&wanted), if again.is_none() => {}
            }
        }
    }

    /// A build that was cut short is told by the sweep that ends it.
    fn overtaken(&self) {
        if let Some((Attempt::Deploy { from, to }, _)) = self.underway.end() {
            self.note(Some(to), What::DeploySuperseded { from });
        }
    }

    fn settle(&self, wanted: &Wanted, outcome: Result<Settled, Halt>, pass: Pass) {
        let attempt = self.underway.end();
        self.report(wanted, |report| match outcome {
            Ok(settled) => {
                report.doing = Doing::Settled(settled);
                report.problem = None;
            }
            Err(mut halt) => {
                tracing::warn!(service = %self.name, phase = ?halt.problem.phase, cause = %halt.problem.cause, "not as wanted");
                let active = report.active.as_ref().map(|active| active.release);
                let told = attempt::failed(attempt, report.problem.as_ref(), &halt.problem, active);
                if let Some((release, what)) = told {
                    self.note(release, what);
                }
                report.doing = Doing::Settled(Settled::Failed);
                // The same order, failed the same way: it has been so since the first time.
                let same = |before: &&Problem| pass == Pass::Retry && is_same(before, &halt.problem);
                if let Some(before) = report.problem.as_ref().filter(same) {
                    halt.problem.since_unix_ms = before.since_unix_ms;
                }
                report.problem = Some(*halt.problem);
            }
        });
    }

    pub(super) fn doing(&self, wanted: &Wanted, doing: Doing) {
        self.report(wanted, |report| report.doing = doing);
    }

    pub(super) fn report(&self, wanted: &Wanted, change: impl FnOnce(&mut Report)) {
        self.rooms.reports.send_modify(|reports| {
            let report = reports.entry(self.name.clone()).or_insert_with(|| Report {
                ticket: 0,
                doing: Doing::Pending,
                problem: None,
                active: None,
                since_unix_ms: unix_ms(),
            });
            let before = report.doing;
            if report.ticket != wanted.ticket {
                // Whoever waits for this order must not take the last one's end for its own.
                report.ticket = wanted.ticket;
                report.doing = Doing::Pending;
            }
            change(report);
            if report.doing != before {
                report.since_unix_ms = unix_ms();
            }
        });
    }

    /// Runs `work` to its end even when the pass that asked for it is dropped: an instance half launched or half
    /// removed would be nobody's.
    pub(super) async fn uncut<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, supervisor::Error>> + Send + 'static,
    ) -> Result<T, supervisor::Error> {
        let held = Arc::clone(&self.uncut).read_owned().await;
        let done = lifecycle::spawn("act", async move {
            let outcome = work.await;
            drop(held);
            outcome
        });
        done.await.unwrap_or(Err(supervisor::Error::Ending))
    }

    /// One pass from whatever is to what is wanted.
    async fn converge(&self, wanted: &Wanted) -> Result<Settled, Halt> {
        drop(self.uncut.write().await);
        let active = self.active(wanted).await?;
        self.sweep(wanted, active.as_ref()).await?;
        let store = &self.rooms.store;
        let Some(entry) = &wanted.entry else {
            self.withdraw(wanted, Absent::Stopped).await?;
            self.rooms.routing.set(&self.name, None);
            self.commit(wanted).await?;
            self.fallible(wanted, DeployPhase::Document, store.mark_removed(&self.name)).await?;
            self.note(active.map(|active| active.number), What::ServiceRemoved {});
            return Ok(Settled::Removed);
        };
        // A removal that this order overtook may have been noted after the version that brings the service back.
        self.fallible(wanted, DeployPhase::Document, store.ensure_service(&self.name)).await?;
        if wanted.run == RunWish::Stop {
            self.wait_turn(wanted).await;
            self.announce(wanted, entry, active.as_ref(), Absent::Stopped).await;
            self.withdraw(wanted, Absent::Stopped).await?;
            return Ok(Settled::Stopped);
        }
        self.announce(wanted, entry, active.as_ref(), Absent::Starting).await;
        if let Some(active) = active.as_ref().filter(|active| self.standing(&active.entry).is_empty()) {
            self.wait_turn(wanted).await;
            self.serve_last(wanted, active).await;
            self.fresh_done(wanted);
        }
        let target = match wanted.pinned {
            Some(number) => self.kept_release(wanted, number).await?,
            None => self.release_for(wanted, entry, active.as_ref()).await?,
        };
        if self.instances().is_empty() {
            self.wait_turn(wanted).await;
        }
        let same = active.as_ref().is_some_and(|active| active.number == target.number);
        let fresh = wanted.run == RunWish::RunFresh && self.fresh_done.load(Ordering::Relaxed) != wanted.ticket;
        if same && !fresh {
            self.keep_running(wanted, &target).await?;
        } else {
            self.replace(wanted, active.as_ref(), &target).await?;
        }
        self.forget_old(wanted, &target).await?;
        Ok(Settled::Running)
    }

    /// After a power cut or a `start`: what served last serves again before anything new is tried, network or not.
    async fn serve_last(&self, wanted: &Wanted, active: &StoredRelease) {
        if let Err(halt) = self.keep_running(wanted, active).await {
            tracing::warn!(service = %self.name, cause = %halt.problem.cause, "the last release does not come up again");
        }
    }

    /// The release that is served, as the store has it.
    async fn active(&self, wanted: &Wanted) -> Result<Option<StoredRelease>, Halt> {
        let active = self.fallible(wanted, DeployPhase::Document, self.rooms.store.active_release(&self.name)).await?;
        self.report(wanted, |report| {
            report.active =
                active.as_ref().map(|release| Active { release: release.number, commit: release.commit.clone() });
        });
        Ok(active)
    }

    async fn kept_release(&self, wanted: &Wanted, number: ReleaseNumber) -> Result<StoredRelease, Halt> {
        let releases = self.fallible(wanted, DeployPhase::Document, self.rooms.store.releases(&self.name)).await?;
        releases.into_iter().find(|release| release.number == number && release.is_built()).ok_or_else(|| {
            self.halt(DeployPhase::Start, format!("pinned release {number} is gone; `agentctl unpin {}`", self.name))
        })
    }

    /// Puts the service on the routing table, at first without instances: it has its name from now on, and until there
    /// are any, a request is told why.
    async fn announce(&self, wanted: &Wanted, entry: &Service, active: Option<&StoredRelease>, absent: Absent) {
        if self.rooms.routing.get(&self.name).is_some() {
            self.rooms.routing.update(&self.name, |known| known.absent = absent);
            return;
        }
        let routed = active.map_or(entry, |release| &release.entry);
        let instances = active.map(|release| self.ids_of(release.number)).unwrap_or_default();
        let (route, kind) = (route_of(routed), routed.kind);
        self.rooms.routing.set(&self.name, Some(Entry { version: wanted.version, route, instances, absent, kind }));
        if let Err(halt) = self.commit(wanted).await {
            // Sent again until the edge has it; building goes on meanwhile.
            tracing::warn!(service = %self.name, cause = %halt.problem.cause, "the name of a new service is not known yet");
        }
    }

    /// This service's instances, builds not among them.
    pub(super) fn instances(&self) -> Vec<InstanceView> {
        let views = self.rooms.supervisor.view().borrow().clone();
        views.values().filter(|view| self.owns(view) && matches!(view.label, Label::Instance { .. })).cloned().collect()
    }

    fn owns(&self, view: &InstanceView) -> bool {
        view.service == self.name.as_str() && !matches!(view.label, Label::Edge | Label::Tunnel { .. })
    }

    pub(super) fn ids_of(&self, release: ReleaseNumber) -> BTreeSet<InstanceId> {
        self.instances().into_iter().filter(|view| release_of(view) == Some(release)).map(|view| view.id).collect()
    }

    pub(super) fn fresh_done(&self, wanted: &Wanted) {
        self.fresh_done.store(wanted.ticket, Ordering::Relaxed);
    }

    /// The instances that run, or will again by themselves.
    pub(super) fn standing(&self, entry: &Service) -> Vec<InstanceView> {
        let mut standing = self.instances();
        standing.retain(|view| stands(&view.phase, view.last_exit, entry.restart));
        standing
    }

    /// Removes what an earlier pass left: builds, and instances of releases that are not active. The edge may still
    /// route to those: a pass can end between the commit point on disk and the one at the edge.
    async fn sweep(&self, wanted: &Wanted, active: Option<&StoredRelease>) -> Result<(), Halt> {
        let views = self.rooms.supervisor.view().borrow().clone();
        let mut left = Vec::new();
        for view in views.values().filter(|view| self.owns(view)) {
            match &view.label {
                Label::Build { .. } => {
                    self.end(wanted, view).await?;
                    self.note(build_of(view), What::BuildCancelled {});
                }
                Label::Instance { release } if Some(*release) != active.map(|active| active.number) => {
                    left.push(view.clone());
                }
                Label::Instance { .. } | Label::Edge | Label::Tunnel { .. } => {}
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        self.rooms.routing.update(&self.name, |entry| match active {
            Some(active) => {
                entry.instances = self.ids_of(active.number);
                entry.route = route_of(&active.entry);
            }
            None => entry.instances.clear(),
        });
        self.commit(wanted).await?;
        self.retire(wanted, left).await
    }

    /// Ends when fewer instances stand than wanted: somebody stopped or removed one behind our back.
    async fn instance_lost(&self, wanted: &Wanted) {
        let expected = match (&wanted.entry, wanted.run) {
            (Some(entry), RunWish::Run | RunWish::RunFresh) => usize::try_from(entry.replicas).unwrap_or(usize::MAX),
            (None, _) | (Some(_), RunWish::Stop) => 0,
        };
        let mut views = self.rooms.supervisor.view();
        loop {
            views.borrow_and_update();
            let standing = wanted.entry.as_ref().map_or(0, |entry| self.standing(entry).len());
            if standing < expected {
                return;
            }
            if views.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    pub(super) async fn commit(&self, _wanted: &Wanted) -> Result<(), Halt> {
        self.rooms.routing.commit().await.map_err(|error| Halt {
            problem: Box::new(self.problem(DeployPhase::Route, chain(&error))),
            again: Again::Later,
        })
    }

    pub(super) async fn fallible<T, E: std::error::Error>(
        &self,
        _wanted: &Wanted,
        phase: DeployPhase,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Halt> {
        work.await.map_err(|error| Halt { problem: Box::new(self.problem(phase, chain(&error))), again: Again::Later })
    }

    pub(super) fn note(&self, release: Option<ReleaseNumber>, what: What) {
        self.rooms.journal.service(&self.name, release, what);
    }

    pub(super) fn halt(&self, phase: DeployPhase, cause: String) -> Halt {
        Halt { problem: Box::new(self.problem(phase, cause)), again: Again::WhenChanged }
    }

    pub(super) fn problem(&self, phase: DeployPhase, cause: String) -> Problem {
        problem_of(&self.name, &self.rooms, phase, cause)
    }

    pub(super) fn release_dir(&self, release: &StoredRelease) -> PathBuf {
        self.rooms.source.release_dir(&self.name, &release.dir_name)
    }
}

/// A problem that tells no secret, to be filled in.
pub(super) fn problem_of(service: &ServiceName, rooms: &Rooms, phase: DeployPhase, cause: String) -> Problem {
    Problem {
        service: Some(service.clone()),
        phase,
        cause: mask(&cause, &rooms.secrets.current()).into_owned(),
        commit: None,
        release: None,
        probes: Vec::new(),
        log_tail: Vec::new(),
        why: Why { next: next_step(phase), ..Why::default() },
        since_unix_ms: unix_ms(),
    }
}

/// Where to look when it is not the program that failed.
fn next_step(phase: DeployPhase) -> Vec<String> {
    match phase {
        DeployPhase::Document => vec!["agentctl plan".to_owned()],
        DeployPhase::Fetch | DeployPhase::Route | DeployPhase::Drain => {
            vec!["agentctl logs agentd --since 10m".to_owned()]
        }
        DeployPhase::Build | DeployPhase::Start | DeployPhase::Health | DeployPhase::Run => Vec::new(),
    }
}

pub(super) fn release_of(view: &InstanceView) -> Option<ReleaseNumber> {
    match view.label {
        Label::Instance { release } => Some(release),
        Label::Build { .. } | Label::Edge | Label::Tunnel { .. } => None,
    }
}

/// The key of a build is the number of its release.
fn build_of(view: &InstanceView) -> Option<ReleaseNumber> {
    match &view.label {
        Label::Build { key } => key.parse().ok().map(ReleaseNumber),
        Label::Instance { .. } | Label::Edge | Label::Tunnel { .. } => None,
    }
}

/// Whether an instance runs or starts again by itself. One that has ended and is down stands only where its policy says
/// that ending is what it does. One that is stopping still stands: a restart looks the same until it ends. One that
/// never ended is about to start, or its shim has not been heard yet.
pub(super) fn stands(phase: &Phase, last: Option<LastExit>, restart: Restart) -> bool {
    match phase {
        Phase::Starting { .. }
        | Phase::Up { .. }
        | Phase::Stopping { .. }
        | Phase::Clearing { .. }
        | Phase::Backoff { .. }
        | Phase::Quarantined { .. } => true,
        Phase::Down => last.is_none() || restart != Restart::Always,
    }
}

/// Tried again and failed the same way.
pub(super) fn is_same(one: &Problem, other: &Problem) -> bool {
    (one.phase, &one.cause, &one.commit) == (other.phase, &other.cause, &other.commit)
}

/// The external route an entry asks for.
pub(super) fn route_of(entry: &Service) -> Option<RouteWish> {
    let path = entry.path.clone().filter(|_| entry.public)?;
    Some(RouteWish { host: entry.host.clone(), path, strip_prefix: entry.strip_prefix })
}

#[cfg(test)]
mod tests {
    use agentd_protocol::shim::state::{AfterStop, Exit};

    use super::*;

    #[test]
    fn an_instance_that_was_stopped_does_not_count_unless_ending_is_its_nature() {
        let ended = Some(LastExit { exit: Exit::Code(0), at_real_ns: 1, incarnation: 1, uptime_ms: 1 });
        assert!(!stands(&Phase::Down, ended, Restart::Always));
        assert!(stands(&Phase::Down, None, Restart::Always), "its shim has not been heard yet");
        assert!(stands(&Phase::Down, ended, Restart::Never));
        assert!(stands(&Phase::Down, ended, Restart::OnFailure));
        let clearing = Phase::Clearing { kill_at_boot_ms: 1, then: AfterStop::StayDown };
        assert!(stands(&clearing, ended, Restart::Always), "a restart is seen as this too");
        assert!(stands(&Phase::Quarantined { retry_at_boot_ms: 1 }, ended, Restart::Always));
    }
}
