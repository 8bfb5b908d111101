//! From an entry to the release that serves it: an older one where nothing that matters changed, else a new build.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use agentd_protocol::api::{DeployPhase, What};
use agentd_protocol::ids::Commit;
use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::Exit;
use agentd_protocol::stack::{Revision, Service};
use agentd_sys::causes::chain;

use super::attempt::Attempt;
use super::digest::{build_digest, program_digest};
use super::environment::{Sources, build_environment, parse_env_file};
use super::why::{self, Failure};
use super::worker::{Again, Doing, Halt, Wanted, Worker};
use super::{command, gate, users};
use crate::source::{self, Checkout, Owner};
use crate::store::{NewRelease, ReleaseState, StoredRelease};
use crate::supervisor::{Gate, Label, Launch, ProbePolicy};

/// A build that takes longer is stopped (DESIGN §7).
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
/// From SIGTERM to SIGKILL of a build.
const BUILD_STOP: Duration = Duration::from_secs(5);
/// Most bytes of an env_file.
const ENV_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Bits of an env_file's mode that let others than its owner read or write it.
const MODE_OTHERS: u32 = 0o077;

impl Worker {
    /// The release that is to serve `entry`: built, sealed and in the store.
    pub(super) async fn release_for(
        &self,
        wanted: &Wanted,
        entry: &Service,
        active: Option<&StoredRelease>,
    ) -> Result<StoredRelease, Halt> {
        let Revision::Commit(commit) = &entry.source else {
            return Err(self.halt(DeployPhase::Document, "its ref was never resolved to a commit".to_owned()));
        };
        // From here on the entry carries the complete environment, so that a rollback needs no file of today's.
        let env = user_env(entry).map_err(|cause| Halt {
            problem: Box::new(self.problem(DeployPhase::Document, cause)),
            again: Again::Later,
        })?;
        self.rooms.secrets.learn(&env);
        let entry = &Service { env, ..entry.clone() };
        let tree = self.tree(wanted, entry, commit, active).await?;
        let build = build_digest(&tree, entry);
        let program = program_digest(build, entry);
        if let Some(active) = active.filter(|active| active.program_digest == program) {
            return self.same_program(wanted, entry, commit, active).await;
        }
        let found = self.rooms.store.find_built(&self.name, &build);
        let built = self.fallible(wanted, DeployPhase::Build, found).await?;
        let reusable = built.filter(|release| self.release_dir(release).is_dir());
        // Built for this very program and never served since: tried again under its own number, or every try would push
        // a good release out of those that are kept.
        let untried = |release: &&StoredRelease| {
            release.program_digest == program && active.is_none_or(|active| release.number > active.number)
        };
        if let Some(again) = reusable.as_ref().filter(untried) {
            return self.same_program(wanted, entry, commit, again).await;
        }
        let number = self.rooms.store.next_release(&self.name);
        let number = self.fallible(wanted, DeployPhase::Build, number).await?;
        let mut release = NewRelease {
            service: self.name.clone(),
            number,
            commit: commit.clone(),
            tree,
            dir_name: String::new(),
            build_digest: build,
            program_digest: program,
            entry: entry.clone(),
            env: entry.env.clone(),
            state: ReleaseState::Built,
        };
        match reusable {
            Some(older) => {
                release.dir_name = older.dir_name;
                self.fallible(wanted, DeployPhase::Build, self.rooms.store.put_release(release)).await
            }
            None => self.build(wanted, entry, release).await,
        }
    }

    /// Only routes, probes' use or the commit's number changed: the release keeps its instances.
    async fn same_program(
        &self,
        wanted: &Wanted,
        entry: &Service,
        commit: &Commit,
        active: &StoredRelease,
    ) -> Result<StoredRelease, Halt> {
        if active.entry != *entry {
            let update = self.rooms.store.update_release(&self.name, active.number, entry, commit);
            self.fallible(wanted, DeployPhase::Route, update).await?;
        }
        Ok(StoredRelease { entry: entry.clone(), commit: commit.clone(), ..active.clone() })
    }

    /// The object id of the service's folder at `commit`; fetches only what is not known yet.
    async fn tree(
        &self,
        wanted: &Wanted,
        entry: &Service,
        commit: &Commit,
        active: Option<&StoredRelease>,
    ) -> Result<String, Halt> {
        if let Some(active) = active.filter(|active| {
            active.commit == *commit && active.entry.dir == entry.dir && active.entry.repo == entry.repo
        }) {
            return Ok(active.tree.clone());
        }
        self.doing(wanted, Doing::Fetching);
        let source = &self.rooms.source;
        let fetched = source.fetch(&entry.repo, entry.git_auth.as_deref(), None, commit);
        self.of_commit(commit, self.fallible(wanted, DeployPhase::Fetch, fetched).await)?;
        let tree = source.tree(&entry.repo, commit, entry.dir.as_deref());
        self.of_commit(commit, self.fallible(wanted, DeployPhase::Fetch, tree).await)
    }

    fn of_commit<T>(&self, commit: &Commit, outcome: Result<T, Halt>) -> Result<T, Halt> {
        outcome.map_err(|mut halt| {
            halt.problem.commit = Some(commit.clone());
            halt
        })
    }

