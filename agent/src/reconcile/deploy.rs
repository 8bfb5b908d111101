//! Bringing a release up beside the old one, the commit point, and taking the old one down. The order is an invariant:
//! ready, routed, old unrouted, old drained, old stopped.

use std::collections::BTreeSet;
use std::time::Duration;

use agentd_protocol::api::DeployPhase;
use agentd_protocol::edge::Absent;
use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::Phase;
use agentd_protocol::stack::{Kind, Restart, Service};

use super::command;
use super::environment::{Sources, environment};
use super::gate::{self, Verdict};
use super::routing::{Entry, backend};
use super::worker::{Again, Doing, Halt, Wanted, Worker, route_of};
use crate::edge::Idleness;
use crate::store::StoredRelease;
use crate::supervisor::{Gate, InstanceView, Label, Launch, PortWish, ProbePolicy, RunAs};

/// Releases of a service that stay on disk (DESIGN §7).
const RELEASES_KEPT: usize = 5;

impl Worker {
    /// From what runs now to instances of `target`.
    pub(super) async fn replace(
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
        self.doing(wanted, Doing::Draining);
        self.retire(wanted, old).await
    }

    /// Two copies cannot share a fixed port: the old one goes first, the edge holds requests meanwhile. A new one that
    /// does not get ready brings the old one back.
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
        let failed = match self.bring_up(wanted, target).await {
            Ok(new) => return self.swap(wanted, target, new).await,
            Err(failed) => failed,
        };
        if let Some(active) = active.filter(|active| active.number != target.number) {
            let back = self.bring_up(wanted, active).await?;
            self.swap(wanted, active, back).await?;
        }
        Err(failed)
    }

    /// The active release in its wanted number, routed by its newest entry.
    pub(super) async fn keep_running(&self, wanted: &Wanted, target: &StoredRelease) -> Result<(), Halt> {
        let replicas = usize::try_from(target.entry.replicas).unwrap_or(usize::MAX);
        let mut running = self.instances();
        // The ready ones are kept, of those the longest-lived.
        running.sort_by_key(|view| !view.is_ready());
        let surplus = running.split_off(replicas.min(running.len()));
        let mut ids: Vec<InstanceId> = running.into_iter().map(|view| view.id).collect();
        if ids.len() < replicas {
            self.doing(wanted, Doing::Starting);
            let known = ids.clone();
            for _ in known.len()..replicas {
                ids.push(self.launch(wanted, target).await?);
            }
            // What ran before is routed on; only the new ones pass the gate.
            let new = ids[known.len()..].to_vec();
            self.pass_gate(wanted, target, &new).await?;
        }
        self.swap(wanted, target, ids).await?;
        self.retire(wanted, surplus).await
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
        self.pass_gate(wanted, target, &ids).await?;
        Ok(ids)
    }

    async fn pass_gate(&self, wanted: &Wanted, target: &StoredRelease, ids: &[InstanceId]) -> Result<(), Halt> {
        let deadline = target.entry.start_deadline.0;
        match gate::wait(ids, self.rooms.supervisor.view(), deadline).await {
            Verdict::Passed => Ok(()),
            Verdict::Waiting => unreachable!("wait ends with a verdict"),
            Verdict::Failed(failed) => {
                let mut halt = self.halt(failed.phase, failed.cause);
                let views = self.rooms.supervisor.view().borrow().clone();
                if let Some(view) = views.get(&failed.instance) {
                    halt.problem.probes = view.probes.iter().cloned().collect();
                }
                halt.problem.log_tail = self.log_tail(&failed.instance);
                halt.problem.commit = Some(target.commit.clone());
                halt.problem.release = Some(target.number);
                self.end_all(wanted, ids).await?;
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
        let instances: BTreeSet<InstanceId> = ids.into_iter().collect();
        let entry =
            Entry { version: wanted.version, route: route_of(&target.entry), instances, absent: Absent::Starting };
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
        for backend in old.iter().filter_map(backend) {
            // Past the deadline the requests that are left are cut by the stop: said in the log, not a failure.
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let key = (backend.instance.clone(), backend.incarnation);
            if self.rooms.edge.wait_idle(&key, left).await == Idleness::Deadline {
                tracing::info!(service = %self.name, instance = %backend.instance, "drain deadline passed with requests in flight");
            }
        }
        let ends = old.iter().map(|view| self.end(wanted, view));
        futures_util::future::join_all(ends).await.into_iter().collect()
    }

    /// Stops an instance and removes what it leaves but its log.
    pub(super) async fn end(&self, wanted: &Wanted, view: &InstanceView) -> Result<(), Halt> {
        let supervisor = &self.rooms.supervisor;
        if view.phase != Phase::Down {
            self.fallible(wanted, DeployPhase::Drain, supervisor.stop(&view.id, None)).await?;
        }
        self.fallible(wanted, DeployPhase::Drain, supervisor.remove(&view.id)).await
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
            (Kind::Web, None) => Some(PortWish::Pool),
            (Kind::Web, Some(port)) => Some(PortWish::Fixed(port)),
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
        let launch = Launch {
            service: self.name.to_string(),
            label: Label::Instance { release: release.number },
            argv: command::argv(&entry.run),
            env,
            cwd,
            port: reservation,
            held: Vec::new(),
            restart: restart_policy(entry.restart),
            stop_signal: entry.stop.signal.number(),
            stop_timeout: entry.stop.timeout.0,
            run_limit: None,
            gate: gate_of(entry),
            probe: probe_policy(entry),
            user: RunAs::Configured,
        };
        supervisor.launch(launch).await.map_err(|error| Halt {
            problem: Box::new(self.problem(DeployPhase::Start, super::worker::chain(&error))),
            again: Again::Later,
        })
    }

    /// Keeps the newest releases, and always the active one.
    pub(super) async fn forget_old(&self, wanted: &Wanted, active: &StoredRelease) -> Result<(), Halt> {
        let store = &self.rooms.store;
        let releases = self.fallible(wanted, DeployPhase::Drain, store.releases(&self.name)).await?;
        let (kept, old) = divide(&releases, active);
        for release in old {
            let gone = store.set_release_state(&self.name, release.number, crate::store::ReleaseState::Gone);
            self.fallible(wanted, DeployPhase::Drain, gone).await?;
        }
        let dirs: Vec<String> = kept.iter().map(|release| release.dir_name.clone()).collect();
        self.fallible(wanted, DeployPhase::Drain, self.rooms.source.keep_only(&self.name, &dirs)).await?;
        Ok(())
    }
}

/// Releases to keep and built ones to forget; `releases` are newest first. What is older than the active one and never
/// served takes no place from one that did.
fn divide<'a>(
    releases: &'a [StoredRelease],
    active: &StoredRelease,
) -> (Vec<&'a StoredRelease>, Vec<&'a StoredRelease>) {
    let mut kept = Vec::new();
    let mut old = Vec::new();
    for release in releases.iter().filter(|release| release.is_built()) {
        let is_useful = release.has_served() || release.number > active.number;
        if release.number == active.number || (is_useful && kept.len() < RELEASES_KEPT) {
            kept.push(release);
        } else {
            old.push(release);
        }
    }
    (kept, old)
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
        (Kind::Web, None) => Gate::Tcp,
        (Kind::Web, Some(health)) => Gate::Http { path: health.path.clone(), host: health.host.clone() },
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
