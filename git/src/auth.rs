//! How git proves who we are. Secrets stay in their files: git's environment names the files, its askpass script or ssh
//! reads them.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::Uid;

use crate::error::Error;
use crate::remote::{Remote, Transport};

/// A credential of the host's settings; both kinds name a file of mode 0600.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    SshKey {
        host: String,
        key_file: PathBuf,
    },
    /// The file's first line is the token.
    Token {
        host: String,
        token_file: PathBuf,
    },
}

/// User name beside a token when the address names none: forges look at the token only.
const TOKEN_USER: &str = "x-access-token";

/// Answers git's two questions for the one host the token is for, and no other: a redirect asks with another host.
pub(crate) const ASKPASS_SCRIPT: &str = r#"#!/bin/sh
case "$1" in
"Username for 'https://$AGENTD_GIT_HOST': ") printf '%s\n' "$AGENTD_GIT_USER" ;;
"Password for 'https://$AGENTD_GIT_USER@$AGENTD_GIT_HOST': ")
    IFS= read -r token <"$AGENTD_GIT_TOKEN_FILE" || [ -n "$token" ] || exit 1
    printf '%s\n' "$token" ;;
*) exit 1 ;;
esac
"#;

/// Seconds until a TCP connection counts as failed, and between signs of life.
const SSH_CONNECT_S: u32 = 15;
const SSH_ALIVE_S: u32 = 15;

/// Files outside the credential that authentication needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    pub(crate) askpass_path: &'a Path,
    pub(crate) known_hosts_file: &'a Path,
}

/// The variables that let git reach `remote` with a credential, which comes with its name.
pub(crate) fn environment(
    remote: &Remote,
    credential: Option<(&str, &Credential)>,
    places: Places<'_>,
) -> Result<Vec<(&'static str, OsString)>, Error> {
    if let Some((name, credential)) = credential {
        check_host(remote, name, credential)?;
        check_file(credential.file())?;
    }
    let credential = credential.map(|(_, credential)| credential);
    match (&remote.transport, credential) {
        (Transport::Https { user, .. }, Some(Credential::Token { token_file, .. })) => Ok(vec![
            ("GIT_ASKPASS", places.askpass_path.into()),
            ("AGENTD_GIT_HOST", remote.host_shown().into()),
            ("AGENTD_GIT_USER", user.as_deref().unwrap_or(TOKEN_USER).into()),
            ("AGENTD_GIT_TOKEN_FILE", token_file.into()),
        ]),
        // Without a token the user name may itself be one.
        (Transport::Https { user: Some(_), host, .. }, _) => Err(Error::SecretInAddress { host: host.clone() }),
        (Transport::Ssh { .. }, Some(Credential::SshKey { key_file, .. })) => {
            Ok(ssh_environment(Some(key_file), places.known_hosts_file))
        }
        (Transport::Ssh { .. }, _) => Ok(ssh_environment(None, places.known_hosts_file)),
        (Transport::Https { user: None, .. } | Transport::File { .. }, _) => Ok(Vec::new()),
    }
}

impl Credential {
    /// Where the secret is.
    pub fn file(&self) -> &Path {
        match self {
            Self::SshKey { key_file, .. } => key_file,
            Self::Token { token_file, .. } => token_file,
        }
    }

    fn place(&self) -> (&'static str, &str) {
        match self {
            Self::SshKey { host, .. } => ("ssh", host),
            Self::Token { host, .. } => ("https", host),
        }
    }

    /// Whether it is meant for the repository's server.
    pub(crate) fn fits(&self, remote: &Remote) -> bool {
        let (scheme, host) = self.place();
        scheme == remote.scheme() && remote.is_at(host)
    }
}

fn check_host(remote: &Remote, name: &str, credential: &Credential) -> Result<(), Error> {
    if credential.fits(remote) {
        return Ok(());
    }
    let (scheme, host) = credential.place();
    Err(Error::CredentialForOtherHost {
        name: name.to_owned(),
        expected: format!("{scheme}://{host}"),
        found: format!("{}://{}", remote.scheme(), remote.host_shown()),
    })
}

/// A secret that others can read, or could have put there, is refused before it is used.
fn check_file(path: &Path) -> Result<(), Error> {
    let unreadable = |source| Error::CredentialUnreadable { path: path.to_owned(), source: Arc::new(source) };
    let metadata = File::open(path).and_then(|file| file.metadata()).map_err(unreadable)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(Error::CredentialExposed { path: path.to_owned(), mode: metadata.mode() & 0o777 });
    }
    if metadata.uid() != 0 && metadata.uid() != Uid::effective().as_raw() {
        return Err(Error::CredentialForeign { path: path.to_owned(), uid: metadata.uid() });
    }
    Ok(())
}