    async fn build(&self, wanted: &Wanted, entry: &Service, mut release: NewRelease) -> Result<StoredRelease, Halt> {
        self.doing(wanted, Doing::Building);
        // Only commands take turns: a service without one must not wait for another's build that hangs.
        let _permit = match &entry.build {
            Some(_) => Some(self.rooms.builds.acquire().await.expect("the semaphore is never closed")),
            None => None,
        };
        let (commit, number) = (release.commit.clone(), release.number);
        let owner = self.owner(wanted, DeployPhase::Fetch).await?;
        let source = &self.rooms.source;
        let checkout = source.checkout(&self.name, number, &entry.repo, &commit, entry.dir.as_deref(), owner);
        let checkout = self.of_commit(&commit, self.fallible(wanted, DeployPhase::Fetch, checkout).await)?;
        release.dir_name.clone_from(&checkout.dir_name);
        release.state = ReleaseState::Building;
        let release = self.fallible(wanted, DeployPhase::Build, self.rooms.store.put_release(release)).await?;
        if let Err(mut halt) = self.build_and_seal(wanted, &release, &checkout, owner).await {
            halt.problem.commit = Some(commit);
            halt.problem.release = Some(number);
            let failed = ReleaseState::Failed(halt.problem.clone());
            let failed = self.rooms.store.set_release_state(&self.name, number, failed);
            self.fallible(wanted, DeployPhase::Build, failed).await?;
            return Err(halt);
        }
        let built = self.rooms.store.set_release_state(&self.name, number, ReleaseState::Built);
        self.fallible(wanted, DeployPhase::Build, built).await?;
        Ok(StoredRelease { state: ReleaseState::Built, ..release })
    }

    async fn build_and_seal(
        &self,
        wanted: &Wanted,
        release: &StoredRelease,
        checkout: &Checkout,
        owner: Owner,
    ) -> Result<(), Halt> {
        if let Some(line) = &release.entry.build {
            self.run_build(wanted, release, checkout, line, owner).await?;
        }
        match self.rooms.source.seal(&self.name, &checkout.dir_name, owner).await {
            // As the build left it, it will leave it again.
            Err(error @ (source::Error::ForeignFile { .. } | source::Error::TreeTooLarge { .. })) => {
                Err(self.halt(DeployPhase::Build, chain(&error)))
            }
            sealed => self.fallible(wanted, DeployPhase::Build, std::future::ready(sealed)).await,
        }
    }

    async fn run_build(
        &self,
        wanted: &Wanted,
        release: &StoredRelease,
        checkout: &Checkout,
        line: &str,
        owner: Owner,
    ) -> Result<(), Halt> {
        let cache = self.rooms.source.cache_dir(&self.name, owner);
        let cache_dir = self.fallible(wanted, DeployPhase::Build, cache).await?;
        let user = BTreeMap::new();
        let sources = Sources {
            service: &self.name,
            release: release.number,
            commit: &release.commit,
            data_dir: Path::new(""),
            path: &self.rooms.path,
            port: None,
            services: &[],
            naming: &self.rooms.naming,
            user: &user,
        };
        let launch = Launch {
            service: self.name.to_string(),
            label: Label::Build { key: release.number.to_string() },
            argv: command::argv(line),
            env: build_environment(&sources, &cache_dir),
            cwd: checkout.work_dir.clone(),
            port: None,
            held: Vec::new(),
            restart: RestartPolicy::Never,
            stop_signal: agentd_protocol::stack::StopSignal::Term.number(),
            stop_timeout: BUILD_STOP,
            run_limit: Some(BUILD_LIMIT),
            gate: Gate::None,
            probe: ProbePolicy::default(),
            user: users::user(owner),
            tmp: self.rooms.users.tmp(),
            hosts_file: None,
        };
        let supervisor = self.rooms.supervisor.clone();
        let launched = self.uncut(async move { supervisor.launch(launch).await });
        let id = self.fallible(wanted, DeployPhase::Build, launched).await?;
        self.underway.begin(Attempt::Build { release: release.number });
        self.note(Some(release.number), What::BuildStarted { commit: release.commit.clone() });
        let last = self.fallible(wanted, DeployPhase::Build, self.rooms.supervisor.finished(&id)).await?;
        self.fallible(wanted, DeployPhase::Build, self.rooms.supervisor.remove(&id)).await?;
        match last.exit {
            Exit::Code(0) => {
                if let Some((_, duration_ms)) = self.underway.end() {
                    let commit = release.commit.clone();
                    self.note(Some(release.number), What::BuildSucceeded { commit, duration_ms });
                }
                Ok(())
            }
            exit => {
                let mut halt = self.halt(DeployPhase::Build, format!("the build failed: {}", gate::describe(exit)));
                halt.problem.commit = Some(release.commit.clone());
                halt.problem.release = Some(release.number);
                let failure = Failure { service: &self.name, instance: &id, exit: Some(exit), warnings: &[] };
                why::look_into(&mut halt.problem, &self.rooms, &failure);
                why::compare(&mut halt.problem, &self.rooms, release).await;
                Err(halt)
            }
        }
    }
}

/// The user's variables: env_file first, then `env`. `Err` is a sentence that holds no value.
pub(super) fn user_env(entry: &Service) -> Result<BTreeMap<String, String>, String> {
    let mut env = match &entry.env_file {
        Some(path) => read_env_file(Path::new(path))?,
        None => BTreeMap::new(),
    };
    env.extend(entry.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    Ok(env)
}

fn read_env_file(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let shown = path.display();
    let facts = std::fs::metadata(path).map_err(|error| format!("env_file {shown} cannot be read: {error}"))?;
    if facts.permissions().mode() & MODE_OTHERS != 0 {
        return Err(format!("env_file {shown} can be read by others: `chmod 600 {shown}`"));
    }
    if facts.len() > ENV_FILE_BYTES_MAX {
        return Err(format!("env_file {shown} is over 1 MiB"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("env_file {shown} cannot be read: {error}"))?;
    parse_env_file(&text).map_err(|bad| format!("env_file {shown}, line {}: {}", bad.line, bad.problem))
}
