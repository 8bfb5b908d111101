//! Releases and data of services on disk. A release is complete when its marker exists; markers come last and go first.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use agentd_protocol::ids::{Commit, ReleaseNumber, ServiceName};
use agentd_sys::files::{Durability, write_atomic};

use super::error::Error;
use super::inspect::remove_tree;
use super::mirror::{Inner, Source, make_dir};
use super::ownership::{self, Ids, Owner};
use crate::lifecycle;

/// Before names that nothing refers to any more: no service and no release begins with a dot.
const TRASH: &str = ".trash-";
/// git's index of a checkout being written.
const INDEX: &str = ".index-";
const LINK_TEMP: &str = ".current.new";

/// `<n>-<sha7>`.
pub fn release_dir_name(release: ReleaseNumber, commit: &Commit) -> String {
    format!("{release}-{}", commit.short())
}

/// The number in a release folder's name; `None` when it is no such name.
fn release_number(dir_name: &str) -> Option<ReleaseNumber> {
    let (number, short) = dir_name.split_once('-')?;
    let hexadecimal = short.len() == 7 && short.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let decimal = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (hexadecimal && decimal).then(|| number.parse().ok().map(ReleaseNumber)).flatten()
}

fn check_name(name: &str) -> Result<(), Error> {
    release_number(name).map(|_| ()).ok_or_else(|| Error::BadReleaseName { name: name.to_owned() })
}

/// Where a service's files are.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    service_dir: PathBuf,
}

/// Runs file work off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match lifecycle::spawn_blocking("source", work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(Error::Stopping { operation }),
        },
    }
}

impl Inner {
    pub(super) fn layout(&self, service: &ServiceName) -> Layout {
        Layout { service_dir: self.services_dir.join(service.as_str()) }
    }
}

impl Source {
    /// Path of a release, whether it exists or not.
    pub fn release_dir(&self, service: &ServiceName, name: &str) -> PathBuf {
        self.inner.layout(service).release_dir(name)
    }

    /// Marks a built release complete, once all of it is on disk; with a user of its own the service cannot change it from
    /// then on. Again is fine.
    pub async fn seal(&self, service: &ServiceName, release: &str, owner: Owner) -> Result<(), Error> {
        check_name(release)?;
        let (layout, name) = (self.inner.layout(service), release.to_owned());
        blocking("seal a release", move || {
            layout.settle(&name, owner)?;
            layout.seal(&name)
        })
        .await
    }

    /// Before a launch: a release that was sealed for another user becomes readable for this one.
    pub async fn settle(&self, service: &ServiceName, release: &str, owner: Owner) -> Result<(), Error> {
        check_name(release)?;
        let (layout, name) = (self.inner.layout(service), release.to_owned());
        blocking("hand over a release", move || layout.settle(&name, owner)).await
    }

    /// Users and groups that data of other services carries, whatever the store knows of them.
    pub async fn ids_on_disk(&self, but: &ServiceName) -> Result<BTreeSet<u32>, Error> {
        let (services_dir, but) = (self.inner.services_dir.clone(), but.to_string());
        blocking("look at the owners of data", move || ids_on_disk(&services_dir, &but)).await
    }

    /// Points `current` at a sealed release.
    pub async fn activate(&self, service: &ServiceName, release: &str) -> Result<(), Error> {
        check_name(release)?;
        let (layout, name) = (self.inner.layout(service), release.to_owned());
        blocking("activate a release", move || layout.activate(&name)).await
    }

    /// Names of the sealed releases, oldest first.
    pub async fn sealed(&self, service: &ServiceName) -> Result<Vec<String>, Error> {
        let layout = self.inner.layout(service);
        blocking("list releases", move || layout.sealed()).await
    }

    /// Removes every release that `keep` does not name, unsealed ones too; returns their names, oldest first.
    pub async fn keep_only(&self, service: &ServiceName, keep: &[String]) -> Result<Vec<String>, Error> {
        let (layout, keep) = (self.inner.layout(service), keep.to_vec());
        blocking("remove releases", move || layout.keep_only(&keep)).await
    }

    /// The service's data folder, made on first use: 0700, its owner's alone. What another user left there becomes
    /// the owner's too.
    pub async fn data_dir(&self, service: &ServiceName, owner: Owner) -> Result<PathBuf, Error> {
        let layout = self.inner.layout(service);
        blocking("make a data folder", move || layout.ensure_private("data", owner)).await
    }

    /// Home of the service's builds, so that package clients find what they fetched last time. Its owner's alone.
    pub async fn cache_dir(&self, service: &ServiceName, owner: Owner) -> Result<PathBuf, Error> {
        let layout = self.inner.layout(service);
        blocking("make a build cache", move || layout.ensure_private("cache", owner)).await
    }

