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
    /// Where the server has forgotten this host: how it stands with being taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readoption: Option<Readoption>,
}

/// Being taken back by a server that does not know this host any more, as after the restore of an older backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readoption {
    /// It is asked for soon.
    Due,
    /// A person there has to say yes; the code is the same on both sides.
    Pending { code: String },
    /// It is asked for again later.
    Denied { cause: String },
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
