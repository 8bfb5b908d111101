//! git on a mirror: where the mirrors are, and what becomes of one that is damaged.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use agentd_git::{Asker, Call, Fault, Finished, Remote, classify, telling_line};

use super::error::Error;
use super::inspect::remove_tree;

#[derive(Debug)]
pub(super) struct Git {
    pub(super) asker: Asker,
}

impl Git {
    pub(super) fn mirror_dir(&self, remote: &Remote) -> PathBuf {
        self.asker.state_dir().join(format!("{}.git", remote.key()))
    }

    pub(super) fn in_mirror(&self, remote: &Remote) -> (&'static str, OsString) {
        ("GIT_DIR", self.mirror_dir(remote).into())
    }

    pub(super) fn lock_path(&self, remote: &Remote) -> PathBuf {
        self.asker.state_dir().join(format!("{}.lock", remote.key()))
    }

    /// Runs one call; a failure of git itself is in the result.
    pub(super) async fn run(&self, call: Call<'_>) -> Result<Finished, Error> {
        Ok(self.asker.run(call).await?)
    }

    /// Runs one call that has no business failing; returns its stdout.
    pub(super) async fn run_checked(&self, call: Call<'_>) -> Result<Vec<u8>, Error> {
        let (operation, remote) = (call.operation, call.remote);
        let finished = self.run(call).await?;
        if finished.success { Ok(finished.stdout) } else { Err(self.failure(operation, remote, &finished.stderr)) }
    }

    /// Runs one call on a mirror that has what it asks for. A damaged mirror is set aside, for the next fetch to make anew.
    pub(super) async fn run_on_mirror(&self, call: Call<'_>) -> Result<Vec<u8>, Error> {
        let remote = call.remote;
        let ran = self.run_checked(call).await;
        if let Err(Error::MirrorDamaged { line, .. }) = &ran {
            self.set_aside(remote, line)?;
        }
        ran
    }

    /// Renames a damaged mirror; the one set aside before it is removed, so at most one is kept to be looked at.
    pub(super) fn set_aside(&self, remote: &Remote, line: &str) -> Result<(), Error> {
        let mirror_dir = self.mirror_dir(remote);
        let aside_dir = mirror_dir.with_extension("damaged");
        tracing::warn!(mirror = %mirror_dir.display(), line, "damaged mirror set aside");
        remove_tree(&aside_dir).map_err(Error::io("remove", &aside_dir))?;
        match std::fs::rename(&mirror_dir, &aside_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("rename", &mirror_dir)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What git's complaint means: a mirror's own troubles first, then those of any conversation.
    pub(super) fn failure(&self, operation: &'static str, remote: &Remote, stderr: &str) -> Error {
        let mirror_dir = self.mirror_dir(remote);
        match classify(stderr) {
            Fault::MirrorDamaged => Error::MirrorDamaged { mirror_dir, line: telling_line(stderr) },
            Fault::DiskFull => Error::DiskFull { operation, path: mirror_dir },
            Fault::Unreachable
            | Fault::RepositoryMissing
            | Fault::AuthenticationFailed
            | Fault::HostKeyUnpinned
            | Fault::HostKeyChanged
            | Fault::ObjectMissing
            | Fault::ObjectNotOffered
            | Fault::ReferenceMissing
            | Fault::ObjectsRefused
            | Fault::Unknown => self.asker.failure(operation, remote, stderr).into(),
        }
    }
}
