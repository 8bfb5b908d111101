//! A room in a temporary folder and small repositories beside it, for tests.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use agentd_protocol::ids::Commit;

use super::{Config, Credential, Source};

#[derive(Debug)]
pub(super) struct Room {
    pub(super) dir: tempfile::TempDir,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn config(&self, auth: BTreeMap<String, Credential>) -> Config {
        Config {
            git_dir: self.path("git"),
            services_dir: self.path("services"),
            auth,
            known_hosts_file: self.path("known_hosts"),
            git_keys_dir: self.path("keys"),
            git_program: "git".into(),
        }
    }

    pub(super) fn source(&self) -> Source {
        Source::new(self.config(BTreeMap::new())).unwrap()
    }

    /// A source whose git is a script. `$LOG` is a file it may write to, `$REAL` the real git.
    pub(super) fn source_with_git(&self, script: &str, auth: BTreeMap<String, Credential>) -> Source {
        let program = self.path("fake-git");
        let log = self.path("log");
        let text = format!("#!/bin/sh\nLOG='{}'\nREAL=git\n{script}\n", log.display());
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Source::new(Config { git_program: program, ..self.config(auth) }).unwrap()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(super) fn repository(&self, name: &str) -> Repository {
        let dir = self.path(name);
        std::fs::create_dir(&dir).unwrap();
        let repository = Repository { dir };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }
}

#[derive(Debug)]
pub(super) struct Repository {
    dir: PathBuf,
}

impl Repository {
    pub(super) fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn git(&self, args: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(args).current_dir(&self.dir);
        for (name, value) in [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_AUTHOR_NAME", "a"),
            ("GIT_AUTHOR_EMAIL", "a@example.com"),
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@example.com"),
        ] {
            command.env(name, value);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Commits all that was written.
    pub(super) fn commit(&self, message: &str) -> Commit {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.head()
    }

    pub(super) fn head(&self) -> Commit {
        Commit::new(self.git(&["rev-parse", "HEAD"])).unwrap()
    }
}

/// All names below a folder, sorted, relative.
pub(super) fn names_below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(root).unwrap().display().to_string());
            if path.is_dir() && !path.is_symlink() {
                dirs.push(path);
            }
        }
    }
    found.sort();
    found
}
