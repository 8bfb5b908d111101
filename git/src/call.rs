//! git with nothing of the host's or a repository's configuration: every call is hardened in the same way.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use crate::classify::{Fault, classify, telling_line};
use crate::command::{Finished, Invocation, RunError, run};
use crate::error::Error;
use crate::remote::{Remote, Transport};

/// Settings that win over any configuration file. A server slower than 1,000 bytes/s for a minute counts as gone.
const HARDENING: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.symlinks=true",
    "core.autocrlf=false",
    "core.protectNTFS=true",
    "credential.helper=",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "http.followRedirects=initial",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    "init.defaultBranch=main",
    "protocol.version=2",
    "protocol.allow=never",
    "transfer.fsckObjects=true",
];

/// Output of commands that print a line or a few, bytes.
pub const SHORT_OUTPUT_BYTES_MAX: u64 = 1024 * 1024;

/// Where git's own files are; fixed for the life of the process.
#[derive(Debug)]
pub(crate) struct Git {
    pub(crate) program: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) known_hosts_file: PathBuf,
}

/// One call. `args` begins with git's verb.
#[derive(Debug)]
pub struct Call<'a> {
    /// For errors: a noun, as in "fetch of https://...".
    pub operation: &'static str,
    pub remote: &'a Remote,
    pub args: Vec<OsString>,
    pub env: Vec<(&'static str, OsString)>,
    /// Becomes the child's stdin (it is an empty file): so the lock lives until the last process of git is gone, also
    /// when we are killed meanwhile.
    pub lock: Option<File>,
    pub stdout_bytes_max: u64,
    pub deadline: Duration,
}

impl Git {
    pub(crate) fn home_dir(&self) -> PathBuf {
        self.state_dir.join("home")
    }

    pub(crate) fn askpass_path(&self) -> PathBuf {
        self.home_dir().join("askpass")
    }

    pub(crate) fn config_path(&self, remote: &Remote) -> PathBuf {
        self.state_dir.join(format!("{}.config", remote.key()))
    }

    /// The only configuration file git reads: it names the repository of a file:// address as safe, since that usually
    /// belongs to somebody else (safe.directory is heeded nowhere else; git-config(1)).
    pub(crate) fn config_text(remote: &Remote) -> String {
        match &remote.transport {
            Transport::File { path } => {
                let quoted = path.replace('\\', "\\\\").replace('"', "\\\"");
                format!("[safe]\n\tdirectory = \"{quoted}\"\n\tdirectory = \"{quoted}/.git\"\n")
            }
            Transport::Https { .. } | Transport::Ssh { .. } => String::new(),
        }
    }

    /// Runs one call; a failure of git itself is in the result.
    pub(crate) async fn run(&self, call: Call<'_>) -> Result<Finished, Error> {
        let Call { operation, remote, args, env, lock, stdout_bytes_max, deadline } = call;
        tracing::debug!(operation, repo = remote.shown(), "git");
        let invocation = Invocation {
            program: &self.program,
            args: self.arguments(remote, args),
            env: self.environment(remote, env),
            current_dir: &self.home_dir(),
            stdin: lock.map_or_else(Stdio::null, Stdio::from),
            stdout_bytes_max,
            deadline,
        };
        run(invocation).await.map_err(|error| match error {
            RunError::NotStarted(source) => {
                Error::GitMissing { program: self.program.clone(), source: Arc::new(source) }
            }
            RunError::TimedOut => Error::Timeout { operation, repo: remote.shown(), after: deadline },
            RunError::TooMuchOutput => {
                Error::TooMuchOutput { operation, repo: remote.shown(), bytes_max: stdout_bytes_max }
            }
            RunError::Pipe(source) => {
                Error::Io { operation: "read the output of", path: self.program.clone(), source: Arc::new(source) }
            }
        })
    }

