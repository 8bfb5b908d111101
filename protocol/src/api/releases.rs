//! `GET /v1/services/NAME/releases`

use serde::{Deserialize, Serialize};

use crate::ids::{Commit, ReleaseNumber, ServiceName};

/// What is kept of a service, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Releases {
    pub service: ServiceName,
    pub releases: Vec<ReleaseStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseStatus {
    pub release: ReleaseNumber,
    pub commit: Commit,
    pub state: ReleaseState,
    /// Set by a rollback: held whatever the document says.
    pub pinned: bool,
    pub created_unix_ms: u64,
    pub built_unix_ms: Option<u64>,
    /// How long its build took; `None` when nothing was built for it, or it is not built yet.
    pub took_ms: Option<u64>,
    /// Why it failed, in a sentence.
    pub failure: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseState {
    /// Serves, or did when the service was stopped.
    Active,
    /// On disk; a rollback can go there.
    Built,
    Building,
    /// Never finished; only the reason is kept.
    Failed,
}
