//! What can go wrong with sources. The enum is `Clone` because callers that share one fetch share its failure.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::ids::Commit;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Told in the words of the crate that met it.
    #[error(transparent)]
    Git(#[from] agentd_git::Error),

    #[error("dir `{dir}` must be a relative folder without `.` and `..`")]
    BadDir { dir: String },

    #[error("commit {commit} is not in {repo}; was it pushed, is it the right repository?")]
    CommitMissing { repo: String, commit: Commit },
    #[error("the mirror {} was damaged ({line}) and set aside; the next try fetches it again, look at the disk if this recurs", mirror_dir.display())]
    MirrorDamaged { mirror_dir: PathBuf, line: String },
    #[error("dir `{dir}` does not exist in {repo} at commit {commit}")]
    DirMissing { repo: String, commit: Commit, dir: String },
    #[error("dir `{dir}` in {repo} at commit {commit} is not a folder")]
    DirNotFolder { repo: String, commit: Commit, dir: String },
    #[error("no space left while {operation}; free some on the file system of {}", path.display())]
    DiskFull { operation: &'static str, path: PathBuf },
    #[error("another git still works in {} after {} s; see which with `fuser {}`", lock_path.display(), after.as_secs(), lock_path.display())]
    MirrorBusy { lock_path: PathBuf, after: Duration },

    #[error("`{path}` in commit {commit} is a submodule; submodules are not supported by this version")]
    Submodule { path: String, commit: Commit },
    #[error("`{path}` in commit {commit} is a Git LFS pointer; LFS is not supported by this version")]
    LargeFilePointer { path: String, commit: Commit },
    #[error("symbolic link `{path}` -> `{target}` in commit {commit} leaves the repository; make it point inside")]
    LinkLeavesTree { path: String, target: String, commit: Commit },
    #[error("{} belongs to another user; a build may not link to files of others: `rm` the link at its end", path.display())]
    ForeignFile { path: PathBuf },
    #[error("{}: the tree has more than {limit}; let the build remove what the service does not need", path.display())]
    TreeTooLarge { path: PathBuf, limit: &'static str },
    #[error("release {} is already sealed; release numbers are never used twice", release_dir.display())]
    ReleaseSealed { release_dir: PathBuf },
    #[error("release {} is not complete; deploy again", release_dir.display())]
    ReleaseUnsealed { release_dir: PathBuf },
    #[error("`{name}` is not the name of a release folder: a number, `-`, seven hexadecimal digits")]
    BadReleaseName { name: String },

    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("the agent is stopping; {operation} was not finished")]
    Stopping { operation: &'static str },
}

impl Error {
    /// For `map_err`: a failed file operation, with a full disk told apart.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { operation, path },
            _ => Self::Io { operation, path, source: Arc::new(source) },
        }
    }
}
