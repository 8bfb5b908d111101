//! What a host lets in, in the words every program uses. docs/security-modes.md is the law.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// From the least to the most closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The firewall is left as it was found.
    Open,
    /// The proxy's port, and SSH from the networks named.
    DaemonPort,
    /// Nothing from outside.
    Tunnel,
}

/// What the kernel lets in, whatever was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exposure {
    Unmanaged,
    DaemonPort,
    None,
}

/// The `[security]` section of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Security {
    pub mode: Mode,
    /// Networks that may reach SSH; in `daemon-port` alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<IpNet>,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::DaemonPort => "daemon-port",
            Self::Tunnel => "tunnel",
        }
    }

    /// The word of a document or a command line; `None` for any other.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Open, Self::DaemonPort, Self::Tunnel].into_iter().find(|mode| mode.as_str() == word)
    }

    pub fn exposure(self) -> Exposure {
        match self {
            Self::Open => Exposure::Unmanaged,
            Self::DaemonPort => Exposure::DaemonPort,
            Self::Tunnel => Exposure::None,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unmanaged => "unmanaged",
            Self::DaemonPort => "daemon-port",
            Self::None => "none",
        })
    }
}
