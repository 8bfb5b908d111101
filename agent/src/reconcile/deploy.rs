//! Bringing a release up beside the old one, the commit point, and taking the old one down. The order is an invariant:
//! ready, routed, old unrouted, old drained, old stopped.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use agentd_protocol::api::{DeployPhase, What};
use agentd_protocol::edge::{Absent, Backend};
use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::Phase;
use agentd_protocol::stack::{Kind, Restart, Service};
use agentd_sys::causes::chain;

use super::attempt::Attempt;
use super::command;
use super::environment::{Sources, environment};
use super::gate::{self, Verdict};
use super::routing::{Entry, backend};
use super::why::{self, Failure};
use super::worker::{Again, Doing, Halt, Wanted, Worker, release_of, route_of, stands};
use crate::edge::Idleness;
use crate::store::{DeployEnd, NewDeploy, ReleaseState, StoredRelease};
use crate::supervisor::{Gate, InstanceView, Label, Launch, PortWish, ProbePolicy, RunAs, own_program};

/// Releases of a service that stay on disk (DESIGN §7).
const RELEASES_KEPT: usize = 5;

impl Worker {
    /// From what runs now to instances of `target`; the store keeps how it ended.
    pub(super) async fn replace(
        &self,
        wanted: &Wanted,
        active: Option<&StoredRelease>,
        target: &StoredRelease,
    ) -> Result<(), Halt> {
        let store = &self.rooms.store;
        let from = active.map(|active| active.number);
        let deploy = NewDeploy { service: self.name.clone(), from, to: target.number, phase: DeployPhase::Start };
        let id = self.fallible(wanted, DeployPhase::Start, store.start_deploy(deploy)).await?;
        self.underway.begin(Attempt::Deploy { from, to: target.number });
        self.note(Some(target.number), What::DeployStarted { from });
        let outcome = self.replace_by_port(wanted, active, target).await;
        let end = match &outcome {
            Ok(()) => DeployEnd::Done,
            Err(halt) => DeployEnd::Failed(halt.problem.clone()),
        };
        self.fallible(wanted, DeployPhase::Drain, store.end_deploy(id, end)).await?;
        // A failure is told where the pass ends.
        outcome?;
        if let Some((_, duration_ms)) = self.underway.end() {
            let what = match from {
                Some(newer) if newer > target.number => What::DeployRolledBack { from, duration_ms },
                Some(_) | None => What::DeployDone { from, duration_ms },
            };
            self.note(Some(target.number), what);
        }
        Ok(())
    }

    async fn replace_by_port(
        &self,
        wanted: &Wanted,
        active: Option<&StoredRelease>,
        target: &StoredRelease,
    ) -> Result<(), Halt> {
        let old = self.instances();
        if target.entry.port.is_some() {
            return self.replace_in_place(wanted, active, target, old).await;
        }
        let new = self.bring_up(wanted, target).await?;
        self.swap(wanted, target, new).await?;
        self.fresh_done(wanted);
        self.doing(wanted, Doing::Draining);
        self.retire(wanted, old).await
    }

    /// Two copies cannot share a fixed port: the old one goes first, the edge holds requests meanwhile. A new
    /// one that does not get ready brings the old one back.
    async fn replace_in_place(
        &self,
        wanted: &Wanted,
        active: Option<&StoredRelease>,
        target: &StoredRelease,
        old: Vec<InstanceView>,
    ) -> Result<(), Halt> {
        if !old.is_empty() {
            self.withdraw(wanted, Absent::Replacing).await?;
        }
        if let Some(active) = active.filter(|active| active.number == target.number) {
            self.fresh_done(wanted);
            return self.keep_running(wanted, active).await;
        }
        let failed = match self.bring_up(wanted, target).await {
            Ok(new) => return self.swap(wanted, target, new).await,
            Err(failed) => failed,
        };
        if let Some(active) = active
            && let Err(halt) = self.keep_running(wanted, active).await
        {
            tracing::warn!(service = %self.name, cause = %halt.problem.cause, "the old release is not ready again yet");
        }
        Err(failed)
    }

