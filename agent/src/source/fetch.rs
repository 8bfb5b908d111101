//! Getting a commit into its mirror: as little as the server allows, once per repository at a time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentd_git::{Call, Fault, Remote, SHORT_OUTPUT_BYTES_MAX, classify, is_reference, words};
use agentd_protocol::ids::Commit;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::Error;
use super::mirror::{Inner, Source, commit_ref};

/// A large repository over a slow line.
const FETCH_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// Wait for a git that a killed manager left behind; it ends by itself when its server is slow (60 s) or its pipes close.
const LOCK_DEADLINE: Duration = Duration::from_secs(3 * 60);
const LOCK_POLL: Duration = Duration::from_millis(100);
/// Generations fetched of a commit: what a failed deploy shows of what changed, and one to tell that there is more.
const EXACT_DEPTH: u32 = 6;
/// Commits fetched behind a branch when the server refuses to give one by its id.
const BRANCH_DEPTH: u32 = 50;
/// git's own word for "all of it" (git-fetch(1), `--unshallow`), which also works on complete repositories.
const WHOLE_DEPTH: u32 = 0x7fff_ffff;

/// One repository's fetches take turns; the last failure is kept for those who waited for it.
#[derive(Debug, Default)]
pub(super) struct Slot {
    turn: tokio::sync::Mutex<Option<LastFailure>>,
}

#[derive(Debug)]
struct LastFailure {
    commit: Commit,
    at: Instant,
    error: Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Missing,
    NotOffered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Exact,
    /// The branch's last commits, after the server refused the id.
    Branch(Refusal),
    Everything,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Here,
    NotHere,
    Failed(Fault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Done,
    Try(Step),
    Missing,
    Fail(Fault),
}

/// Widens the fetch only as far as it can help: a server that looked for the object and lacks it is asked once more by
/// branch (some say "not our ref" where they mean "not at a tip"), one that refuses ids is asked for everything last.
fn next(step: Step, outcome: Outcome, has_reference: bool) -> Next {
    let not_here = match outcome {
        Outcome::Here => return Next::Done,
        Outcome::NotHere => Refusal::Missing,
        Outcome::Failed(Fault::ObjectMissing | Fault::ReferenceMissing) => Refusal::Missing,
        Outcome::Failed(Fault::ObjectNotOffered) => Refusal::NotOffered,
        Outcome::Failed(fault) => return Next::Fail(fault),
    };
    match (step, not_here) {
        (Step::Exact, refusal) if has_reference => Next::Try(Step::Branch(refusal)),
        (Step::Exact, Refusal::NotOffered) | (Step::Branch(Refusal::NotOffered), _) => Next::Try(Step::Everything),
        (Step::Exact, Refusal::Missing) | (Step::Branch(Refusal::Missing), _) | (Step::Everything, _) => Next::Missing,
    }
}

impl Source {
    /// Brings `commit` into the repository's mirror; nothing to do when it is there. `reference` helps with servers that
    /// give no commit by its id. Callers for one repository take turns; who waited while the same commit failed gets
    /// that failure and causes no second try.
    pub async fn fetch(
        &self,
        repo: &str,
        auth: Option<&str>,
        reference: Option<&str>,
        commit: &Commit,
    ) -> Result<(), Error> {
        if let Some(reference) = reference.filter(|reference| !is_reference(reference)) {
            return Err(agentd_git::Error::BadReference { reference: reference.to_owned() }.into());
        }
        let remote = Remote::parse(repo)?;
        let asked_at = Instant::now();
        let slot = self.inner.slot(&remote);
        let mut last = slot.turn.lock().await;
        if let Some(failure) = last.as_ref().filter(|failure| failure.commit == *commit && failure.at > asked_at) {
            return Err(failure.error.clone());
        }
        let mut fetched = self.inner.fetch(&remote, auth, reference, commit).await;
        if let Err(Error::MirrorDamaged { line, .. }) = &fetched {
            self.inner.git.set_aside(&remote, line)?;
            fetched = self.inner.fetch(&remote, auth, reference, commit).await;
        }
        *last = fetched.as_ref().err().map(|error| LastFailure {
            commit: commit.clone(),
            at: Instant::now(),
            error: error.clone(),
        });
        fetched
    }
}

impl Inner {
    async fn fetch(
        &self,
        remote: &Remote,
        auth: Option<&str>,
        reference: Option<&str>,
        commit: &Commit,
    ) -> Result<(), Error> {
        if self.has_commit(remote, commit).await? {
            return Ok(());
        }
        let env = self.git.asker.access(remote, auth)?;
        self.git.asker.ensure_config(remote)?;
        let lock = self.lock(remote).await?;
        self.ensure_mirror(remote).await?;
        remove_leftovers(&self.git.mirror_dir(remote))?;
        let _permit = self.git.asker.converse("fetch").await?;
        let started = Instant::now();
        tracing::info!(repo = remote.shown(), commit = commit.short(), "fetching");
        let mut step = Step::Exact;
        loop {
            let stdin = lock.try_clone().map_err(Error::io("duplicate", &self.git.lock_path(remote)))?;
            let fetch = Fetch { remote, reference, commit, env: &env };
            let (outcome, stderr) = self.attempt(&fetch, step, stdin).await?;
            match next(step, outcome, reference.is_some()) {
                Next::Done => break,
                Next::Try(wider) => {
                    tracing::info!(repo = remote.shown(), ?wider, "the server gives no commit by its id");
                    step = wider;
                }
                Next::Missing => {
                    return Err(Error::CommitMissing { repo: remote.shown(), commit: commit.clone() });
                }
                Next::Fail(fault) => return Err(self.conversation_failure(remote, commit, fault, &stderr)),
            }
        }
        tracing::info!(repo = remote.shown(), commit = commit.short(), elapsed = ?started.elapsed(), "fetched");
        Ok(())
    }

