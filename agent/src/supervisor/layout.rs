//! Folders of instances. One appears whole, by rename, or not at all: what is found at start can be adopted.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::spec::{PRIVATE_TMP, PRIVATE_VAR_TMP, Spec, User};
use agentd_protocol::shim::{INSTANCES_DIR, SPEC_FILE, STDERR_FIFO, STDOUT_FIFO};
use agentd_sys::files::{Durability, write_atomic};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, chown, mkfifo};

use super::Error;
use super::launch::Record;
use super::logs;

const LABEL_FILE: &str = "label";
/// Count of restarts somebody asked for, in decimal; absent for none.
const ASKED_FILE: &str = "asked";
/// Prefix of folders that are being made or removed; never adopted.
const UNFINISHED: &str = ".";

#[derive(Debug, Clone)]
pub(super) struct Layout {
    run_dir: PathBuf,
    log_dir: PathBuf,
    tmp_dir: PathBuf,
}

impl Layout {
    /// Makes the folders that all instances share and clears away what a killed manager left half made.
    pub(super) fn prepare(run_dir: &Path, log_dir: &Path, tmp_dir: &Path) -> Result<Self, Error> {
        let (run_dir, log_dir, tmp_dir) = (run_dir.to_owned(), log_dir.to_owned(), tmp_dir.to_owned());
        let layout = Self { run_dir, log_dir, tmp_dir };
        let instances_dir = layout.instances_dir();
        make_dir(&instances_dir, 0o700)?;
        make_dir(&layout.log_dir, 0o750)?;
        make_dir(&layout.tmp_dir, 0o700)?;
        for path in entries(&instances_dir)? {
            if name_of(&path).starts_with(UNFINISHED) {
                std::fs::remove_dir_all(&path).map_err(at(&path))?;
            }
        }
        layout.sweep_tmp()?;
        Ok(layout)
    }

    /// A restart of the machine forgets instances; what they left in /tmp goes with them.
    fn sweep_tmp(&self) -> Result<(), Error> {
        for path in entries(&self.tmp_dir)? {
            if !self.instances_dir().join(name_of(&path)).is_dir()
                && let Err(error) = std::fs::remove_dir_all(&path)
            {
                tracing::warn!(path = %path.display(), %error, "what an instance left in /tmp stays until the next start");
            }
        }
        Ok(())
    }

    pub(super) fn tmp_dir(&self, id: &InstanceId) -> PathBuf {
        self.tmp_dir.join(id.as_str())
    }

    /// Nobody gets in but through the mounts.
    fn make_tmp(&self, id: &InstanceId) -> Result<(), Error> {
        let dir = self.tmp_dir(id);
        make_dir(&dir, 0o700)?;
        for name in [PRIVATE_TMP, PRIVATE_VAR_TMP] {
            let path = dir.join(name);
            make_dir(&path, 0o700)?;
            // As programs expect of /tmp; past the umask.
            let mode = std::fs::Permissions::from_mode(0o1777);
            std::fs::set_permissions(&path, mode).map_err(at(&path))?;
        }
        Ok(())
    }

    fn instances_dir(&self) -> PathBuf {
        self.run_dir.join(INSTANCES_DIR)
    }

    pub(super) fn dir(&self, id: &InstanceId) -> PathBuf {
        self.instances_dir().join(id.as_str())
    }

    pub(super) fn logs(&self) -> &Path {
        &self.log_dir
    }

    /// `service` has been checked to be one path component.
    pub(super) fn log_dir(&self, service: &str, id: &InstanceId) -> PathBuf {
        self.log_dir.join(service).join(id.as_str())
    }

