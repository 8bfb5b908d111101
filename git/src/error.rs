//! What can go wrong between us and a repository's server. `Clone` because callers that share one conversation share its
//! failure.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("cannot start `{}`; install git (at least 2.28) or correct PATH", program.display())]
    GitMissing {
        program: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("`{}` says `{found}`; git 2.28 or newer is needed", program.display())]
    GitTooOld { program: PathBuf, found: String },

    #[error("repository `{repo}` is not an address agentd can use: {rule}")]
    BadRepository { repo: String, rule: &'static str },
    #[error(
        "repository address for `{host}` carries a user or password; put the token into a file and name it with git_auth"
    )]
    SecretInAddress { host: String },
    #[error("`{reference}` cannot be the name of a branch or tag")]
    BadReference { reference: String },

    #[error("git_auth `{name}` is not in this host's settings; add it to {settings_name} or correct the service")]
    CredentialUnknown { name: String, settings_name: &'static str },
    #[error("git_auth `{name}` is for {expected}, but the repository is at {found}; use the credential of that host")]
    CredentialForOtherHost { name: String, expected: String, found: String },
    #[error("credential file {} cannot be read; check that it exists", path.display())]
    CredentialUnreadable {
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("credential file {} has mode {mode:o}; others must not read it: chmod 600", path.display())]
    CredentialExposed { path: PathBuf, mode: u32 },
    #[error("credential file {} belongs to uid {uid}; it must belong to the user this program runs as, or root", path.display())]
    CredentialForeign { path: PathBuf, uid: u32 },

    #[error("cannot reach repository {repo} ({line}); check the address, DNS and the way out of this host")]
    Unreachable { repo: String, line: String },
    #[error("repository {repo} does not exist or is hidden from us ({line}); check the address and git_auth")]
    RepositoryMissing { repo: String, line: String },
    #[error("repository {repo} has no branch or tag `{reference}`; was it pushed, is it the right repository?")]
    ReferenceMissing { repo: String, reference: String },
    #[error("{repo} refused our credentials ({line}); check the key or token that git_auth names, and its rights")]
    AuthenticationFailed { repo: String, line: String },
    #[error(
        "the host key of {host} is not pinned; compare its fingerprint with the published one, then: {pin_command}"
    )]
    HostKeyUnpinned { host: String, pin_command: String },
    #[error("{host} shows another host key than the pinned one ({line}); if the change is announced, correct {}", known_hosts_file.display())]
    HostKeyChanged { host: String, line: String, known_hosts_file: PathBuf },
    #[error("{repo} sent objects that git's checks refuse ({line}); repair its history with `git fsck`")]
    ObjectsRefused { repo: String, line: String },
    #[error("no space left while {operation}; free some on the file system of {}", path.display())]
    DiskFull { operation: &'static str, path: PathBuf },
    #[error("{operation} of {repo} took longer than {} s and was ended; check the connection to the repository", after.as_secs())]
    Timeout { operation: &'static str, repo: String, after: Duration },
    #[error("git printed more than {bytes_max} bytes for {operation} of {repo}; the repository is too large")]
    TooMuchOutput { operation: &'static str, repo: String, bytes_max: u64 },
    #[error("git failed at {operation} of {repo}: {line}")]
    GitFailed { operation: &'static str, repo: String, line: String },

    #[error("key name `{name}` must be 1 to 63 of a-z, 0-9 and `-`")]
    BadKeyName { name: String },
    #[error("key {} exists and is never overwritten; choose another name or remove it", path.display())]
    KeyExists { path: PathBuf },
    #[error("cannot start ssh-keygen; install the OpenSSH client")]
    KeygenMissing {
        #[source]
        source: Arc<io::Error>,
    },
    #[error("ssh-keygen failed: {line}")]
    KeygenFailed { line: String },
    #[error("this is not a host key line: {rule}")]
    BadHostKey { rule: &'static str },
    #[error("another {algorithm} key is pinned for {host} in {}; remove that line first if the change is announced", path.display())]
    HostKeyConflict { host: String, algorithm: String, path: PathBuf },

    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("this program is stopping; {operation} was not finished")]
    Stopping { operation: &'static str },
}

impl Error {
    /// For `map_err`: a failed file operation, with a full disk told apart.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { operation, path },
            _ => Self::Io { operation, path, source: Arc::new(source) },
        }
    }
}