    /// Removes all of a service, its data too.
    pub async fn prune(&self, service: &ServiceName) -> Result<(), Error> {
        let layout = self.inner.layout(service);
        blocking("remove a service", move || discard(&layout.service_dir)).await
    }

    /// At start: removes trash, and releases that were not sealed. A build outlives the agent, so the roots of those that
    /// still run are named. Failures are logged and the rest goes on; returns the unsealed releases it removed.
    pub async fn sweep(&self, building: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
        let (services_dir, building) = (self.inner.services_dir.clone(), building.to_vec());
        blocking("sweep", move || sweep(&services_dir, &building)).await
    }
}

impl Layout {
    fn releases_dir(&self) -> PathBuf {
        self.service_dir.join("releases")
    }

    fn sealed_dir(&self) -> PathBuf {
        self.service_dir.join("sealed")
    }

    pub(super) fn release_dir(&self, name: &str) -> PathBuf {
        self.releases_dir().join(name)
    }

    fn marker_path(&self, name: &str) -> PathBuf {
        self.sealed_dir().join(name)
    }

    /// Index file for the checkout into `root`, beside it.
    pub(super) fn index_path(&self, root: &Path) -> PathBuf {
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        self.releases_dir().join(format!("{INDEX}{name}"))
    }

    /// Makes `root` as an empty folder; nobody but us gets in until it is given to its owner. Earlier attempts with the
    /// same number are removed, whatever their commit.
    pub(super) fn make_fresh(&self, release: ReleaseNumber, root: &Path) -> Result<(), Error> {
        make_dir(&self.service_dir, 0o711)?;
        make_dir(&self.releases_dir(), 0o711)?;
        make_dir(&self.sealed_dir(), 0o700)?;
        for name in self.names()?.into_iter().filter(|name| release_number(name) == Some(release)) {
            let release_dir = self.release_dir(&name);
            if self.marker_path(&name).exists() {
                return Err(Error::ReleaseSealed { release_dir });
            }
            discard(&release_dir)?;
        }
        self.remove_index(root)?;
        std::fs::DirBuilder::new().mode(0o750).create(root).map_err(Error::io("make folder", root))
    }

    /// Removes a checkout that failed.
    pub(super) fn discard(&self, root: &Path) -> Result<(), Error> {
        self.remove_index(root)?;
        discard(root)
    }

    fn remove_index(&self, root: &Path) -> Result<(), Error> {
        let index_path = self.index_path(root);
        remove_file(&index_path)?;
        // What a killed git leaves beside it.
        let mut lock_path = index_path.into_os_string();
        lock_path.push(".lock");
        remove_file(Path::new(&lock_path))
    }

    fn seal(&self, name: &str) -> Result<(), Error> {
        let release_dir = self.release_dir(name);
        let opened = File::open(&release_dir).map_err(Error::io("open", &release_dir))?;
        // The build's files were written by others, unsynced; the marker must not outlive them in a power cut.
        nix::unistd::syncfs(&opened)
            .map_err(|errno| Error::io("sync the file system of", &release_dir)(errno.into()))?;
        let marker_path = self.marker_path(name);
        write_atomic(&marker_path, b"", 0o600, Durability::PowerCut).map_err(Error::io("write", &marker_path))
    }

    fn activate(&self, name: &str) -> Result<(), Error> {
        if !self.marker_path(name).exists() {
            return Err(Error::ReleaseUnsealed { release_dir: self.release_dir(name) });
        }
        let (temp_path, link_path) = (self.service_dir.join(LINK_TEMP), self.service_dir.join("current"));
        remove_file(&temp_path)?;
        symlink(Path::new("releases").join(name), &temp_path).map_err(Error::io("write", &temp_path))?;
        std::fs::rename(&temp_path, &link_path).map_err(Error::io("replace", &link_path))?;
        sync_dir(&self.service_dir)
    }

    fn sealed(&self) -> Result<Vec<String>, Error> {
        Ok(self.names()?.into_iter().filter(|name| self.marker_path(name).exists()).collect())
    }

    fn keep_only(&self, keep: &[String]) -> Result<Vec<String>, Error> {
        let removed: Vec<String> = self.names()?.into_iter().filter(|name| !keep.contains(name)).collect();
        for name in &removed {
            remove_file(&self.marker_path(name))?;
            discard(&self.release_dir(name))?;
        }
        Ok(removed)
    }

