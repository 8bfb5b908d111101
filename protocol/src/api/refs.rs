//! `POST /v1/refs`: what branches and tags point at now, asked with the credentials of the host.

use serde::{Deserialize, Serialize};

use crate::ids::Commit;

/// Most questions of one call: as many as a stack may have services.
pub const REFS_MAX: usize = 2_000;

/// As an entry of a stack file says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RefQuestion {
    pub repo: String,
    /// Name of a credential in the host's settings.
    pub git_auth: Option<String>,
    pub reference: String,
}

/// Why there is no commit is a sentence for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefAnswer {
    Commit(Commit),
    Unresolved(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefQuestions {
    pub questions: Vec<RefQuestion>,
}

/// One answer for each question, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefAnswers {
    pub answers: Vec<RefAnswer>,
}
