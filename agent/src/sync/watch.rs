//! Eyes on the stack file and on the refs of local repositories, so that a change is seen at once.
//!
//! A convenience: everything seen here would be found by the next poll, so what cannot be watched is only logged.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use agentd_protocol::stack::Stack;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::questions::question;

/// Local repositories watched at once; each takes a few of the user's inotify watches (8,192 on small hosts).
const REPOS_MAX: usize = 64;

/// Wakes that have not been answered count as one.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    pub(super) file: Notify,
    pub(super) repo: Notify,
}

#[derive(Debug)]
pub(super) struct Watch {
    file: PathBuf,
    set: Mutex<Set>,
}

#[derive(Debug)]
struct Set {
    /// `None`: the system gave none (inotify's limits); polling does.
    watcher: Option<RecommendedWatcher>,
    /// A folder that was removed and made again is another one: a watch stays with the inode.
    folders: BTreeMap<PathBuf, (u64, u64)>,
}

impl Watch {
    pub(super) fn new(file: &Path, wakes: Arc<Wakes>) -> Self {
        let name = file.file_name().map(OsStr::to_owned).unwrap_or_default();
        let folder = folder_of(file).to_owned();
        let seen = move |event: notify::Result<Event>| match event {
            Ok(event) if !matters(event.kind) => {}
            Ok(event) if event.need_rescan() => {
                wakes.file.notify_one();
                wakes.repo.notify_one();
            }
            Ok(event) => {
                for path in &event.paths {
                    if path.parent() == Some(&folder) && path.file_name() == Some(&name) {
                        wakes.file.notify_one();
                    } else if is_ref(path) {
                        wakes.repo.notify_one();
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the watch on the stack file stumbled; polling goes on"),
        };
        let watcher = notify::recommended_watcher(seen)
            .inspect_err(|error| tracing::warn!(%error, "no file can be watched; changes are seen at the next poll"))
            .ok();
        Self { file: file.to_owned(), set: Mutex::new(Set { watcher, folders: BTreeMap::new() }) }
    }

    /// Watches the file's folder, and the local repositories of `stack` if there is one. Blocks for some inotify calls.
    pub(super) fn ensure(&self, stack: Option<&Stack>) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        set.ensure(folder_of(&self.file), RecursiveMode::NonRecursive);
        let Some(stack) = stack else { return };
        let repos = local_repos(stack);
        for git_dir in repos.iter().take(REPOS_MAX) {
            set.ensure(git_dir, RecursiveMode::NonRecursive);
            set.ensure(&git_dir.join("refs/heads"), RecursiveMode::Recursive);
            set.ensure(&git_dir.join("refs/tags"), RecursiveMode::Recursive);
        }
        set.keep(|folder| folder == folder_of(&self.file) || repos.iter().any(|git_dir| folder.starts_with(git_dir)));
    }
}

impl Set {
    fn ensure(&mut self, folder: &Path, mode: RecursiveMode) {
        let (Some(watcher), Ok(facts)) = (&mut self.watcher, std::fs::metadata(folder)) else { return };
        let inode = (facts.dev(), facts.ino());
        if self.folders.get(folder) == Some(&inode) {
            return;
        }
        if self.folders.contains_key(folder) {
            // The old inode's watch went with it.
            let _ = watcher.unwatch(folder);
        }
        match watcher.watch(folder, mode) {
            Ok(()) => drop(self.folders.insert(folder.to_owned(), inode)),
            Err(error) => {
                self.folders.remove(folder);
                tracing::debug!(%error, folder = %folder.display(), "not watched; changes are seen at the next poll");
            }
        }
    }

    fn keep(&mut self, wanted: impl Fn(&Path) -> bool) {
        let Some(watcher) = &mut self.watcher else { return };
        self.folders.retain(|folder, _| {
            let keep = wanted(folder);
            if !keep {
                // Already gone with its folder, or a wake too many later: both harmless.
                let _ = watcher.unwatch(folder);
            }
            keep
        });
    }
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Reading is none of our business, least of all our own.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}

/// What changes when a branch or tag moves; lock files come and go before it does.
fn is_ref(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let is_loose = path.ancestors().skip(1).any(|folder| folder.ends_with("refs"));
    !name.ends_with(".lock") && (is_loose || name == "packed-refs" || name == "HEAD")
}

/// Git folders of the `file://` repositories whose refs are followed; a linked work tree is left to polling.
fn local_repos(stack: &Stack) -> Vec<PathBuf> {
    let followed = stack.service.iter().filter_map(question);
    let mut repos: Vec<PathBuf> = followed
        .filter_map(|question| question.repo.strip_prefix("file://").map(PathBuf::from))
        .map(|repo| if repo.join(".git").is_dir() { repo.join(".git") } else { repo })
        .filter(|git_dir| git_dir.join("refs").is_dir())
        .collect();
    repos.sort();
    repos.dedup();
    repos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_are_told_from_the_rest_of_a_repository() {
        for moved in ["/r/.git/refs/heads/main", "/r.git/refs/heads/feature/x", "/r.git/packed-refs", "/r/.git/HEAD"] {
            assert!(is_ref(Path::new(moved)), "{moved}");
        }
        for other in ["/r/.git/index", "/r/.git/refs/heads/main.lock", "/r/.git/packed-refs.lock", "/r/.git/config"] {
            assert!(!is_ref(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn reading_wakes_nobody() {
        assert!(!matters(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(matters(EventKind::Access(AccessKind::Close(AccessMode::Write))));
    }
}
