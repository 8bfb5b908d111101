//! The three signed documents: the root of a stack's trust, a version, and that a version is current.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::StackId;
use super::key::PublicKey;
use super::time::Time;
use crate::digest::Digest;
use crate::ids::Version;

pub const ROOT_TYPE: &str = "application/vnd.agentd.root.v1+json";
pub const VERSION_TYPE: &str = "application/vnd.agentd.version.v1+json";
pub const FRESH_TYPE: &str = "application/vnd.agentd.fresh.v1+json";

/// How long a [`Fresh`] holds when the server issues one, and after which part of that it issues the next.
pub const FRESH_SECS: i64 = 24 * 3600;
pub const FRESH_RENEW_SECS: i64 = 6 * 3600;

/// Who may say what about a stack. Number n+1 is signed by the root keys of n and by its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub stack: StackId,
    /// Of the root itself; from 1.
    pub version: u64,
    /// When it grows, versions count anew: the way back after a stolen key or a lost database.
    pub epoch: u64,
    pub mode: TrustMode,
    pub expires: Time,
    /// By key id.
    pub keys: BTreeMap<String, RootKey>,
    pub threshold: Thresholds,
}

/// Who holds the key that signs versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustMode {
    /// The control server.
    Managed,
    /// Somebody else: such stacks come with later servers, and hosts know them already.
    Locked,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootKey {
    /// Keys of an algorithm that is not known are not used.
    pub alg: String,
    /// The key as text without its algorithm: base64.
    #[serde(rename = "pub")]
    pub public: String,
    pub roles: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    pub root: usize,
    pub version: usize,
    pub fresh: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Root,
    Version,
    Fresh,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Version => "version",
            Self::Fresh => "fresh",
        }
    }
}

impl RootKey {
    pub fn of(public: &PublicKey, roles: &[Role]) -> Self {
        let text = public.to_string();
        let (alg, encoded) = text.split_once(':').expect("a key's text has its algorithm first");
        let roles = roles.iter().map(|role| role.as_str().to_owned()).collect();
        Self { alg: alg.to_owned(), public: encoded.to_owned(), roles }
    }

    fn key(&self) -> Option<PublicKey> {
        format!("{}:{}", self.alg, self.public).parse().ok()
    }
}

impl Root {
    /// The keys of a role that can be used.
    pub fn keys_of(&self, role: Role) -> Vec<PublicKey> {
        let has_role = |key: &&RootKey| key.roles.iter().any(|name| name == role.as_str());
        self.keys.values().filter(has_role).filter_map(RootKey::key).collect()
    }

    pub fn threshold_of(&self, role: Role) -> usize {
        match role {
            Role::Root => self.threshold.root,
            Role::Version => self.threshold.version,
            Role::Fresh => self.threshold.fresh,
        }
    }
}

/// "Version V of stack S is the object H."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionStatement {
    pub stack: StackId,
    pub epoch: u64,
    pub version: Version,
    pub state: ObjectRef,
    /// SHA-256 of the payload of the version before; zeros for the first.
    pub prev: Digest,
    pub created: Time,
    /// Features without which a host must not apply it.
    #[serde(default)]
    pub requires: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub sha256: Digest,
    pub size: u64,
}

/// For people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// `deploy` or `rollback`.
    pub kind: String,
    /// The version whose content came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Version>,
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// "That version is current until then."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fresh {
    pub stack: StackId,
    /// SHA-256 of the payload of the version's statement.
    pub statement: Digest,
    pub version: Version,
    /// The newest root when it was issued.
    pub root: u64,
    pub issued: Time,
    pub expires: Time,
    /// How often a host looks when nobody wakes it, seconds.
    pub poll_s: u64,
    /// Hosts stay at what they run.
    #[serde(default)]
    pub paused: bool,
    pub endpoints: Endpoints,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Base URLs, the preferred first.
    #[serde(default)]
    pub control: Vec<String>,
}
