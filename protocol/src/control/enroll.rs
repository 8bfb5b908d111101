//! `POST /v1/enroll`: a host asks to be taken in. Signed by the token's key and by the host's own; or, where the server has
//! forgotten the host, by the host's own alone, with the receipt of then.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::dsse::Envelope;
use super::ids::{HostId, StackId};
use super::key::PublicKey;
use super::statement::Endpoints;
use super::time::Time;
use crate::digest::Digest;

pub const RECEIPT_TYPE: &str = "application/vnd.agentd.receipt.v1+json";
/// Of a host's name, bytes.
pub const NAME_BYTES_MAX: usize = 63;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enroll {
    pub stack: StackId,
    /// The host's own, made there.
    pub key: PublicKey,
    /// Wished for; the host's name at first.
    pub name: String,
    /// SHA-256 of stack id and machine-id(5): the same machine is seen to be the same, and no other stack learns which.
    pub machine: Digest,
    pub os: String,
    pub arch: String,
    /// The agent's version.
    pub agent: String,
    pub cap: u32,
    #[serde(default)]
    pub features: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Of the enrolment that the server has forgotten; answered 202 until a person has said yes, since that the host was
    /// revoked may have been forgotten too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Envelope>,
}

/// 201, or 200 for a key that was enrolled before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    pub host: HostId,
    pub name: String,
    /// What the stack is called.
    pub stack_name: String,
    /// A [`Receipt`], signed by the online key: proof towards a server that has forgotten the host.
    pub receipt: Envelope,
    /// From root 1 on.
    pub roots: Vec<Envelope>,
    pub endpoints: Endpoints,
    pub report: Pace,
    pub time: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub host: HostId,
    pub key: PublicKey,
    pub stack: StackId,
    pub issued: Time,
}

/// How often a host says how it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Between reports that are not held, seconds.
    pub interval_s: u64,
    /// How long the server holds a report, seconds; 0: it does not.
    pub hold_s: u64,
    /// After a restart of the server, hosts come back within that time, evenly, seconds.
    #[serde(default)]
    pub spread_s: u64,
}

/// 202: a person has to say yes; the host asks again, with the same key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// `pending`
    pub status: String,
    /// Shown on both sides, to be compared: `WXQR-4821`.
    pub code: String,
    pub retry_s: u64,
    pub time: Time,
}