    /// The active release in its wanted number, routed by its newest entry. It has served before: an instance that does
    /// not get ready is left to its shim and routed as soon as it is.
    pub(super) async fn keep_running(&self, wanted: &Wanted, target: &StoredRelease) -> Result<(), Halt> {
        let replicas = usize::try_from(target.entry.replicas).unwrap_or(usize::MAX);
        let (mut standing, mut surplus): (Vec<_>, Vec<_>) =
            self.instances().into_iter().partition(|view| stands(&view.phase, view.last_exit, target.entry.restart));
        standing.sort_by_key(InstanceView::standing);
        surplus.extend(standing.split_off(replicas.min(standing.len())));
        let mut ids: Vec<InstanceId> = standing.into_iter().map(|view| view.id).collect();
        if !surplus.is_empty() {
            self.show(wanted, target, &ids).await?;
            // First, since a fixed port may be theirs.
            self.retire(wanted, surplus).await?;
        }
        while ids.len() < replicas {
            self.doing(wanted, Doing::Starting);
            ids.push(self.launch(wanted, target).await?);
        }
        self.show(wanted, target, &ids).await?;
        let views = self.rooms.supervisor.view().borrow().clone();
        let never_ready = |id: &&InstanceId| views.get(id).is_none_or(|view| !view.readiness.has_been_ready());
        let unproven: Vec<InstanceId> = ids.iter().filter(never_ready).cloned().collect();
        let passed = self.pass_gate(target, &unproven).await;
        passed.map_err(|halt| Halt { again: Again::Later, ..halt })
    }

    /// Starts every replica and waits until all are ready; none stays when one fails.
    async fn bring_up(&self, wanted: &Wanted, target: &StoredRelease) -> Result<Vec<InstanceId>, Halt> {
        self.doing(wanted, Doing::Starting);
        let mut ids = Vec::new();
        for _ in 0..target.entry.replicas {
            match self.launch(wanted, target).await {
                Ok(id) => ids.push(id),
                Err(halt) => {
                    self.end_all(wanted, &ids).await?;
                    return Err(halt);
                }
            }
        }
        if let Err(halt) = self.pass_gate(target, &ids).await {
            self.end_all(wanted, &ids).await?;
            return Err(halt);
        }
        Ok(ids)
    }

    async fn pass_gate(&self, target: &StoredRelease, ids: &[InstanceId]) -> Result<(), Halt> {
        let deadline = target.entry.start_deadline.0;
        match gate::wait(ids, self.rooms.supervisor.view(), deadline).await {
            Verdict::Passed => Ok(()),
            Verdict::Waiting => unreachable!("wait ends with a verdict"),
            Verdict::Failed(failed) => {
                let mut halt = self.halt(failed.phase, failed.cause);
                halt.problem.commit = Some(target.commit.clone());
                halt.problem.release = Some(target.number);
                let view = self.rooms.supervisor.view().borrow().get(&failed.instance).cloned();
                let (mut exit, mut warnings) = (None, Vec::new());
                if let Some(view) = view {
                    halt.problem.probes = view.probes.iter().cloned().collect();
                    exit = view.last_exit.map(|last| last.exit).filter(|_| failed.phase == DeployPhase::Start);
                    warnings = view.warnings;
                }
                let failure = Failure { service: &self.name, instance: &failed.instance, exit, warnings: &warnings };
                why::look_into(&mut halt.problem, &self.rooms, &failure);
                why::compare(&mut halt.problem, &self.rooms, target).await;
                Err(halt)
            }
        }
    }