    fn ensure_private(&self, name: &str, owner: Owner) -> Result<PathBuf, Error> {
        make_dir(&self.service_dir, 0o711)?;
        let dir = self.service_dir.join(name);
        make_dir(&dir, 0o700)?;
        let metadata = dir.metadata().map_err(Error::io("look at", &dir))?;
        if metadata.mode() & 0o7777 != 0o700 {
            let mode = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(&dir, mode).map_err(Error::io("change the mode of", &dir))?;
        }
        let found = Ids { uid: metadata.uid(), gid: metadata.gid() };
        match owner.ids().filter(|ids| *ids != found) {
            // Made just now.
            Some(Ids { uid, gid }) if found.uid == 0 => {
                chown(&dir, Some(uid), Some(gid)).map_err(Error::io("change the owner of", &dir))?;
            }
            Some(ids) => ownership::give(&dir, found.uid, ids)?,
            None => {}
        }
        Ok(dir)
    }

    /// The root's owner and group tell of the whole tree: they are what they are to be only once all else is.
    fn settle(&self, name: &str, owner: Owner) -> Result<(), Error> {
        let release_dir = self.release_dir(name);
        let facts = match release_dir.symlink_metadata() {
            // Whoever is to use it says what is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(Error::io("look at", &release_dir))?,
        };
        match owner {
            Owner::Manager => Ok(()),
            // Sealed while each service had a user: all of it is ours, and nobody else's to change.
            Owner::Shared(ids) if facts.uid() == 0 => ownership::give(&release_dir, 0, ids),
            Owner::Shared(_) => Ok(()),
            Owner::Alone(ids) if (facts.uid(), facts.gid()) == (0, ids.gid) => Ok(()),
            Owner::Alone(ids) => ownership::make_read_only(&release_dir, ids),
        }
    }

    /// Names of all releases on disk, oldest first.
    fn names(&self) -> Result<Vec<String>, Error> {
        let mut names = list(&self.releases_dir())?;
        names.retain(|name| release_number(name).is_some());
        names.sort_by_key(|name| release_number(name));
        Ok(names)
    }