    pub(super) fn create(&self, record: &Record, spec: &Spec) -> Result<(), Error> {
        make_dir(&record.log_dir, 0o750)?;
        // The log outlives this folder, and with it must last what it is the log of.
        let path = record.log_dir.join(logs::LABEL_FILE);
        let label = serde_json::to_vec(&record.label).map_err(|error| at(&path)(error.into()))?;
        write_atomic(&path, &label, 0o640, Durability::Crash).map_err(at(&path))?;
        if spec.tmp_dir.is_some() {
            self.make_tmp(&record.id)?;
        }
        let unfinished = self.instances_dir().join(format!("{UNFINISHED}{}", record.id));
        make_dir(&unfinished, 0o700)?;
        let path = unfinished.join(SPEC_FILE);
        write_atomic(&path, &spec.encode(), 0o600, Durability::Crash).map_err(at(&path))?;
        let path = unfinished.join(LABEL_FILE);
        let label = serde_json::to_vec(record).map_err(|error| at(&path)(error.into()))?;
        write_atomic(&path, &label, 0o600, Durability::Crash).map_err(at(&path))?;
        for name in [STDOUT_FIFO, STDERR_FIFO] {
            make_fifo(&unfinished.join(name), spec.user.as_ref())?;
        }
        let dir = self.dir(&record.id);
        std::fs::rename(&unfinished, &dir).map_err(at(&dir))
    }

    /// Renamed before it is emptied, so that half a folder is never taken for an instance.
    pub(super) fn remove(&self, id: &InstanceId) -> Result<(), Error> {
        let unfinished = self.instances_dir().join(format!("{UNFINISHED}{id}"));
        let dir = self.dir(id);
        match std::fs::rename(&dir, &unfinished) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            moved => moved.map_err(at(&dir))?,
        }
        let tmp_dir = self.tmp_dir(id);
        match std::fs::remove_dir_all(&tmp_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %tmp_dir.display(), %error, "what an instance left in /tmp stays until the next start");
            }
            Ok(()) | Err(_) => {}
        }
        std::fs::remove_dir_all(&unfinished).map_err(at(&unfinished))
    }

    /// Every instance on disk, with the reason where its label cannot be read.
    pub(super) fn found(&self) -> Result<BTreeMap<InstanceId, Result<Record, Error>>, Error> {
        let ids = entries(&self.instances_dir())?;
        let ids = ids.iter().filter_map(|path| InstanceId::new(name_of(path)).ok());
        Ok(ids.map(|id| (id.clone(), self.record(&id))).collect())
    }

    fn record(&self, id: &InstanceId) -> Result<Record, Error> {
        let path = self.dir(id).join(LABEL_FILE);
        let text = std::fs::read(&path).map_err(at(&path))?;
        serde_json::from_slice(&text).map_err(|error| at(&path)(error.into()))
    }

    pub(super) fn asked_restarts(&self, id: &InstanceId) -> u32 {
        // Absent is none; an unreadable count only makes a number in the status too high.
        let text = std::fs::read_to_string(self.dir(id).join(ASKED_FILE)).unwrap_or_default();
        text.trim().parse().unwrap_or_default()
    }

    pub(super) fn set_asked_restarts(&self, id: &InstanceId, count: u32) -> Result<(), Error> {
        let path = self.dir(id).join(ASKED_FILE);
        write_atomic(&path, format!("{count}\n").as_bytes(), 0o600, Durability::Crash).map_err(at(&path))
    }
}

