//! The files of one commit in a fresh release folder, for a build to work in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_git::{Call, Remote, words};
use agentd_protocol::ids::{Commit, ReleaseNumber, ServiceName};

use super::error::Error;
use super::inspect::{Finding, give_to, inspect};
use super::mirror::{Inner, LOCAL_DEADLINE, Source};
use super::ownership::Owner;
use super::releases::{Layout, blocking, release_dir_name};

/// Writing a large tree to a slow disk.
const CHECKOUT_DEADLINE: Duration = Duration::from_secs(10 * 60);
/// A listing of about half a million files; it is held in memory for a moment.
const LISTING_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Mode of a submodule in a tree.
const SUBMODULE_MODE: &[u8] = b"160000 ";

/// A release folder with the files of its commit and nothing else, not sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// `<n>-<sha7>`, the name that the other calls take.
    pub dir_name: String,
    /// The whole repository: a service in a folder may use its neighbours.
    pub root: PathBuf,
    /// `root` and the service's folder.
    pub work_dir: PathBuf,
}

impl Source {
    /// Writes a fetched commit into `services/<service>/releases/<n>-<sha7>`. Whatever an earlier, unsealed attempt with
    /// that number left is removed first. The files are the build's to change; there is no `.git`.
    pub async fn checkout(
        &self,
        service: &ServiceName,
        release: ReleaseNumber,
        repo: &str,
        commit: &Commit,
        dir: Option<&str>,
        owner: Owner,
    ) -> Result<Checkout, Error> {
        let remote = Remote::parse(repo)?;
        self.inner.demand_commit(&remote, commit).await?;
        // Says that the folder exists, and is one, before anything is written.
        self.inner.tree(&remote, commit, dir).await?;
        self.inner.refuse_submodules(&remote, commit).await?;
        let layout = self.inner.layout(service);
        let dir_name = release_dir_name(release, commit);
        let root = layout.release_dir(&dir_name);
        let prepared = (layout.clone(), root.clone());
        blocking("prepare a release", move || prepared.0.make_fresh(release, &prepared.1)).await?;
        let written = self.inner.write_tree(&remote, commit, &layout, &root, owner).await;
        if let Err(error) = written {
            let removed = (layout, root);
            // The first failure is the one to tell; what stays is removed by the next attempt or sweep.
            let cleaned = blocking("remove a release", move || removed.0.discard(&removed.1)).await;
            if let Err(cleanup) = cleaned {
                tracing::warn!(%cleanup, "a failed checkout stays until the next start");
            }
            return Err(error);
        }
        let work_dir = dir.map_or_else(|| root.clone(), |dir| root.join(dir));
        Ok(Checkout { dir_name, root, work_dir })
    }
}

impl Inner {
    async fn refuse_submodules(&self, remote: &Remote, commit: &Commit) -> Result<(), Error> {
        let args = words(["ls-tree", "-r", "-z", "--full-tree", commit.as_str()]);
        let call = Call { stdout_bytes_max: LISTING_BYTES_MAX, ..self.local_call("listing", remote, args) };
        let listing = self.git.run_on_mirror(call).await?;
        match first_submodule(&listing) {
            Some(path) => Err(Error::Submodule { path, commit: commit.clone() }),
            None => Ok(()),
        }
    }

    /// Not `git archive`: that leaves files out on the repository's own request (export-ignore).
    async fn write_tree(
        &self,
        remote: &Remote,
        commit: &Commit,
        layout: &Layout,
        root: &Path,
        owner: Owner,
    ) -> Result<(), Error> {
        let index_path = layout.index_path(root);
        let call = |args, deadline| {
            let mut call = self.local_call("checkout", remote, args);
            call.env.push(("GIT_INDEX_FILE", index_path.clone().into()));
            call.env.push(("GIT_WORK_TREE", root.into()));
            call.deadline = deadline;
            call
        };
        self.git.run_on_mirror(call(words(["read-tree", commit.as_str()]), LOCAL_DEADLINE)).await?;
        self.git
            .run_on_mirror(call(words(["checkout-index", "--all", "--force", "--quiet"]), CHECKOUT_DEADLINE))
            .await?;
        let (root, commit) = (root.to_owned(), commit.clone());
        blocking("look through a release", move || {
            std::fs::remove_file(&index_path).map_err(Error::io("remove", &index_path))?;
            if let Some(finding) = inspect(&root).map_err(Error::io("look through", &root))? {
                return Err(refusal(finding, commit));
            }
            match owner.ids() {
                Some(ids) => give_to(&root, ids).map_err(Error::io("change the owner of", &root)),
                None => Ok(()),
            }
        })
        .await
    }
}

fn refusal(finding: Finding, commit: Commit) -> Error {
    match finding {
        Finding::LinkLeavesTree { path, target } => {
            Error::LinkLeavesTree { path: path.display().to_string(), target: target.display().to_string(), commit }
        }
        Finding::LargeFilePointer { path } => Error::LargeFilePointer { path: path.display().to_string(), commit },
    }
}

/// Path of the first submodule in an `ls-tree -r -z` listing.
fn first_submodule(listing: &[u8]) -> Option<String> {
    let entry = listing.split(|byte| *byte == 0).find(|entry| entry.starts_with(SUBMODULE_MODE))?;
    let path = entry.splitn(2, |byte| *byte == b'\t').nth(1).unwrap_or_default();
    Some(String::from_utf8_lossy(path).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submodules_are_seen_by_mode() {
        let listing = b"100644 blob aa\t160000 x\x00160000 commit bb\tvendor/lib\x00100644 blob cc\tz\0";
        assert_eq!(first_submodule(listing).as_deref(), Some("vendor/lib"));
        assert_eq!(first_submodule(b"100644 blob aa\ta\0"), None);
        assert_eq!(first_submodule(b""), None);
    }
}