    /// What git's complaint means, seen from the operation that met it. What can be wrong with a mirror alone is told by
    /// whoever keeps one; here it is a failure like any other.
    pub(crate) fn failure(&self, operation: &'static str, remote: &Remote, stderr: &str) -> Error {
        let (repo, host, line) = (remote.shown(), remote.host_shown(), telling_line(stderr));
        let known_hosts_file = self.known_hosts_file.clone();
        match classify(stderr) {
            Fault::Unreachable => Error::Unreachable { repo, line },
            Fault::RepositoryMissing => Error::RepositoryMissing { repo, line },
            Fault::AuthenticationFailed => Error::AuthenticationFailed { repo, line },
            Fault::HostKeyUnpinned => {
                Error::HostKeyUnpinned { host, pin_command: remote.pin_command(&known_hosts_file) }
            }
            Fault::HostKeyChanged => Error::HostKeyChanged { host, line, known_hosts_file },
            Fault::ObjectsRefused => Error::ObjectsRefused { repo, line },
            Fault::DiskFull => Error::DiskFull { operation, path: self.state_dir.clone() },
            Fault::ObjectMissing
            | Fault::ObjectNotOffered
            | Fault::ReferenceMissing
            | Fault::MirrorDamaged
            | Fault::Unknown => Error::GitFailed { operation, repo, line },
        }
    }

    fn arguments(&self, remote: &Remote, args: Vec<OsString>) -> Vec<OsString> {
        let only_this_transport = format!("protocol.{}.allow=always", remote.scheme());
        let settings = HARDENING.iter().map(|setting| OsString::from(*setting)).chain([only_this_transport.into()]);
        let mut all: Vec<OsString> = settings.flat_map(|setting| ["-c".into(), setting]).collect();
        all.extend(args);
        all
    }

    fn environment(&self, remote: &Remote, own: Vec<(&'static str, OsString)>) -> Vec<(&'static str, OsString)> {
        let mut all: Vec<(&'static str, OsString)> = vec![
            ("HOME", self.home_dir().into()),
            ("GIT_CONFIG_GLOBAL", self.config_path(remote).into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("GIT_ATTR_NOSYSTEM", "1".into()),
            // Where no mirror is named git finds none: the search starts in HOME and ends above it.
            ("GIT_CEILING_DIRECTORIES", self.state_dir.clone().into()),
            ("GIT_TERMINAL_PROMPT", "0".into()),
            ("GIT_OPTIONAL_LOCKS", "0".into()),
            ("GIT_NO_REPLACE_OBJECTS", "1".into()),
            ("GIT_LITERAL_PATHSPECS", "1".into()),
            ("GIT_LFS_SKIP_SMUDGE", "1".into()),
            ("LC_ALL", "C".into()),
        ];
        all.extend(own);
        all
    }
}

/// Makes the arguments of a call from strings and paths.
pub fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.into_iter().map(OsString::from).collect()
}

/// Whether `git --version` names 2.28 or newer, the first with `--end-of-options` in every verb we use.
pub(crate) fn is_new_enough(version_line: &str) -> bool {
    const OLDEST: (u32, u32) = (2, 28);
    let mut numbers = version_line.strip_prefix("git version ").unwrap_or_default().split('.');
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) >= OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for good in
            ["git version 2.28.0", "git version 2.47.3", "git version 2.39.5 (Apple Git-154)", "git version 3.0.rc1"]
        {
            assert!(is_new_enough(good), "{good}");
        }
        for bad in ["git version 2.9.5", "git version 1.99", "", "hg 7.0", "git version x"] {
            assert!(!is_new_enough(bad), "{bad}");
        }
    }

    #[test]
    fn a_file_address_is_safe_for_itself_alone() {
        let remote = Remote::parse(r#"file:///srv/a "b""#).unwrap();
        let text = Git::config_text(&remote);
        assert_eq!(text, "[safe]\n\tdirectory = \"/srv/a \\\"b\\\"\"\n\tdirectory = \"/srv/a \\\"b\\\"/.git\"\n");
        assert_eq!(Git::config_text(&Remote::parse("https://h/x").unwrap()), "");
    }
}
