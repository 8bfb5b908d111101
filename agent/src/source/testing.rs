//! A room in a temporary folder, with small repositories beside it, for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agentd_git::testing::Repository;

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
        let git_program = agentd_git::testing::script(self.dir.path(), script);
        Source::new(Config { git_program, ..self.config(auth) }).unwrap()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(super) fn repository(&self, name: &str) -> Repository {
        Repository::make(self.path(name))
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
