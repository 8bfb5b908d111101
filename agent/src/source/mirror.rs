//! The handle of the room, and what it asks of repositories: which commit a name means, which tree a commit holds.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentd_protocol::ids::Commit;
use agentd_sys::files::{Durability, write_atomic};
use tokio::sync::Semaphore;

use super::auth::{ASKPASS_SCRIPT, Credential, Places, environment};
use super::classify::Fault;
use super::command::{first_line_blocking, shown};
use super::error::Error;
use super::fetch::Slot;
use super::git::{Call, Git, SHORT_OUTPUT_BYTES_MAX, is_new_enough, words};
use super::remote::{Remote, is_reference, is_tree_dir};

/// Programs that only print their version.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);
/// One question to a server, DNS and handshake included.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(60);
/// Reading a few objects of a local mirror on a busy disk.
pub(super) const LOCAL_DEADLINE: Duration = Duration::from_secs(60);
/// Conversations with servers at one time: a stack of hundreds of repositories must not start hundreds of gits.
const CONVERSATIONS_MAX: usize = 4;

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
    pub(super) conversations: Semaphore,
    auth: BTreeMap<String, Credential>,
    /// By mirror; one entry for every repository asked for since start.
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl Source {
    /// Makes the folders and asks git for its version. Blocking: for start-up.
    pub fn new(config: Config) -> Result<Self, Error> {
        let Config { git_dir, services_dir, auth, known_hosts_file, git_keys_dir, git_program } = config;
        let found = first_line_blocking(&git_program, "--version", VERSION_DEADLINE)
            .map_err(|source| Error::GitMissing { program: git_program.clone(), source: Arc::new(source) })?;
        if !is_new_enough(&found) {
            return Err(Error::GitTooOld { program: shown(&git_program), found });
        }
        let git = Git { program: git_program, git_dir, known_hosts_file };
        make_dir(&git.git_dir, 0o700)?;
        make_dir(&git.home_dir(), 0o700)?;
        make_dir(&git_keys_dir, 0o700)?;
        // Passed through by other users, listed by none.
        make_dir(&services_dir, 0o711)?;
        let askpass_path = git.askpass_path();
        write_atomic(&askpass_path, ASKPASS_SCRIPT.as_bytes(), 0o700, Durability::Crash)
            .map_err(Error::io("write", &askpass_path))?;
        let inner = Inner {
            git,
            services_dir,
            conversations: Semaphore::new(CONVERSATIONS_MAX),
            auth,
            slots: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The commit a branch, else a tag, or a full name (`refs/...`, `HEAD`) means on the server now. Annotated tags are
    /// followed to their commit.
    pub async fn resolve(&self, repo: &str, auth: Option<&str>, reference: &str) -> Result<Commit, Error> {
        if !is_reference(reference) {
            return Err(Error::BadReference { reference: reference.to_owned() });
        }
        let remote = Remote::parse(repo)?;
        let env = self.inner.access(&remote, auth)?;
        self.inner.ensure_config(&remote)?;
        let names = candidates(reference);
        let mut args = words(["ls-remote", "--quiet", "--", &remote.url]);
        args.extend(names.iter().map(OsString::from));
        let _permit = self.inner.converse("resolve").await?;
        let call = Call {
            operation: "resolve",
            remote: &remote,
            args,
            env,
            lock: None,
            stdout_bytes_max: SHORT_OUTPUT_BYTES_MAX,
            deadline: RESOLVE_DEADLINE,
        };
        let listing = self.inner.git.run_checked(call).await?;
        pick(&String::from_utf8_lossy(&listing), &names)
            .ok_or_else(|| Error::ReferenceMissing { repo: remote.shown(), reference: reference.to_owned() })
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
    pub(super) fn access(&self, remote: &Remote, auth: Option<&str>) -> Result<Vec<(&'static str, OsString)>, Error> {
        let askpass_path = self.git.askpass_path();
        let places = Places { askpass_path: &askpass_path, known_hosts_file: &self.git.known_hosts_file };
        environment(remote, auth, &self.auth, places)
    }

    pub(super) async fn converse(&self, operation: &'static str) -> Result<tokio::sync::SemaphorePermit<'_>, Error> {
        // Nobody closes the semaphore but the end of the process.
        self.conversations.acquire().await.map_err(|_closed| Error::Stopping { operation })
    }

    /// Writes the repository's git configuration where it is not yet there.
    pub(super) fn ensure_config(&self, remote: &Remote) -> Result<(), Error> {
        let path = self.git.config_path(remote);
        if path.exists() {
            return Ok(());
        }
        write_atomic(&path, Git::config_text(remote).as_bytes(), 0o600, Durability::Crash)
            .map_err(Error::io("write", &path))
    }

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
        self.ensure_config(remote)?;
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

/// Full names a person may mean, best first; `^{}` is the commit behind an annotated tag.
fn candidates(reference: &str) -> Vec<String> {
    if reference == "HEAD" || reference.starts_with("refs/") {
        return vec![format!("{reference}^{{}}"), reference.to_owned()];
    }
    vec![format!("refs/heads/{reference}"), format!("refs/tags/{reference}^{{}}"), format!("refs/tags/{reference}")]
}

/// The first of `names` that the listing (`<id>\t<name>` lines) has. ls-remote matches by tail, so names are compared.
fn pick(listing: &str, names: &[String]) -> Option<Commit> {
    let found = |name: &String| {
        let ids = listing.lines().filter_map(|line| line.split_once('\t'));
        ids.filter(|(_, listed)| listed == name).find_map(|(id, _)| Commit::new(id).ok())
    };
    names.iter().find_map(found)
}

/// Type and id of the only entry of `ls-tree -z`: `<mode> <type> <id>\t<path>\0`.
fn tree_entry(listing: &[u8]) -> Option<(&str, &str)> {
    let head = listing.split(|byte| *byte == b'\t').next()?;
    let mut fields = std::str::from_utf8(head).ok()?.split(' ').skip(1);
    Some((fields.next()?, fields.next()?))
}

/// Makes a folder, and those above it, unless it is there; its mode is set when it is made.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let made = std::fs::create_dir_all(parent).and_then(|()| std::fs::DirBuilder::new().mode(mode).create(path));
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(Error::io("make folder", path)(error)),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_come_before_tags_and_tags_are_followed() {
        let (a, b, c) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
        let names = candidates("v1");
        let tags = format!("{a}\trefs/tags/v1\n{b}\trefs/tags/v1^{{}}\n{c}\trefs/heads/x/refs/heads/v1\n");
        assert_eq!(pick(&tags, &names).unwrap().as_str(), b);
        let both = format!("{tags}{c}\trefs/heads/v1\n");
        assert_eq!(pick(&both, &names).unwrap().as_str(), c);
        assert_eq!(pick("", &names), None);
        assert_eq!(pick("garbage\n", &names), None);
    }

    #[test]
    fn one_line_of_a_tree_is_read() {
        assert_eq!(tree_entry(b"040000 tree abc\tapps/api\0"), Some(("tree", "abc")));
        assert_eq!(tree_entry(b"100644 blob abc\ta\0"), Some(("blob", "abc")));
        assert_eq!(tree_entry(b""), None);
    }
}
