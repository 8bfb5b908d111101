//! Why something failed: what a person would look for in logs, documents and history, found for them.

use serde::{Deserialize, Serialize};

use crate::ids::{Commit, ReleaseNumber};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ProgramExit>,
    /// What the lines mean and what to do about it, in a sentence; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meaning: Option<String>,
    /// The lines that matter, in the order in which they were written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_lines: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    /// Commands worth trying next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProgramExit {
    Code {
        code: u8,
    },
    Signal {
        /// `SIGSEGV`
        name: String,
        core_dumped: bool,
    },
    NotExecuted {
        error: String,
    },
    /// It took longer than it may.
    TimeLimit,
    /// Nobody was there to see.
    Unknown,
}

/// From the last release that was good to the one that is not. Of variables the names alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    pub since: ReleaseNumber,
    pub from: Commit,
    pub to: Commit,
    /// `1234567 subject`, newest first.
    pub commits: Vec<String>,
    /// Whether there are commits beyond those.
    pub more_commits: bool,
    /// Keys of the service's entry.
    pub keys: Vec<String>,
    pub env_added: Vec<String>,
    pub env_removed: Vec<String>,
    pub env_changed: Vec<String>,
}
