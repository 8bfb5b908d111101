//! The crate against real git and local repositories; no network.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::testing::{Repository, script};
use crate::{Asker, Config, Credential, Error};

#[derive(Debug)]
struct Room {
    dir: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, credentials: BTreeMap<String, Credential>) -> Config {
        Config {
            git_program: "git".into(),
            state_dir: self.path("state"),
            credentials,
            known_hosts_file: self.path("known_hosts"),
            settings_name: "settings.toml",
        }
    }

    fn asker(&self) -> Asker {
        Asker::new(self.config(BTreeMap::new())).unwrap()
    }

    /// An asker whose git is a script. `$LOG` is a file it may write to, `$REAL` the real git.
    fn asker_with_git(&self, text: &str, credentials: BTreeMap<String, Credential>) -> Asker {
        let git_program = script(self.dir.path(), text);
        Asker::new(Config { git_program, ..self.config(credentials) }).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn repository(&self, name: &str) -> Repository {
        Repository::make(self.path(name))
    }
}

#[tokio::test]
async fn what_does_not_answer_is_unreachable() {
    let room = Room::new();
    let asker = room.asker();
    // Nothing listens on port 1.
    for repo in ["https://127.0.0.1:1/x", "ssh://git@127.0.0.1:1/x"] {
        let unreachable = asker.resolve(repo, None, "main").await;
        assert!(matches!(unreachable, Err(Error::Unreachable { .. })), "{unreachable:?}");
    }
}

#[tokio::test]
async fn a_credential_is_found_by_name_or_by_host() {
    let room = Room::new();
    let token = |host: &str| Credential::Token { host: host.to_owned(), token_file: room.path("token") };
    let credentials = BTreeMap::from([("shop".to_owned(), token("h.example")), ("x".to_owned(), token("other"))]);
    let asker = Asker::new(room.config(credentials)).unwrap();
    assert_eq!(asker.credential_for("https://h.example/a").unwrap(), Some("shop"));
    assert_eq!(asker.credential_for("ssh://git@h.example/a").unwrap(), None, "a token is no key");
    assert_eq!(asker.credential_for("https://elsewhere/a").unwrap(), None);
    let unknown = asker.resolve("https://h.example/a", Some("nope"), "main").await.unwrap_err();
    assert!(unknown.to_string().contains("add it to settings.toml"), "{unknown}");
}

#[tokio::test]
async fn names_resolve_to_commits() {
    let room = Room::new();
    let repository = room.repository("origin");
    let first = repository.commit("first");
    repository.git(&["tag", "light"]);
    repository.git(&["tag", "--annotate", "-m", "x", "v1"]);
    let second = repository.commit("second");
    repository.git(&["branch", "decoy/main", first.as_str()]);
    repository.git(&["tag", "main", first.as_str()]);
    let asker = room.asker();
    for (name, commit) in [
        ("main", &second),
        ("HEAD", &second),
        ("refs/heads/main", &second),
        ("refs/tags/main", &first),
        ("light", &first),
        ("v1", &first),
        ("refs/tags/v1", &first),
        ("decoy/main", &first),
    ] {
        assert_eq!(&asker.resolve(&repository.url(), None, name).await.unwrap(), commit, "{name}");
    }
    let missing = asker.resolve(&repository.url(), None, "nope").await;
    assert!(matches!(missing, Err(Error::ReferenceMissing { .. })), "{missing:?}");
    for hostile in ["--upload-pack=/bin/false", "-x", "a b", "*"] {
        let refused = asker.resolve(&repository.url(), None, hostile).await;
        assert!(matches!(refused, Err(Error::BadReference { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn a_token_reaches_neither_arguments_nor_environment_nor_files() {
    const SPY: &str = r#"[ "$1" = --version ] && exec "$REAL" "$@"
{ echo "$@"; env; echo "user: $("$GIT_ASKPASS" "Username for 'https://h.example': ")"; } >>"$LOG"
"$GIT_ASKPASS" "Password for 'https://x-access-token@h.example': " >>"$LOG.answer"
echo "fatal: Authentication failed for 'https://x:hunter2@h.example/x/'" >&2; exit 128"#;
    let room = Room::new();
    let token_file = room.path("token");
    std::fs::write(&token_file, "hunter2").unwrap();
    std::fs::set_permissions(&token_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let auth = BTreeMap::from([("shop".to_owned(), Credential::Token { host: "h.example".to_owned(), token_file })]);
    let asker = room.asker_with_git(SPY, auth);
    let refused = asker.resolve("https://h.example/x", Some("shop"), "main").await.unwrap_err();
    assert!(matches!(refused, Error::AuthenticationFailed { .. }), "{refused:?}");
    assert_eq!(std::fs::read_to_string(room.path("log.answer")).unwrap(), "hunter2\n");
    assert!(room.log().contains("user: x-access-token"), "{}", room.log());
    assert!(!room.log().contains("hunter2"), "{}", room.log());
    assert!(!format!("{refused} {refused:?}").contains("hunter2"), "{refused:?}");
    for dir in ["state", "state/home"] {
        for entry in std::fs::read_dir(room.path(dir)).unwrap() {
            let path = entry.unwrap().path();
            assert!(
                path.is_dir() || !String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains("hunter2"),
                "{path:?}"
            );
        }
    }
    let elsewhere = asker.resolve("https://evil.example/x", Some("shop"), "main").await;
    assert!(matches!(elsewhere, Err(Error::CredentialForOtherHost { .. })), "{elsewhere:?}");
}

/// The host's own configuration would change what git does; none of it is read, and the environment is ours.
#[tokio::test]
async fn git_sees_our_settings_only() {
    let room = Room::new();
    let spy = r#"[ "$1" = --version ] && exec "$REAL" "$@"
env >>"$LOG"; exec "$REAL" "$@""#;
    let repository = room.repository("origin");
    repository.commit("first");
    room.asker_with_git(spy, BTreeMap::new()).resolve(&repository.url(), None, "main").await.unwrap();
    let log = room.log();
    let home = format!("HOME={}", room.path("state/home").display());
    for line in [home.as_str(), "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C"] {
        assert!(log.lines().any(|found| found == line), "`{line}` not in:\n{log}");
    }
    assert!(!log.contains("CARGO"), "{log}");
}

#[tokio::test]
async fn a_git_that_is_missing_or_old_is_told_at_start() {
    let room = Room::new();
    let missing = Asker::new(Config { git_program: "/nonexistent/git".into(), ..room.config(BTreeMap::new()) });
    assert!(matches!(missing, Err(Error::GitMissing { .. })), "{missing:?}");
    let program = room.path("old-git");
    std::fs::write(&program, "#!/bin/sh\necho git version 2.20.1\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let old = Asker::new(Config { git_program: program, ..room.config(BTreeMap::new()) });
    assert!(matches!(old, Err(Error::GitTooOld { .. })), "{old:?}");
}
