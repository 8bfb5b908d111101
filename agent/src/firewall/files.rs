//! What must be known after a crash or a restart of the machine: four small files below `<state>/firewall/`, each
//! replaced as a whole, for root's eyes alone.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use agentd_protocol::api::Origin;
use agentd_protocol::security::Security;
use agentd_sys::files::{Durability, Lock, NotLocked, write_atomic};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::facts::Session;
use super::policy::Policy;

/// Of the four files; another one was written by another agentd.
const FORMAT: u32 = 1;
/// No file of ours comes near; a larger one is not ours.
const BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} cannot be read; look at its owner and mode")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not what agentd wrote; no rule was changed, `agentctl security apply` writes it anew")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "{path} has {bytes} bytes, too many to be ours; no rule was changed, `agentctl security apply` writes it anew"
    )]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error(
        "{path} was written by another version of agentd (format {found}, this one knows {FORMAT}); no rule was changed, \
         `agentctl security apply` writes it anew"
    )]
    Foreign { path: PathBuf, found: u64 },
    #[error("{path} cannot be written; is the disk full or read-only?")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another agentd changes the firewall{}; try again", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Busy { pid: Option<u32> },
}

impl Error {
    /// The file is there and can be read, and says nothing this agentd understands: it may be written anew.
    pub fn is_illegible(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::TooLarge { .. } | Self::Foreign { .. } => true,
            Self::Read { .. } | Self::Write { .. } | Self::Busy { .. } => false,
        }
    }
}

/// What was last confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Active {
    pub policy: Policy,
    pub origin: Origin,
    /// The trial it came from: a trial of this name that still lies about is confirmed already.
    pub tx: String,
    /// The document's wish at that time: a local choice ends when it changes.
    pub document: Option<Security>,
    pub revision: String,
    /// The transaction as boot loads it, without survivors and timers; null in `open`.
    pub nft: Value,
}

/// A trial that is neither confirmed nor reverted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    pub tx: String,
    pub from: Policy,
    pub to: Policy,
    pub by: Origin,
    pub document: Option<Security>,
    pub boot_id: String,
    /// CLOCK_BOOTTIME of that boot: steady whatever is done to the wall clock.
    pub deadline_boot_ms: u64,
    pub deadline_unix_ms: u64,
    pub window_ms: u64,
    /// What was typed by who ended somebody's SSH with it.
    pub consent: Option<String>,
    /// Connections of before: a confirmation that comes through one of them proves nothing.
    pub sessions: Vec<Session>,
}

impl Pending {
    pub fn left_ms(&self, now: &Moment) -> u64 {
        if self.boot_id == now.boot_id { self.deadline_boot_ms.saturating_sub(now.boot_ms) } else { 0 }
    }
}

/// SSH let in for a while; ended by the kernel, at the latest by a restart of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenedSsh {
    pub networks: Vec<IpNet>,
    pub boot_id: String,
    pub until_boot_ms: u64,
}

impl OpenedSsh {
    pub fn left_ms(&self, now: &Moment) -> u64 {
        if self.boot_id == now.boot_id { self.until_boot_ms.saturating_sub(now.boot_ms) } else { 0 }
    }
}

/// Where SSH listened when somebody last looked and found it. A file of its own: boot needs it the most when what was
/// confirmed cannot be read.
#[derive(Debug, Serialize, Deserialize)]
struct SshPorts {
    ports: BTreeSet<u16>,
}

/// Now, by the clocks the files use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub boot_id: String,
    pub boot_ms: u64,
    pub unix_ms: u64,
}

impl Moment {
    pub fn now() -> Self {
        Self {
            // Without procfs no boot is the same as another: every trial counts as one of before.
            boot_id: agentd_sys::process::boot_id().unwrap_or_default(),
            boot_ms: agentd_sys::clock::boot_ms(),
            unix_ms: agentd_sys::clock::real_ns() / 1_000_000,
        }
    }
}

#[derive(Serialize)]
struct Envelope<T> {
    format: u32,
    #[serde(flatten)]
    inner: T,
}

