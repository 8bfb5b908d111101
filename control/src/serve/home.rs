//! The folder of a server: databases, key file, settings, packages, socket.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentd_sys::files::{Lock, NotLocked};

use super::Error;
use crate::config::{Config, FILE_NAME};
use crate::seal::Key;
use crate::store::CONTROL_FILE;

pub const KEY_FILE: &str = "controld.key";
const LOCK_FILE: &str = "controld.lock";

/// Held for as long as the process lives.
#[derive(Debug, Clone)]
pub struct Home {
    pub dir: PathBuf,
    pub config: Arc<Config>,
    _lock: Arc<Lock>,
}

impl Home {
    /// Makes the folder where it is missing, and takes it.
    pub fn take(dir: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Home { path: dir.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let dir = std::fs::canonicalize(dir).map_err(failed)?;
        let failed = |source| Error::Home { path: dir.clone(), source };
        // Packages are for everybody; the databases are nobody else's.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir.join("packages")).map_err(failed)?;
        let lock = Lock::take(&dir.join(LOCK_FILE)).map_err(|error| match error {
            NotLocked::Held { pid } => Error::Locked { path: dir.clone(), pid },
            NotLocked::Io(source) => failed(source),
        })?;
        let config = Config::read(&dir.join(FILE_NAME))?;
        Ok(Self { dir, config: Arc::new(config), _lock: Arc::new(lock) })
    }

    pub fn key_path(&self, chosen: Option<&Path>) -> PathBuf {
        let chosen = chosen.or(self.config.key_file.as_deref());
        chosen.map_or_else(|| self.dir.join(KEY_FILE), Path::to_owned)
    }

    /// A new key only for a new database: one that is there cannot be read with another.
    pub fn key(&self, chosen: Option<&Path>) -> Result<Key, Error> {
        let path = self.key_path(chosen);
        if path.exists() || self.dir.join(CONTROL_FILE).exists() {
            return Ok(Key::read(&path)?);
        }
        Ok(Key::create(&path)?)
    }

    pub fn packages_dir(&self) -> PathBuf {
        self.dir.join("packages")
    }
}
