//! Fills in why something failed: the lines that matter, what changed since it last was good, what to try next.

use std::collections::{BTreeMap, BTreeSet};

use agentd_protocol::api::{Changes, DeployPhase, Problem, ProgramExit, Why};
use agentd_protocol::ids::{InstanceId, ServiceName};
use agentd_protocol::shim::state::Exit;
use agentd_protocol::stack::Service;
use agentd_sys::causes::chain;

use super::diagnose::{Evidence, diagnose};
use super::gate::signal_name;
use super::mask::mask_string;
use super::rollback;
use super::worker::{Rooms, TAIL_LINES};
use crate::store::StoredRelease;

/// Lines looked through for those that matter: a long traceback, several times over.
const LINES_READ: usize = 300;
/// Commits shown of what changed.
const COMMITS_SHOWN: usize = 5;
/// Deploys among which the last good release is looked for.
const DEPLOYS_LOOKED_AT: u32 = 100;

/// What the instance that failed leaves to look at.
pub(super) struct Failure<'a> {
    pub(super) service: &'a ServiceName,
    pub(super) instance: &'a InstanceId,
    /// `None` while the program runs.
    pub(super) exit: Option<Exit>,
    pub(super) warnings: &'a [String],
}

/// From the instance's log: its last lines, those that matter and what they mean.
pub(super) fn look_into(problem: &mut Problem, rooms: &Rooms, failure: &Failure<'_>) {
    let lines = lines(rooms, failure.service, failure.instance);
    let evidence =
        Evidence { lines: &lines, exit: failure.exit, warnings: failure.warnings, last_probe: problem.probes.last() };
    let found = diagnose(&evidence);
    problem.why = Why {
        exit: failure.exit.map(program_exit),
        meaning: found.meaning,
        key_lines: found.key_lines,
        changes: None,
        next: next(problem, failure),
    };
    problem.log_tail = lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec();
}

fn lines(rooms: &Rooms, service: &ServiceName, instance: &InstanceId) -> Vec<String> {
    let mut lines = rooms.supervisor.tail(service.as_str(), instance, LINES_READ).unwrap_or_else(|error| {
        tracing::warn!(%service, %instance, error = chain(&error), "log cannot be read");
        Vec::new()
    });
    let secrets = rooms.secrets.current();
    lines.iter_mut().for_each(|line| mask_string(line, &secrets));
    lines
}

fn program_exit(exit: Exit) -> ProgramExit {
    match exit {
        Exit::Code(code) => ProgramExit::Code { code },
        Exit::Signal { number, core } => ProgramExit::Signal { name: signal_name(number), core_dumped: core },
        Exit::ExecFailed { errno } => {
            ProgramExit::NotExecuted { error: nix::errno::Errno::from_raw(errno).desc().to_owned() }
        }
        Exit::TimeLimit => ProgramExit::TimeLimit,
        Exit::Unknown => ProgramExit::Unknown,
    }
}

fn next(problem: &Problem, failure: &Failure<'_>) -> Vec<String> {
    let service = failure.service;
    let log = match (problem.phase, problem.release) {
        (DeployPhase::Build, Some(release)) => format!("agentctl logs {service} --build {release}"),
        (DeployPhase::Build, None) => format!("agentctl logs {service} --build"),
        (_, _) => format!("agentctl logs {service} --instance {}", failure.instance),
    };
    vec![log]
}

/// What differs from the last release that was good, and the way back to it when `target` is the one that serves.
pub(super) async fn compare(problem: &mut Problem, rooms: &Rooms, target: &StoredRelease) {
    let found = match last_good(rooms, target).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(service = %target.service, error = chain(&error), "what was good before cannot be looked up");
            return;
        }
    };
    let Some((good, serves)) = found else { return };
    let mut changes = differences(&good, target);
    let source = &rooms.source;
    match source.subjects(&target.entry.repo, &good.commit, &target.commit, COMMITS_SHOWN + 1).await {
        Ok(mut commits) => {
            changes.more_commits = commits.len() > COMMITS_SHOWN;
            commits.truncate(COMMITS_SHOWN);
            changes.commits = commits;
        }
        // Another repository by now, or commits the mirror no longer has: the two ids say enough.
        Err(error) => tracing::debug!(service = %target.service, error = chain(&error), "no history"),
    }
    let secrets = rooms.secrets.current();
    changes.commits.iter_mut().for_each(|subject| mask_string(subject, &secrets));
    problem.why.changes = Some(changes);
    if serves == Serves::Target {
        problem.why.next.push(format!("agentctl rollback {}", target.service));
    }
}