#[derive(Debug, Clone)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    pub fn below(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("firewall") }
    }

    pub fn state_dir(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// One at a time: manager, watchdog and boot change the same rules.
    pub fn lock(&self) -> Result<Lock, Error> {
        let path = self.dir.join("lock");
        let failed = |source| Error::Write { path: path.clone(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(failed)?;
        Lock::take(&path).map_err(|refused| match refused {
            NotLocked::Held { pid } => Error::Busy { pid },
            NotLocked::Io(source) => failed(source),
        })
    }

    pub fn active(&self) -> Result<Option<Active>, Error> {
        self.read("active.json")
    }

    pub fn pending(&self) -> Result<Option<Pending>, Error> {
        self.read("pending.json")
    }

    pub fn opened(&self) -> Result<Option<OpenedSsh>, Error> {
        self.read("open-ssh.json")
    }

    /// Where SSH was last found; nothing where nobody looked yet, or nobody can tell any more.
    pub fn ssh_ports(&self) -> BTreeSet<u16> {
        self.read::<SshPorts>("ssh-ports.json").ok().flatten().map(|found| found.ports).unwrap_or_default()
    }

    pub fn write_ssh_ports(&self, ports: &BTreeSet<u16>) -> Result<(), Error> {
        self.write("ssh-ports.json", &SshPorts { ports: ports.clone() })
    }

    pub fn write_active(&self, active: &Active) -> Result<(), Error> {
        self.write("active.json", active)
    }

    pub fn write_pending(&self, pending: &Pending) -> Result<(), Error> {
        self.write("pending.json", pending)
    }

    pub fn write_opened(&self, opened: &OpenedSsh) -> Result<(), Error> {
        self.write("open-ssh.json", opened)
    }

    pub fn remove_pending(&self) -> Result<(), Error> {
        self.remove("pending.json")
    }

    pub fn remove_opened(&self) -> Result<(), Error> {
        self.remove("open-ssh.json")
    }

    /// What UFW was told; written by its own room.
    pub fn journal_path(&self) -> PathBuf {
        self.dir.join("journal.json")
    }

    pub fn is_there(&self) -> bool {
        self.dir.is_dir()
    }

    /// All but the journal, which goes when it is undone, and the folder when it is empty. Whether there was anything.
    pub fn remove_all(&self) -> Result<bool, Error> {
        let mut found = false;
        // The record last: killed in between, the next start finds a host that is shut and knows why.
        for name in ["pending.json", "open-ssh.json", "ssh-ports.json", "active.json"] {
            found |= self.dir.join(name).exists();
            self.remove(name)?;
        }
        if !self.journal_path().exists() {
            self.remove("lock")?;
            match std::fs::remove_dir(&self.dir) {
                Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                    return Err(Error::Write { path: self.dir.clone(), source: error });
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(found)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.dir.join(name);
        let read = |source| Error::Read { path: path.clone(), source };
        let bytes = match std::fs::metadata(&path) {
            Ok(facts) if facts.len() > BYTES_MAX => return Err(Error::TooLarge { path, bytes: facts.len() }),
            Ok(_) => std::fs::read(&path).map_err(read)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(read(source)),
        };
        let unreadable = |source| Error::Unreadable { path: path.clone(), source };
        let mut value: Value = serde_json::from_slice(&bytes).map_err(unreadable)?;
        // The version first: what another one wrote may have any shape.
        if let Some(found) = value.get("format").and_then(Value::as_u64).filter(|found| *found != u64::from(FORMAT)) {
            return Err(Error::Foreign { path, found });
        }
        if let Some(object) = value.as_object_mut() {
            object.shift_remove("format");
        }
        serde_json::from_value(value).map(Some).map_err(unreadable)
    }

    fn write<T: Serialize>(&self, name: &str, inner: &T) -> Result<(), Error> {
        let path = self.dir.join(name);
        let text = serde_json::to_vec_pretty(&Envelope { format: FORMAT, inner });
        let text = text.map_err(|error| Error::Write { path: path.clone(), source: error.into() })?;
        write_atomic(&path, &text, 0o600, Durability::PowerCut).map_err(|source| Error::Write { path, source })
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.dir.join(name);
        let synced = match std::fs::remove_file(&path) {
            Ok(()) => std::fs::File::open(&self.dir).and_then(|dir| dir.sync_all()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        synced.map_err(|source| Error::Write { path, source })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn active() -> Active {
        Active {
            policy: Policy::open(),
            origin: Origin::Local,
            tx: "t1".into(),
            document: None,
            revision: "abc".into(),
            nft: serde_json::json!({"nftables": []}),
        }
    }

    #[test]
    fn what_was_written_is_read_back_and_is_roots_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        assert_eq!(files.active().unwrap(), None);
        drop(files.lock().unwrap());
        files.write_active(&active()).unwrap();
        assert_eq!(files.active().unwrap(), Some(active()));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("firewall")), 0o700);
        assert_eq!(mode(&dir.path().join("firewall/active.json")), 0o600);
    }

    #[test]
    fn half_foreign_and_strange_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        drop(files.lock().unwrap());
        let path = dir.path().join("firewall/active.json");
        files.write_active(&active()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(files.active(), Err(Error::Unreadable { .. })), "cut at {length}");
        }
        std::fs::write(&path, r#"{"format": 2, "anything": [1]}"#).unwrap();
        assert!(matches!(files.active(), Err(Error::Foreign { found: 2, .. })));
        std::fs::write(&path, r#"[1, 2]"#).unwrap();
        assert!(matches!(files.active(), Err(Error::Unreadable { .. })));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(files.active(), Err(Error::Read { .. })));
    }

    #[test]
    fn one_changes_the_rules_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        let held = files.lock().unwrap();
        assert!(matches!(files.lock(), Err(Error::Busy { pid: Some(_) })));
        drop(held);
        files.lock().unwrap();
    }
}
