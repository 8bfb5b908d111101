//! Who asks: one git, one folder, one set of credentials, and a bound on the conversations at one time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::ids::Commit;
use agentd_sys::files::{Durability, make_dir, write_atomic};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::auth::{ASKPASS_SCRIPT, Credential, Places, environment};
use crate::call::{Call, Git, SHORT_OUTPUT_BYTES_MAX, is_new_enough, words};
use crate::command::{Finished, first_line_blocking, shown};
use crate::error::Error;
use crate::remote::{Remote, is_reference};

/// Programs that only print their version.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);
/// One question to a server, DNS and handshake included.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(60);
/// Conversations with servers at one time: a stack of hundreds of repositories must not start hundreds of gits.
const CONVERSATIONS_MAX: usize = 4;

#[derive(Debug, Clone)]
pub struct Config {
    /// `git`, looked up in PATH, but for tests.
    pub git_program: PathBuf,
    /// Made where it is missing, 0700.
    pub state_dir: PathBuf,
    /// By the name a service gives as `git_auth`.
    pub credentials: BTreeMap<String, Credential>,
    pub known_hosts_file: PathBuf,
    /// The file credentials are written in, as an error names it to the operator.
    pub settings_name: &'static str,
}

/// Shared behind an `Arc`; dropped, nothing is left running.
#[derive(Debug)]
pub struct Asker {
    git: Git,
    credentials: BTreeMap<String, Credential>,
    settings_name: &'static str,
    conversations: Semaphore,
}

impl Asker {
    /// Makes the folders and asks git for its version. Blocking: for start-up.
    pub fn new(config: Config) -> Result<Self, Error> {
        let Config { git_program, state_dir, credentials, known_hosts_file, settings_name } = config;
        let found = first_line_blocking(&git_program, "--version", VERSION_DEADLINE)
            .map_err(|source| Error::GitMissing { program: git_program.clone(), source: Arc::new(source) })?;
        if !is_new_enough(&found) {
            return Err(Error::GitTooOld { program: shown(&git_program), found });
        }
        let git = Git { program: git_program, state_dir, known_hosts_file };
        for dir in [git.state_dir.clone(), git.home_dir()] {
            make_dir(&dir, 0o700).map_err(Error::io("make folder", &dir))?;
        }
        let askpass_path = git.askpass_path();
        write_atomic(&askpass_path, ASKPASS_SCRIPT.as_bytes(), 0o700, Durability::Crash)
            .map_err(Error::io("write", &askpass_path))?;
        Ok(Self { git, credentials, settings_name, conversations: Semaphore::new(CONVERSATIONS_MAX) })
    }

    /// The commit a branch, else a tag, or a full name (`refs/...`, `HEAD`) means on the server now. Annotated tags are
    /// followed to their commit.
    pub async fn resolve(&self, repo: &str, auth: Option<&str>, reference: &str) -> Result<Commit, Error> {
        if !is_reference(reference) {
            return Err(Error::BadReference { reference: reference.to_owned() });
        }
        let remote = Remote::parse(repo)?;
        let env = self.access(&remote, auth)?;
        self.ensure_config(&remote)?;
        let names = candidates(reference);
        let mut args = words(["ls-remote", "--quiet", "--", &remote.url]);
        args.extend(names.iter().map(OsString::from));
        let _permit = self.converse("resolve").await?;
        let call = Call {
            operation: "resolve",
            remote: &remote,
            args,
            env,
            lock: None,
            stdout_bytes_max: SHORT_OUTPUT_BYTES_MAX,
            deadline: RESOLVE_DEADLINE,
        };
        let finished = self.run(call).await?;
        if !finished.success {
            return Err(self.failure("resolve", &remote, &finished.stderr));
        }
        pick(&String::from_utf8_lossy(&finished.stdout), &names)
            .ok_or_else(|| Error::ReferenceMissing { repo: remote.shown(), reference: reference.to_owned() })
    }

    /// Name of the credential that is meant for the repository's host, for those who choose by host: the first by name.
    pub fn credential_for(&self, repo: &str) -> Result<Option<&str>, Error> {
        let remote = Remote::parse(repo)?;
        let fitting = self.credentials.iter().find(|(_, credential)| credential.fits(&remote));
        Ok(fitting.map(|(name, _)| name.as_str()))
    }

    pub fn state_dir(&self) -> &Path {
        &self.git.state_dir
    }

    /// The variables that let a call reach `remote` with the credential named `auth`.
    pub fn access(&self, remote: &Remote, auth: Option<&str>) -> Result<Vec<(&'static str, OsString)>, Error> {
        let credential = match auth {
            Some(name) => {
                let unknown = || Error::CredentialUnknown { name: name.to_owned(), settings_name: self.settings_name };
                Some((name, self.credentials.get(name).ok_or_else(unknown)?))
            }
            None => None,
        };
        let askpass_path = self.git.askpass_path();
        let places = Places { askpass_path: &askpass_path, known_hosts_file: &self.git.known_hosts_file };
        environment(remote, credential, places)
    }

    /// A turn to talk to a server; held for the whole conversation.
    pub async fn converse(&self, operation: &'static str) -> Result<SemaphorePermit<'_>, Error> {
        // Nobody closes the semaphore but the end of the process.
        self.conversations.acquire().await.map_err(|_closed| Error::Stopping { operation })
    }

    /// Writes the repository's git configuration where it is not yet there.
    pub fn ensure_config(&self, remote: &Remote) -> Result<(), Error> {
        let path = self.git.config_path(remote);
        if path.exists() {
            return Ok(());
        }
        write_atomic(&path, Git::config_text(remote).as_bytes(), 0o600, Durability::Crash)
            .map_err(Error::io("write", &path))
    }

    /// Runs one call; a failure of git itself is in the result.
    pub async fn run(&self, call: Call<'_>) -> Result<Finished, Error> {
        self.git.run(call).await
    }

    /// What git's complaint means, seen from the operation that met it.
    pub fn failure(&self, operation: &'static str, remote: &Remote, stderr: &str) -> Error {
        self.git.failure(operation, remote, stderr)
    }
}

/// Full names a person may mean, best first; `^{}` is the commit behind an annotated tag.
fn candidates(reference: &str) -> Vec<String> {
    if reference == "HEAD" || reference.starts_with("refs/") {
        return vec![format!("{reference}^{{}}"), reference.to_owned()];
    }
    vec![format!("refs/heads/{reference}"), format!("refs/tags/{reference}^{{}}"), format!("refs/tags/{reference}")]
}

/// The first of `names` that the listing (`<id>\t<name>` lines) has. ls-remote matches by tail, so names are compared.
fn pick(listing: &str, names: &[String]) -> Option<Commit> {
    let found = |name: &String| {
        let ids = listing.lines().filter_map(|line| line.split_once('\t'));
        ids.filter(|(_, listed)| listed == name).find_map(|(id, _)| Commit::new(id).ok())
    };
    names.iter().find_map(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_come_before_tags_and_tags_are_followed() {
        let (a, b, c) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
        let names = candidates("v1");
        let tags = format!("{a}\trefs/tags/v1\n{b}\trefs/tags/v1^{{}}\n{c}\trefs/heads/x/refs/heads/v1\n");
        assert_eq!(pick(&tags, &names).unwrap().as_str(), b);
        let both = format!("{tags}{c}\trefs/heads/v1\n");
        assert_eq!(pick(&both, &names).unwrap().as_str(), c);
        assert_eq!(pick("", &names), None);
        assert_eq!(pick("garbage\n", &names), None);
    }
}
