//! How a host's tunnel does. The secret it is run with is nowhere here.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    pub state: TunnelState,
    /// Since when it is in this state.
    pub since_unix_ms: u64,
    /// To Cloudflare's edge, as the program counts them; four are usual.
    pub connections: u32,
    /// The program is run by agentd; else somebody runs it, and it is only watched.
    pub managed: bool,
    /// Where the program answers what it knows of itself.
    pub metrics: SocketAddr,
    /// Why it is not connected, or could not be started as the settings ask.
    pub cause: Option<String>,
    /// Where the program takes requests to that no setting of this host names: whoever holds the account put it there.
    pub config_drift: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelState {
    /// No request comes in by it.
    Down,
    /// It was started, and had no connection yet.
    Connecting,
    /// Requests come in, by one connection or by one that keeps being lost.
    Degraded,
    Connected,
}