    /// One try. On `Here` the commit's ref is written.
    async fn attempt(&self, fetch: &Fetch<'_>, step: Step, lock: File) -> Result<(Outcome, String), Error> {
        let mut env = vec![self.git.in_mirror(fetch.remote)];
        env.extend(fetch.env.iter().cloned());
        let call = Call {
            operation: "fetch",
            remote: fetch.remote,
            args: fetch.arguments(step),
            env,
            lock: Some(lock),
            stdout_bytes_max: SHORT_OUTPUT_BYTES_MAX,
            deadline: FETCH_DEADLINE,
        };
        let finished = self.git.run(call).await?;
        if !finished.success {
            return Ok((Outcome::Failed(classify(&finished.stderr)), finished.stderr));
        }
        let here = self.is_whole(fetch.remote, fetch.commit, step).await?;
        if here && step != Step::Exact {
            let args = words(["update-ref", &commit_ref(fetch.commit), fetch.commit.as_str()]);
            self.git.run_checked(self.local_call("update-ref", fetch.remote, args)).await?;
        }
        Ok((if here { Outcome::Here } else { Outcome::NotHere }, finished.stderr))
    }

    /// Whether the id names a commit and all its files are here. What git fetched by this id it has checked itself.
    async fn is_whole(&self, remote: &Remote, commit: &Commit, step: Step) -> Result<bool, Error> {
        let args = words(["cat-file", "-t", commit.as_str()]);
        let kind = self.git.run(self.local_call("look-up", remote, args)).await?;
        if !kind.success || kind.stdout.trim_ascii() != b"commit" {
            return Ok(false);
        }
        if step == Step::Exact {
            return Ok(true);
        }
        let args = words(["rev-list", "--objects", "--no-walk", "--quiet", commit.as_str()]);
        Ok(self.git.run(self.local_call("look-up", remote, args)).await?.success)
    }