    /// The commit point: first on disk, then at the edge. After it the new release is the truth.
    async fn swap(&self, wanted: &Wanted, target: &StoredRelease, ids: Vec<InstanceId>) -> Result<(), Halt> {
        let store = &self.rooms.store;
        self.fallible(wanted, DeployPhase::Route, store.set_active(&self.name, target.number)).await?;
        let link = self.rooms.source.activate(&self.name, &target.dir_name);
        self.fallible(wanted, DeployPhase::Route, link).await?;
        self.report(wanted, |report| {
            report.active = Some(super::worker::Active { release: target.number, commit: target.commit.clone() });
        });
        self.show(wanted, target, &ids).await
    }

    /// Puts instances of `target` on the routing table; those that are ready get requests.
    async fn show(&self, wanted: &Wanted, target: &StoredRelease, ids: &[InstanceId]) -> Result<(), Halt> {
        let instances: BTreeSet<InstanceId> = ids.iter().cloned().collect();
        let (route, kind) = (route_of(&target.entry), target.entry.kind);
        let entry = Entry { version: wanted.version, route, instances, absent: Absent::Starting, kind };
        self.rooms.routing.set(&self.name, Some(entry));
        self.commit(wanted).await
    }

    /// Unroutes, drains and stops everything of this service.
    pub(super) async fn withdraw(&self, wanted: &Wanted, absent: Absent) -> Result<(), Halt> {
        self.doing(wanted, Doing::Stopping);
        self.rooms.routing.update(&self.name, |entry| {
            entry.instances.clear();
            entry.absent = absent;
        });
        self.commit(wanted).await?;
        self.retire(wanted, self.instances()).await
    }

    /// An edge of before an upgrade drains by itself and tells nobody what it still has under way.
    async fn one_edge_left(&self, deadline: tokio::time::Instant) {
        let mut views = self.rooms.supervisor.view();
        let one = views.wait_for(|views| views.values().filter(|view| matches!(view.label, Label::Edge)).count() <= 1);
        if tokio::time::timeout_at(deadline, one).await.is_err() {
            tracing::info!(service = %self.name, "drain deadline passed while an older edge had requests");
        }
    }

    /// Drains and ends instances that are no longer on the routing table.
    pub(super) async fn retire(&self, wanted: &Wanted, old: Vec<InstanceView>) -> Result<(), Halt> {
        if old.is_empty() {
            return Ok(());
        }
        let drain = match &wanted.entry {
            Some(entry) => entry.drain.0,
            None => Duration::from_secs(30),
        };
        let deadline = tokio::time::Instant::now() + drain;
        let known = |backend: &Backend| self.rooms.routing.may_know(backend);
        for backend in old.iter().filter_map(backend).filter(known) {
            // Past the deadline the requests that are left are cut by the stop: said in the log, not a failure.
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let key = (backend.instance.clone(), backend.incarnation);
            if self.rooms.edge.wait_idle(&key, left).await == Idleness::Deadline {
                tracing::info!(service = %self.name, instance = %backend.instance, "drain deadline passed with requests in flight");
            }
        }
        self.one_edge_left(deadline).await;
        let ends = old.iter().map(|view| self.end(wanted, view));
        futures_util::future::join_all(ends).await.into_iter().collect()
    }

    /// Stops an instance and removes what it leaves but its log.
    pub(super) async fn end(&self, wanted: &Wanted, view: &InstanceView) -> Result<(), Halt> {
        let supervisor = &self.rooms.supervisor;
        if view.phase != Phase::Down {
            self.fallible(wanted, DeployPhase::Drain, supervisor.stop(&view.id, None)).await?;
        }
        self.note_restarts(&view.id).await;
        let (supervisor, id) = (supervisor.clone(), view.id.clone());
        let removed = self.uncut(async move { supervisor.remove(&id).await });
        self.fallible(wanted, DeployPhase::Drain, removed).await
    }

    /// What the instance's folder has counted goes with it. A count that is lost stops nothing.
    async fn note_restarts(&self, id: &InstanceId) {
        let counted = |view: &InstanceView| Some((release_of(view)?, view.restarts));
        let counted = self.rooms.supervisor.view().borrow().get(id).and_then(counted);
        let Some((release, restarts)) = counted.filter(|(_, restarts)| *restarts > 0) else { return };
        if let Err(error) = self.rooms.store.note_restarts(&self.name, release, id, restarts).await {
            tracing::warn!(service = %self.name, instance = %id, error = chain(&error), "its restarts are forgotten");
        }
    }