/// A program may open its stdout again by /dev/stdout: the FIFO must then be its user's.
fn make_fifo(path: &Path, user: Option<&User>) -> Result<(), Error> {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| at(path)(errno.into()))?;
    if let Some(user) = user.filter(|user| user.uid != nix::unistd::geteuid().as_raw()) {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        chown(path, Some(uid), Some(gid)).map_err(|errno| at(path)(errno.into()))?;
    }
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(at(path))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let listed: io::Result<Vec<PathBuf>> =
        std::fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    listed.map_err(at(dir))
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Folder { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::time::Duration;

    use agentd_protocol::ids::ReleaseNumber;
    use agentd_protocol::shim::spec::RestartPolicy;

    use super::super::launch::{Gate, Label, ProbePolicy};
    use super::*;

    fn prepare(root: &Path) -> Layout {
        Layout::prepare(&root.join("run"), &root.join("log"), &root.join("tmp")).unwrap()
    }

    fn record(layout: &Layout, id: &InstanceId) -> Record {
        Record {
            id: id.clone(),
            service: "api".into(),
            label: Label::Instance { release: ReleaseNumber(3) },
            port: Some(20_017),
            gate: Gate::Http { path: "/".into(), host: None },
            probe: ProbePolicy::default(),
            stop_timeout: Duration::from_secs(30),
            log_dir: layout.log_dir("api", id),
            uid: 0,
        }
    }

    fn spec(user: Option<User>) -> Spec {
        Spec {
            instance: "abcdef012345".into(),
            service: "api".into(),
            argv: vec![b"true".to_vec()],
            env: Vec::new(),
            cwd: b"/".to_vec(),
            user,
            log_dir: b"/l".to_vec(),
            restart: RestartPolicy::Always,
            stop_signal: 15,
            stop_timeout_ms: 1,
            run_limit_ms: 0,
            stable_after_ms: 1,
            log_segment_bytes: 1,
            log_segments_max: 1,
            oom_score_adj: 0,
            open_files_max: 0,
            no_new_privileges: true,
            hosts_file: None,
            tmp_dir: None,
        }
    }

    #[test]
    fn a_folder_says_again_what_it_was_made_for() {
        let root = tempfile::tempdir().unwrap();
        let layout = prepare(root.path());
        let id = InstanceId::new("abcdef012345").unwrap();
        let record = record(&layout, &id);
        // Giving a file away takes root.
        let user = nix::unistd::geteuid().is_root().then_some(User { uid: 65_534, gid: 65_534 });
        let tmp_dir = Some(layout.tmp_dir(&id).into_os_string().into_encoded_bytes());
        layout.create(&record, &Spec { tmp_dir, ..spec(user.clone()) }).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&layout.tmp_dir(&id)), mode(&layout.tmp_dir(&id).join(PRIVATE_TMP))), (0o700, 0o1777));
        assert_eq!(layout.found().unwrap()[&id].as_ref().unwrap(), &record);
        let dir = layout.dir(&id);
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let fifo = std::fs::metadata(dir.join(STDOUT_FIFO)).unwrap();
        assert!(fifo.file_type().is_fifo());
        assert_eq!(fifo.permissions().mode() & 0o777, 0o600);
        assert_eq!(fifo.uid(), user.map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid));
        assert!(record.log_dir.is_dir());

        assert_eq!(layout.asked_restarts(&id), 0);
        layout.set_asked_restarts(&id, 2).unwrap();
        assert_eq!(layout.asked_restarts(&id), 2);
        layout.remove(&id).unwrap();
        layout.remove(&id).unwrap();
        assert!(layout.found().unwrap().is_empty());
        assert!(!layout.tmp_dir(&id).exists(), "its /tmp goes with it");
        assert!(record.log_dir.is_dir(), "logs stay");
    }

    #[test]
    fn half_made_folders_are_cleared_and_unlabelled_ones_named() {
        let root = tempfile::tempdir().unwrap();
        let layout = prepare(root.path());
        std::fs::create_dir(layout.instances_dir().join(".abcdef012345")).unwrap();
        std::fs::create_dir(layout.instances_dir().join("bbbbbbbbbbbb")).unwrap();
        for id in ["abcdef012345", "bbbbbbbbbbbb"] {
            layout.make_tmp(&InstanceId::new(id).unwrap()).unwrap();
        }
        let layout = prepare(root.path());
        let found = layout.found().unwrap();
        assert_eq!(found.len(), 1);
        assert!(found.values().all(Result::is_err));
        let left: Vec<_> = entries(&layout.tmp_dir).unwrap();
        assert_eq!(
            left.iter().map(|path| name_of(path)).collect::<Vec<_>>(),
            ["bbbbbbbbbbbb"],
            "its instance is there"
        );
    }
}