    /// Made aside and renamed, so a mirror is never half there.
    async fn ensure_mirror(&self, remote: &Remote) -> Result<(), Error> {
        let mirror_dir = self.git.mirror_dir(remote);
        if mirror_dir.join("HEAD").exists() {
            return Ok(());
        }
        let temp_dir = mirror_dir.with_extension("new");
        for left_over in [&temp_dir, &mirror_dir] {
            match std::fs::remove_dir_all(left_over) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", left_over)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let mut args = words(["init", "--bare", "--quiet", "--template=", "--"]);
        args.push(temp_dir.clone().into());
        let call = Call { env: Vec::new(), ..self.local_call("init", remote, args) };
        self.git.run_checked(call).await?;
        std::fs::rename(&temp_dir, &mirror_dir).map_err(Error::io("rename", &temp_dir))
    }

    async fn lock(&self, remote: &Remote) -> Result<Flock<File>, Error> {
        let lock_path = self.git.lock_path(remote);
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let mut file = open().map_err(Error::io("open", &lock_path))?;
        let started = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((returned, Errno::EWOULDBLOCK)) => file = returned,
                Err((_, errno)) => return Err(Error::io("lock", &lock_path)(errno.into())),
            }
            if started.elapsed() > LOCK_DEADLINE {
                return Err(Error::MirrorBusy { lock_path, after: LOCK_DEADLINE });
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

/// What one fetch is about, the same for all its steps.
#[derive(Debug)]
struct Fetch<'a> {
    remote: &'a Remote,
    reference: Option<&'a str>,
    commit: &'a Commit,
    env: &'a [(&'static str, std::ffi::OsString)],
}

impl Fetch<'_> {
    fn arguments(&self, step: Step) -> Vec<std::ffi::OsString> {
        let (depth, refspecs) = match step {
            Step::Exact => (EXACT_DEPTH, vec![format!("+{}:{}", self.commit, commit_ref(self.commit))]),
            Step::Branch(_) => (BRANCH_DEPTH, vec![self.reference.unwrap_or("HEAD").to_owned()]),
            Step::Everything => {
                let all = ["+refs/heads/*:refs/agentd/heads/*", "+refs/tags/*:refs/agentd/tags/*"];
                (WHOLE_DEPTH, all.map(str::to_owned).to_vec())
            }
        };
        let mut args = words(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", &format!("--depth={depth}")]);
        args.extend(words(["--", &self.remote.url]));
        args.extend(refspecs.into_iter().map(Into::into));
        args
    }
}

/// Names that only a killed git leaves.
#[derive(Debug)]
struct LeftOver {
    starts: &'static [&'static str],
    end: &'static str,
}

impl LeftOver {
    fn fit(&self, name: &str) -> bool {
        self.starts.iter().any(|start| name.starts_with(start)) && name.ends_with(self.end)
    }
}

/// Removes what a killed git left: lock files, that would fail every later fetch, and half-received packs. The caller
/// holds the mirror's lock, so none of it is in use.
fn remove_leftovers(mirror_dir: &Path) -> Result<(), Error> {
    const LOCKS: [&str; 4] = ["shallow.lock", "packed-refs.lock", "HEAD.lock", "config.lock"];
    let mut found: Vec<PathBuf> = LOCKS.iter().map(|name| mirror_dir.join(name)).filter(|path| path.exists()).collect();
    for (dir, marks) in [
        ("objects/pack", LeftOver { starts: &["tmp_", ".tmp-"], end: "" }),
        ("refs/agentd/commits", LeftOver { starts: &[""], end: ".lock" }),
    ] {
        let dir = mirror_dir.join(dir);
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("list", &dir)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &dir))?;
            if marks.fit(&entry.file_name().to_string_lossy()) {
                found.push(entry.path());
            }
        }
    }
    for path in found {
        tracing::info!(path = %path.display(), "removing what a killed git left");
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_widens_only_where_it_can_help() {
        use Fault::{ObjectMissing, ObjectNotOffered, Unreachable};
        use Outcome::{Failed, Here, NotHere};
        use Step::{Branch, Everything, Exact};
        for (step, outcome, has_reference, expected) in [
            (Exact, Here, true, Next::Done),
            (Exact, Failed(Unreachable), true, Next::Fail(Unreachable)),
            (Exact, Failed(ObjectMissing), false, Next::Missing),
            (Exact, Failed(ObjectMissing), true, Next::Try(Branch(Refusal::Missing))),
            (Exact, Failed(ObjectNotOffered), true, Next::Try(Branch(Refusal::NotOffered))),
            (Exact, Failed(ObjectNotOffered), false, Next::Try(Everything)),
            (Branch(Refusal::Missing), NotHere, true, Next::Missing),
            (Branch(Refusal::NotOffered), NotHere, true, Next::Try(Everything)),
            (Branch(Refusal::NotOffered), Here, true, Next::Done),
            (Everything, NotHere, true, Next::Missing),
            (Everything, Failed(Fault::DiskFull), false, Next::Fail(Fault::DiskFull)),
        ] {
            assert_eq!(next(step, outcome, has_reference), expected, "{step:?} {outcome:?} {has_reference}");
        }
    }

    #[test]
    fn leftovers_of_a_killed_git_go_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("objects/pack")).unwrap();
        for name in ["shallow.lock", "shallow", "objects/pack/tmp_pack_1", "objects/pack/pack-1.pack"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        remove_leftovers(dir.path()).unwrap();
        for (name, stays) in [
            ("shallow.lock", false),
            ("shallow", true),
            ("objects/pack/tmp_pack_1", false),
            ("objects/pack/pack-1.pack", true),
        ] {
            assert_eq!(dir.path().join(name).exists(), stays, "{name}");
        }
    }
}