    async fn end_all(&self, wanted: &Wanted, ids: &[InstanceId]) -> Result<(), Halt> {
        let views = self.rooms.supervisor.view().borrow().clone();
        let ends = ids.iter().filter_map(|id| views.get(id)).map(|view| self.end(wanted, view));
        futures_util::future::join_all(ends).await.into_iter().collect()
    }

    async fn launch(&self, wanted: &Wanted, release: &StoredRelease) -> Result<InstanceId, Halt> {
        let entry = &release.entry;
        let supervisor = &self.rooms.supervisor;
        let reservation = match (entry.kind, entry.port) {
            (Kind::Worker, _) => None,
            (Kind::Web | Kind::Static, None) => Some(PortWish::Pool),
            (Kind::Web | Kind::Static, Some(port)) => Some(PortWish::Fixed(port)),
        };
        let reservation = match reservation {
            Some(wish) => Some(self.fallible(wanted, DeployPhase::Start, supervisor.reserve(wish)).await?),
            None => None,
        };
        let data = self.rooms.source.data_dir(&self.name);
        let data_dir = self.fallible(wanted, DeployPhase::Start, data).await?;
        let env = environment(&Sources {
            service: &self.name,
            release: release.number,
            commit: &release.commit,
            data_dir: &data_dir,
            path: &self.rooms.path,
            port: reservation.as_ref().map(|held| held.port),
            services: &wanted.services,
            naming: &self.rooms.naming,
            user: &entry.env,
        });
        let root = self.release_dir(release);
        let cwd = entry.dir.as_ref().map_or_else(|| root.clone(), |dir| root.join(dir));
        if !cwd.is_dir() {
            return Err(self.halt(DeployPhase::Start, format!("release {} has lost its files", release.number)));
        }
        if let Some(cause) = missing(entry, &cwd) {
            return Err(self.halt(DeployPhase::Start, format!("release {} has no {cause}", release.number)));
        }
        let (argv, held) = match &entry.run {
            Some(run) => (command::argv(run), Vec::new()),
            None => {
                let (held, program) = own_program(0).map_err(|error| self.halt(DeployPhase::Start, chain(&error)))?;
                (command::site_argv(program, entry), vec![held])
            }
        };
        let launch = Launch {
            service: self.name.to_string(),
            label: Label::Instance { release: release.number },
            argv,
            env,
            cwd,
            port: reservation,
            held,
            restart: restart_policy(entry.restart),
            stop_signal: entry.stop.signal.number(),
            stop_timeout: entry.stop.timeout.0,
            run_limit: None,
            gate: gate_of(entry),
            probe: probe_policy(entry),
            user: RunAs::Configured,
            hosts_file: self.rooms.hosts.for_instances(),
        };
        let supervisor = supervisor.clone();
        self.uncut(async move { supervisor.launch(launch).await }).await.map_err(|error| Halt {
            problem: Box::new(self.problem(DeployPhase::Start, chain(&error))),
            again: Again::Later,
        })
    }

    /// Keeps the newest releases, and always the active one.
    pub(super) async fn forget_old(&self, wanted: &Wanted, active: &StoredRelease) -> Result<(), Halt> {
        let store = &self.rooms.store;
        let releases = self.fallible(wanted, DeployPhase::Drain, store.releases(&self.name)).await?;
        let (kept, old) = divide(&releases, active);
        for release in old {
            let gone = store.set_release_state(&self.name, release.number, ReleaseState::Gone);
            self.fallible(wanted, DeployPhase::Drain, gone).await?;
        }
        let dirs: Vec<String> = kept.iter().map(|release| release.dir_name.clone()).collect();
        self.fallible(wanted, DeployPhase::Drain, self.rooms.source.keep_only(&self.name, &dirs)).await?;
        Ok(())
    }
}

