//! The handle of the room, and what it asks of repositories: which commit a name means, which tree a commit holds.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentd_git::{Asker, Call, Credential, Fault, Remote, SHORT_OUTPUT_BYTES_MAX, words};
use agentd_protocol::ids::Commit;

use super::error::Error;
use super::fetch::Slot;
use super::git::Git;

/// Reading a few objects of a local mirror on a busy disk.
pub(super) const LOCAL_DEADLINE: Duration = Duration::from_secs(60);

/// What the room needs to know of the host.
#[derive(Debug, Clone)]
pub struct Config {
    pub git_dir: PathBuf,
    pub services_dir: PathBuf,
    pub auth: BTreeMap<String, Credential>,
    pub known_hosts_file: PathBuf,
    pub git_keys_dir: PathBuf,
    /// `git`, looked up in PATH, but for tests.
    pub git_program: PathBuf,
}

/// Handle of the room; clones share everything.
#[derive(Debug, Clone)]
pub struct Source {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) git: Git,
    pub(super) services_dir: PathBuf,
    /// By mirror; one entry for every repository asked for since start.
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl Source {
    /// Makes the folders and asks git for its version. Blocking: for start-up.
    pub fn new(config: Config) -> Result<Self, Error> {
        let Config { git_dir, services_dir, auth, known_hosts_file, git_keys_dir, git_program } = config;
        let asker = Asker::new(agentd_git::Config {
            git_program,
            state_dir: git_dir,
            credentials: auth,
            known_hosts_file,
            settings_name: "agentd.toml",
        })?;
        make_dir(&git_keys_dir, 0o700)?;
        // Passed through by other users, listed by none.
        make_dir(&services_dir, 0o711)?;
        let inner = Inner { git: Git { asker }, services_dir, slots: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The commit a branch, else a tag, or a full name (`refs/...`, `HEAD`) means on the server now. Annotated tags are
    /// followed to their commit.
    pub async fn resolve(&self, repo: &str, auth: Option<&str>, reference: &str) -> Result<Commit, Error> {
        Ok(self.inner.git.asker.resolve(repo, auth, reference).await?)
    }

    /// Object id of the tree at `dir` (`None`: the root) of a fetched commit. Two commits with the same id have the same
    /// files there.
    pub async fn tree(&self, repo: &str, commit: &Commit, dir: Option<&str>) -> Result<String, Error> {
        let remote = Remote::parse(repo)?;
        self.inner.demand_commit(&remote, commit).await?;
        self.inner.tree(&remote, commit, dir).await
    }
}

impl Inner {
    pub(super) fn slot(&self, remote: &Remote) -> Arc<Slot> {
        // A panic elsewhere leaves the map whole: entries are only added.
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(remote.key()).or_default())
    }

    /// A call that reads the mirror and nothing else.
    pub(super) fn local_call<'a>(&self, operation: &'static str, remote: &'a Remote, args: Vec<OsString>) -> Call<'a> {
        Call {
            operation,
            remote,
            args,
            env: vec![self.git.in_mirror(remote)],
            lock: None,
            stdout_bytes_max: SHORT_OUTPUT_BYTES_MAX,
            deadline: LOCAL_DEADLINE,
        }
    }

    /// Whether the mirror has the commit with all its files: then, and only then, it has our ref for it.
    pub(super) async fn has_commit(&self, remote: &Remote, commit: &Commit) -> Result<bool, Error> {
        if !self.git.mirror_dir(remote).join("HEAD").exists() {
            return Ok(false);
        }
        self.git.asker.ensure_config(remote)?;
        let args = words(["rev-parse", "--quiet", "--verify", &format!("{}^{{commit}}", commit_ref(commit))]);
        let finished = self.git.run(self.local_call("look-up", remote, args)).await?;
        Ok(finished.success && finished.stdout.trim_ascii() == commit.as_str().as_bytes())
    }

    pub(super) async fn demand_commit(&self, remote: &Remote, commit: &Commit) -> Result<(), Error> {
        if self.has_commit(remote, commit).await? {
            return Ok(());
        }
        Err(Error::CommitMissing { repo: remote.shown(), commit: commit.clone() })
    }

    pub(super) async fn tree(&self, remote: &Remote, commit: &Commit, dir: Option<&str>) -> Result<String, Error> {
        let Some(dir) = dir else {
            let args = words(["rev-parse", "--verify", &format!("{commit}^{{tree}}")]);
            let id = self.git.run_on_mirror(self.local_call("look-up", remote, args)).await?;
            return Ok(String::from_utf8_lossy(&id).trim().to_owned());
        };
        if !is_tree_dir(dir) {
            return Err(Error::BadDir { dir: dir.to_owned() });
        }
        let args = words(["ls-tree", "-z", "--full-tree", commit.as_str(), "--", dir]);
        let listing = self.git.run_on_mirror(self.local_call("look-up", remote, args)).await?;
        let (repo, commit, dir) = (remote.shown(), commit.clone(), dir.to_owned());
        match tree_entry(&listing) {
            Some(("tree", id)) => Ok(id.to_owned()),
            Some((_, _)) => Err(Error::DirNotFolder { repo, commit, dir }),
            None => Err(Error::DirMissing { repo, commit, dir }),
        }
    }

    /// The failure of a conversation, where a missing name and a missing commit have their own words.
    pub(super) fn conversation_failure(&self, remote: &Remote, commit: &Commit, fault: Fault, stderr: &str) -> Error {
        match fault {
            Fault::ObjectMissing | Fault::ObjectNotOffered | Fault::ReferenceMissing => {
                Error::CommitMissing { repo: remote.shown(), commit: commit.clone() }
            }
            Fault::Unreachable
            | Fault::RepositoryMissing
            | Fault::AuthenticationFailed
            | Fault::HostKeyUnpinned
            | Fault::HostKeyChanged
            | Fault::ObjectsRefused
            | Fault::MirrorDamaged
            | Fault::DiskFull
            | Fault::Unknown => self.git.failure("fetch", remote, stderr),
        }
    }
}

/// The ref that keeps a fetched commit, and says that it is complete.
pub(super) fn commit_ref(commit: &Commit) -> String {
    format!("refs/agentd/commits/{commit}")
}

/// Type and id of the only entry of `ls-tree -z`: `<mode> <type> <id>\t<path>\0`.
fn tree_entry(listing: &[u8]) -> Option<(&str, &str)> {
    let head = listing.split(|byte| *byte == b'\t').next()?;
    let mut fields = std::str::from_utf8(head).ok()?.split(' ').skip(1);
    Some((fields.next()?, fields.next()?))
}

/// As [`agentd_sys::files::make_dir`], with the room's error.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    agentd_sys::files::make_dir(path, mode).map_err(Error::io("make folder", path))
}

/// Whether this names a folder inside a tree: relative, no `.`, no `..`, nothing empty.
fn is_tree_dir(dir: &str) -> bool {
    !dir.contains(['\\', '\0', '\n'])
        && dir.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.eq_ignore_ascii_case(".git"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_a_tree_is_read() {
        assert_eq!(tree_entry(b"040000 tree abc\tapps/api\0"), Some(("tree", "abc")));
        assert_eq!(tree_entry(b"100644 blob abc\ta\0"), Some(("blob", "abc")));
        assert_eq!(tree_entry(b""), None);
    }

    #[test]
    fn folders_of_a_tree_stay_in_it() {
        assert!(is_tree_dir("apps/api"));
        for bad in ["", "/", "/a", "a/", "..", "a/../b", "./a", "a//b", "a\\b", ".git", "a/.GIT"] {
            assert!(!is_tree_dir(bad), "{bad}");
        }
    }
}
