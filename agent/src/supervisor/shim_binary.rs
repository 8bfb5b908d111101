//! The shim this agentd was built with, and where it stands on disk. A shim lives longer than the agentd that installed
//! it, so each build has a folder of its own and no file is ever replaced.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agentd_sys::files::{self, Durability};
use sha2::{Digest, Sha256};

static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agentd-shim"));

const SHIM_DIR: &str = "shim";
const SHIM_FILE: &str = "agentd-shim";
/// Anyone may read and run it: it holds no secret and has no privilege of its own.
const MODE: u32 = 0o755;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the shim cannot be installed as {path}; see the folder's owner, mode and free space")]
    Install {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Not ours to repair: shims may run from it.
    #[error("{path} is not the shim its folder names; find out who changed it, then remove that folder")]
    Altered { path: PathBuf },
}

/// Lower-case hexadecimal SHA-256 of the shim inside this binary.
pub fn sha256() -> String {
    Sha256::digest(SHIM).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts the shim at `<state dir>/shim/<sha256>/agentd-shim` unless it stands there. Idempotent; blocking file work.
pub fn install(state_dir: &Path) -> Result<PathBuf, Error> {
    let dir = state_dir.join(SHIM_DIR).join(sha256());
    let path = dir.join(SHIM_FILE);
    match std::fs::read(&path) {
        Ok(found) if found == SHIM => return Ok(path),
        Ok(_) => return Err(Error::Altered { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Install { path, source }),
    }
    match write(&dir, &path) {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::Install { path, source }),
    }
}

fn write(dir: &Path, path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(MODE).create(dir)?;
    files::write_atomic(path, SHIM, MODE, Durability::PowerCut)?;
    // The umask may have narrowed the modes.
    for path in [path, dir, dir.parent().unwrap_or(dir)] {
        std::fs::set_permissions(path, Permissions::from_mode(MODE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_shim_is_installed_once_and_never_replaced() {
        let state = tempfile::tempdir().unwrap();
        let path = install(state.path()).unwrap();
        assert!(path.ends_with(format!("shim/{}/agentd-shim", sha256())));
        let first = std::fs::metadata(&path).unwrap();
        assert_eq!(first.permissions().mode() & 0o777, 0o755);
        assert_eq!(install(state.path()).unwrap(), path);
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), first.ino());

        std::fs::write(&path, b"#!/bin/sh\n").unwrap();
        assert!(matches!(install(state.path()), Err(Error::Altered { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"#!/bin/sh\n");
    }

    #[test]
    fn the_shim_runs_without_a_loader() {
        let state = tempfile::tempdir().unwrap();
        let path = install(state.path()).unwrap();
        assert!(!SHIM.windows(11).any(|bytes| bytes == b"/ld-linux-x" || bytes == b"/ld-musl-x8"), "dynamic");
        let status = std::process::Command::new(path).env_clear().stderr(std::process::Stdio::null()).status().unwrap();
        assert!(status.code().is_some_and(|code| code != 0), "it wants a verb: {status}");
    }
}