/// Releases to keep and releases to forget; `releases` are newest first.
fn divide<'a>(
    releases: &'a [StoredRelease],
    active: &StoredRelease,
) -> (Vec<&'a StoredRelease>, Vec<&'a StoredRelease>) {
    let mut kept = Vec::new();
    let mut old = Vec::new();
    for release in releases {
        match release.state {
            ReleaseState::Built => {}
            // A build that a newer order or the end of a manager cut short.
            ReleaseState::Building => {
                old.push(release);
                continue;
            }
            ReleaseState::Failed(_) | ReleaseState::Gone => continue,
        }
        if kept.len() < RELEASES_KEPT || release.number == active.number {
            kept.push(release);
        } else {
            old.push(release);
        }
    }
    (kept, old)
}

/// What a static site names and its release has not.
fn missing(entry: &Service, dir: &Path) -> Option<String> {
    let root = entry.root.as_ref().map_or_else(|| dir.to_owned(), |root| dir.join(root));
    let hint = if entry.build.is_some() { "`build` did not leave it" } else { "is it made by a `build`?" };
    match (&entry.root, &entry.fallback) {
        (Some(name), _) if !root.is_dir() => Some(format!("folder `{name}`, which is its `root`: {hint}")),
        (_, Some(file)) if !root.join(file).is_file() => {
            Some(format!("file `{file}`, which is its `fallback`: {hint}"))
        }
        _ => None,
    }
}

fn restart_policy(restart: Restart) -> RestartPolicy {
    match restart {
        Restart::Always => RestartPolicy::Always,
        Restart::OnFailure => RestartPolicy::OnFailure,
        Restart::Never => RestartPolicy::Never,
    }
}

fn gate_of(entry: &Service) -> Gate {
    match (entry.kind, &entry.health) {
        (Kind::Worker, _) => Gate::None,
        // Not GET / for a site: without an index it answers 404, and works.
        (Kind::Web | Kind::Static, None) => Gate::Tcp,
        (Kind::Web | Kind::Static, Some(health)) => Gate::Http { path: health.path.clone(), host: health.host.clone() },
    }
}

fn probe_policy(entry: &Service) -> ProbePolicy {
    let start_deadline = entry.start_deadline.0;
    match &entry.health {
        None => ProbePolicy { start_deadline, ..ProbePolicy::default() },
        Some(health) => ProbePolicy {
            interval: health.interval.0,
            timeout: health.timeout.0,
            failures: health.failures,
            start_deadline,
            restart: health.restart,
        },
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::ids::ReleaseNumber;

    use super::super::testing::{commit, entry, name};
    use super::*;
    use crate::store::Digest;

    fn release(number: u64, state: ReleaseState) -> StoredRelease {
        StoredRelease {
            service: name("api"),
            number: ReleaseNumber(number),
            commit: commit('a'),
            tree: String::new(),
            dir_name: format!("{number}-aaaaaaa"),
            build_digest: Digest::of(b""),
            program_digest: Digest::of(b""),
            entry: entry("api", 'a'),
            env_sha256: Digest::of(b""),
            state,
            created_unix_ms: 0,
            built_unix_ms: None,
        }
    }

    #[test]
    fn the_newest_five_stay_and_the_active_one_however_old() {
        let mut all: Vec<StoredRelease> = (1..=8).rev().map(|number| release(number, ReleaseState::Built)).collect();
        all[0].state = ReleaseState::Building;
        all[1].state = ReleaseState::Gone;
        let (kept, old) = divide(&all, &release(1, ReleaseState::Built));
        let numbers = |releases: &[&StoredRelease]| releases.iter().map(|release| release.number.0).collect::<Vec<_>>();
        assert_eq!(numbers(&kept), [6, 5, 4, 3, 2, 1]);
        assert_eq!(numbers(&old), [8], "a build that was cut short");
    }
}
