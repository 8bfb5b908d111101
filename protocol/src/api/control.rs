//! How a host stands with its control server. Its keys are nowhere here.

use serde::{Deserialize, Serialize};

use crate::control::ids::{HostId, StackId};
use crate::control::report::{OutboxReport, Refusal};
use crate::ids::Version;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlStatus {
    pub url: String,
    pub stack: StackId,
    pub stack_name: String,
    pub host: HostId,
    pub name: String,
    pub link: ControlLink,
    pub since_unix_ms: u64,
    /// When the server last answered; `None`: never since the agent started.
    pub last_answer_unix_ms: Option<u64>,
    /// Newest version that was verified.
    pub newest: Option<Version>,
    pub applied: Option<Version>,
    /// Until when the server has said that `newest` is current; later than that it is stale, and stays in force.
    pub fresh_until_unix_ms: Option<u64>,
    pub refused: Option<Refusal>,
    /// A newer version that the server asks hosts not to take yet.
    #[serde(default)]
    pub held: Option<Version>,
    pub outbox: OutboxReport,
    /// Server's clock less the host's.
    pub clock_skew_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlLink {
    /// Not asked yet since the agent started.
    Connecting,
    Connected,
    /// No answer, or one that says "later".
    Offline {
        cause: String,
    },
    /// The server does not take this host's reports: revoked, forgotten, or two hosts with one key.
    Refused {
        cause: String,
    },
}