    fn sweep(&self, building: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
        remove_file(&self.service_dir.join(LINK_TEMP))?;
        for name in list(&self.releases_dir())? {
            let path = self.release_dir(&name);
            if name.starts_with(TRASH) {
                remove_tree(&path).map_err(Error::io("remove", &path))?;
            } else if name.starts_with(INDEX) {
                remove_file(&path)?;
            }
        }
        for name in list(&self.sealed_dir())? {
            // Also the temp file of a marker that was being written.
            if !self.release_dir(&name).is_dir() {
                remove_file(&self.marker_path(&name))?;
            }
        }
        let mut removed = Vec::new();
        for name in self.names()? {
            let path = self.release_dir(&name);
            if !self.marker_path(&name).exists() && !building.contains(&path) {
                discard(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

fn ids_on_disk(services_dir: &Path, but: &str) -> Result<BTreeSet<u32>, Error> {
    let mut ids = BTreeSet::new();
    for service in list(services_dir)?.into_iter().filter(|name| name != but) {
        for name in ["data", "cache"] {
            // Not there: carries nothing.
            if let Ok(facts) = services_dir.join(&service).join(name).symlink_metadata() {
                ids.extend([facts.uid(), facts.gid()]);
            }
        }
    }
    Ok(ids)
}

fn sweep(services_dir: &Path, building: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut removed = Vec::new();
    for name in list(services_dir)? {
        let service_dir = services_dir.join(&name);
        let swept = if name.starts_with(TRASH) {
            remove_tree(&service_dir).map(|()| Vec::new()).map_err(Error::io("remove", &service_dir))
        } else {
            Layout { service_dir }.sweep(building)
        };
        match swept {
            Ok(mut paths) => removed.append(&mut paths),
            Err(error) => tracing::warn!(service = name, %error, "left-overs stay until the next start"),
        }
    }
    Ok(removed)
}

/// Renames first, so that nothing finds a half-removed folder under its name; then removes. Gone already is fine.
fn discard(path: &Path) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let trash_path = path.with_file_name(format!("{TRASH}{name}"));
    remove_tree(&trash_path).map_err(Error::io("remove", &trash_path))?;
    match std::fs::rename(path, &trash_path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("rename", path)(error)),
        Ok(()) => {}
    }
    remove_tree(&trash_path).map_err(Error::io("remove", &trash_path))
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|opened| opened.sync_all()).map_err(Error::io("sync", dir))
}

/// Names in a folder; none when it does not exist. A name that is not UTF-8 is none of ours.
fn list(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>();
    Ok(names.map_err(Error::io("list", dir))?.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { service_dir: dir.path().join("api") };
        (dir, layout)
    }

    fn made(layout: &Layout, number: u64, short: &str) -> String {
        let name = format!("{number}-{short}");
        let root = layout.release_dir(&name);
        layout.make_fresh(ReleaseNumber(number), &root).unwrap();
        std::fs::write(root.join("file"), &name).unwrap();
        name
    }

    #[test]
    fn names_of_releases_are_strict() {
        assert_eq!(release_number("12-0123abc"), Some(ReleaseNumber(12)));
        for bad in [
            "",
            "12",
            "-0123abc",
            "12-0123ab",
            "12-0123abcd",
            "12-0123ABC",
            "../x-0123abc",
            "+1-0123abc",
            ".12-0123abc",
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_release_number_is_used_once() {
        let (_dir, layout) = layout();
        let first = made(&layout, 1, "aaaaaaa");
        let second = made(&layout, 1, "bbbbbbb");
        assert!(!layout.release_dir(&first).exists());
        layout.seal(&second).unwrap();
        let again = layout.make_fresh(ReleaseNumber(1), &layout.release_dir("1-ccccccc"));
        assert!(matches!(again, Err(Error::ReleaseSealed { .. })), "{again:?}");
        assert!(layout.release_dir(&second).join("file").exists());
    }

    #[test]
    fn current_points_at_sealed_releases_only() {
        let (_dir, layout) = layout();
        let (first, second) = (made(&layout, 1, "aaaaaaa"), made(&layout, 2, "bbbbbbb"));
        assert!(matches!(layout.activate(&first), Err(Error::ReleaseUnsealed { .. })));
        for name in [&first, &second] {
            layout.seal(name).unwrap();
            layout.activate(name).unwrap();
            let current = layout.service_dir.join("current");
            assert_eq!(std::fs::read_link(&current).unwrap(), Path::new("releases").join(name));
            assert_eq!(&std::fs::read_to_string(current.join("file")).unwrap(), name);
        }
    }

    #[test]
    fn only_the_kept_stay_and_numbers_order_them() {
        let (_dir, layout) = layout();
        let names: Vec<String> = [2, 10, 9].into_iter().map(|number| made(&layout, number, "aaaaaaa")).collect();
        for name in &names {
            layout.seal(name).unwrap();
        }
        assert_eq!(layout.sealed().unwrap(), ["2-aaaaaaa", "9-aaaaaaa", "10-aaaaaaa"]);
        assert_eq!(layout.keep_only(&["10-aaaaaaa".to_owned()]).unwrap(), ["2-aaaaaaa", "9-aaaaaaa"]);
        assert_eq!(list(&layout.releases_dir()).unwrap(), ["10-aaaaaaa"]);
        assert_eq!(list(&layout.sealed_dir()).unwrap(), ["10-aaaaaaa"]);
    }

    #[test]
    fn data_outlives_releases_and_is_private() {
        let (_dir, layout) = layout();
        let data_dir = layout.ensure_private("data", Owner::Manager).unwrap();
        std::fs::write(data_dir.join("db"), "x").unwrap();
        std::fs::set_permissions(&data_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        made(&layout, 1, "aaaaaaa");
        layout.keep_only(&[]).unwrap();
        layout.sweep(&[]).unwrap();
        assert_eq!(layout.ensure_private("data", Owner::Manager).unwrap(), data_dir);
        assert_eq!(data_dir.metadata().unwrap().mode() & 0o777, 0o700);
        assert!(data_dir.join("db").exists());
    }

    /// What a kill at any point can leave: unsealed trees, trash, markers of removed releases, temp files.
    #[test]
    fn a_sweep_leaves_sealed_releases_and_running_builds() {
        let (dir, layout) = layout();
        let names: Vec<String> = [1, 2, 3].into_iter().map(|number| made(&layout, number, "aaaaaaa")).collect();
        layout.seal(&names[0]).unwrap();
        std::fs::create_dir_all(layout.releases_dir().join(".trash-0-aaaaaaa/x")).unwrap();
        std::fs::write(layout.releases_dir().join(".index-3-aaaaaaa"), "").unwrap();
        std::fs::write(layout.marker_path("7-aaaaaaa"), "").unwrap();
        std::fs::create_dir_all(dir.path().join(".trash-web/releases")).unwrap();
        let removed = sweep(dir.path(), &[layout.release_dir(&names[1])]).unwrap();
        assert_eq!(removed, [layout.release_dir(&names[2])]);
        let mut left = list(&layout.releases_dir()).unwrap();
        left.sort();
        assert_eq!(left, names[..2]);
        assert_eq!(list(&layout.sealed_dir()).unwrap(), names[..1]);
        assert_eq!(list(dir.path()).unwrap(), ["api"]);
    }
}
