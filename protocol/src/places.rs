//! Where one agent keeps its things: all below one folder, or where a system service has them (file-hierarchy(7)).

use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub layout: Layout,
    /// `agentd.toml`, `policy.toml`, keys; in a system also the stack file.
    pub settings_dir: PathBuf,
    /// Database, mirrors, releases, data.
    pub state_dir: PathBuf,
    /// Sockets, and what a restart of the machine may forget.
    pub run_dir: PathBuf,
    pub log_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Everything below one folder, high ports, no firewall.
    Home,
    /// The agent of the machine.
    System,
}

impl Places {
    pub fn below(home: &Path) -> Self {
        Self {
            layout: Layout::Home,
            settings_dir: home.to_owned(),
            state_dir: home.join("state"),
            run_dir: home.join("run"),
            log_dir: home.join("log"),
        }
    }

    pub fn system() -> Self {
        Self {
            layout: Layout::System,
            settings_dir: "/etc/agentd".into(),
            state_dir: "/var/lib/agentd".into(),
            run_dir: "/run/agentd".into(),
            log_dir: "/var/log/agentd".into(),
        }
    }

    /// Read when no other is named; in a system alone.
    pub fn stack_file(&self) -> PathBuf {
        self.settings_dir.join("stack.toml")
    }

    /// What a person is told: the home, or that it is the machine's own.
    pub fn shown(&self) -> String {
        match self.layout {
            Layout::Home => self.settings_dir.display().to_string(),
            Layout::System => "this system".to_owned(),
        }
    }
}