/// Which of the two is served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serves {
    Good,
    Target,
}

/// The release that serves, or where that is `target` itself, the one a rollback would go to.
async fn last_good(
    rooms: &Rooms,
    target: &StoredRelease,
) -> Result<Option<(StoredRelease, Serves)>, crate::store::Error> {
    let (store, service) = (&rooms.store, &target.service);
    let Some(active) = store.active_release(service).await? else { return Ok(None) };
    if active.number != target.number {
        return Ok(Some((active, Serves::Good)));
    }
    let releases = store.releases(service).await?;
    let deploys = store.deploys(service, DEPLOYS_LOOKED_AT).await?;
    let good = rollback::target(Some(target), &releases, &deploys);
    let good = releases.into_iter().find(|release| Some(release.number) == good);
    Ok(good.map(|good| (good, Serves::Target)))
}

/// Names only.
fn differences(good: &StoredRelease, target: &StoredRelease) -> Changes {
    let (before, after) = (&good.entry.env, &target.entry.env);
    let only_in = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| -> Vec<String> {
        one.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
    };
    let changed = after.iter().filter(|(name, value)| before.get(*name).is_some_and(|before| before != *value));
    Changes {
        since: good.number,
        from: good.commit.clone(),
        to: target.commit.clone(),
        commits: Vec::new(),
        more_commits: false,
        keys: changed_keys(&good.entry, &target.entry),
        env_added: only_in(after, before),
        env_removed: only_in(before, after),
        env_changed: changed.map(|(name, _)| name.clone()).collect(),
    }
}

/// Keys of the entry that differ; commit and variables are told apart.
fn changed_keys(before: &Service, after: &Service) -> Vec<String> {
    let fields = |entry: &Service| match serde_json::to_value(entry) {
        Ok(serde_json::Value::Object(fields)) => fields,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let (before, after) = (fields(before), fields(after));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let told_apart = ["env", "source", "name"];
    let changed = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    changed.filter(|key| !told_apart.contains(&key.as_str())).cloned().collect()
}

#[cfg(test)]
mod tests {
    use agentd_protocol::ids::ReleaseNumber;

    use super::super::testing::{commit, entry, name};
    use super::*;
    use crate::store::{Digest, ReleaseState};

    fn release(number: u64, letter: char, change: impl FnOnce(&mut Service)) -> StoredRelease {
        let mut entry = entry("api", letter);
        change(&mut entry);
        StoredRelease {
            service: name("api"),
            number: ReleaseNumber(number),
            commit: commit(letter),
            tree: String::new(),
            dir_name: String::new(),
            build_digest: Digest::of(b""),
            program_digest: Digest::of(b""),
            entry,
            env_sha256: Digest::of(b""),
            state: ReleaseState::Built,
            created_unix_ms: 0,
            built_unix_ms: None,
        }
    }

    #[test]
    fn what_changed_is_told_by_name() {
        let env = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let good = release(3, 'a', |entry| entry.env = env(&[("KEPT", "1"), ("CHANGED", "geheim"), ("GONE", "1")]));
        let bad = release(4, 'b', |entry| {
            entry.env = env(&[("KEPT", "1"), ("CHANGED", "secret"), ("NEW", "1")]);
            entry.run = Some("other".into());
            entry.build = Some("make".into());
        });
        let changes = differences(&good, &bad);
        assert_eq!((changes.since, &changes.from, &changes.to), (ReleaseNumber(3), &commit('a'), &commit('b')));
        assert_eq!(changes.keys, ["build", "run"]);
        assert_eq!((changes.env_added, changes.env_removed), (vec!["NEW".to_owned()], vec!["GONE".to_owned()]));
        assert_eq!(changes.env_changed, ["CHANGED"]);
        assert_eq!(differences(&good, &good).keys, [""; 0]);
    }
}