fn ssh_environment(key_file: Option<&Path>, known_hosts_file: &Path) -> Vec<(&'static str, OsString)> {
    // `none` keeps ssh from the keys in the home folder of the user it runs as.
    let identity = key_file.map_or_else(|| "none".to_owned(), ssh_value);
    let options = [
        "BatchMode=yes".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        "IdentityAgent=none".to_owned(),
        format!("IdentityFile={identity}"),
        "PreferredAuthentications=publickey".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        format!("UserKnownHostsFile={}", ssh_value(known_hosts_file)),
        "GlobalKnownHostsFile=none".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        format!("ConnectTimeout={SSH_CONNECT_S}"),
        format!("ServerAliveInterval={SSH_ALIVE_S}"),
        "ServerAliveCountMax=4".to_owned(),
        "ControlMaster=no".to_owned(),
        "ControlPath=none".to_owned(),
        "ForwardAgent=no".to_owned(),
        "ClearAllForwardings=yes".to_owned(),
        "LogLevel=ERROR".to_owned(),
    ];
    let command = options
        .iter()
        .fold("ssh -F none".to_owned(), |command, option| format!("{command} -o {}", shell_quoted(option)));
    vec![("GIT_SSH_COMMAND", command.into()), ("GIT_SSH_VARIANT", "ssh".into())]
}

/// A path as a value of ssh_config(5): quoted for its spaces, `%` doubled since it starts a token there.
fn ssh_value(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

/// One word for sh(1), which git runs GIT_SSH_COMMAND with.
fn shell_quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    fn places() -> Places<'static> {
        Places { askpass_path: Path::new("/h/askpass"), known_hosts_file: Path::new("/h/known_hosts") }
    }

    fn secret(dir: &Path, mode: u32) -> PathBuf {
        let path = dir.join("secret");
        std::fs::write(&path, "hunter2\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_credential_is_checked_before_use() {
        let dir = tempfile::tempdir().unwrap();
        let https = Remote::parse("https://h/x").unwrap();
        let token = |mode| Credential::Token { host: "h".to_owned(), token_file: secret(dir.path(), mode) };
        let ask = |remote: &Remote, credential: &_| environment(remote, Some(("shop", credential)), places());

        assert!(ask(&https, &token(0o600)).is_ok());
        assert!(matches!(ask(&https, &token(0o640)), Err(Error::CredentialExposed { mode: 0o640, .. })));
        for other in ["https://evil/x", "ssh://git@h/x", "file:///x", "https://h:8443/x"] {
            let remote = Remote::parse(other).unwrap();
            assert!(matches!(ask(&remote, &token(0o600)), Err(Error::CredentialForOtherHost { .. })), "{other}");
        }
        std::fs::remove_file(dir.path().join("secret")).unwrap();
        let gone = Credential::Token { host: "h".to_owned(), token_file: dir.path().join("secret") };
        assert!(matches!(ask(&https, &gone), Err(Error::CredentialUnreadable { .. })));
    }

    #[test]
    fn a_user_name_without_a_token_is_refused() {
        let remote = Remote::parse("https://ghp_looksLikeAToken@h/x").unwrap();
        let refused = environment(&remote, None, places()).unwrap_err();
        assert!(matches!(refused, Error::SecretInAddress { .. }));
        assert!(!refused.to_string().contains("ghp_"));
    }

    #[test]
    fn the_script_answers_for_its_host_only() {
        let dir = tempfile::tempdir().unwrap();
        let token_path = secret(dir.path(), 0o600);
        let ask = |prompt: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", ASKPASS_SCRIPT, "askpass", prompt]).env_clear();
            command.env("AGENTD_GIT_HOST", "h:8443").env("AGENTD_GIT_USER", "bot");
            let output = command.env("AGENTD_GIT_TOKEN_FILE", &token_path).output().unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        };
        assert_eq!(ask("Username for 'https://h:8443': ").as_deref(), Some("bot\n"));
        assert_eq!(ask("Password for 'https://bot@h:8443': ").as_deref(), Some("hunter2\n"));
        for prompt in [
            "Password for 'https://bot@evil': ",
            "Password for 'https://h:8443@evil': ",
            "Password for 'http://bot@h:8443': ",
            "Password for 'https://bot@h:8443.evil': ",
            "Enter passphrase for key '/x': ",
            "",
        ] {
            assert_eq!(ask(prompt), None, "{prompt}");
        }
    }

    /// ssh itself says how it reads our options (`-G` prints and ends).
    #[test]
    fn ssh_reads_the_options_as_meant() {
        let key_path = Path::new("/keys/it's 100%/id");
        let environment = ssh_environment(Some(key_path), places().known_hosts_file);
        let command = environment[0].1.to_str().unwrap();
        let output = Command::new("/bin/sh").args(["-c", &format!("{command} -G git@h")]).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        for line in [
            "batchmode yes",
            "identitiesonly yes",
            "stricthostkeychecking true",
            "identityfile /keys/it's 100%%/id",
            "userknownhostsfile /h/known_hosts",
            "globalknownhostsfile none",
            "identityagent none",
        ] {
            assert!(shown.lines().any(|found| found == line), "`{line}` not in:\n{shown}");
        }
    }
}
