//! What the host has, and what is used of it.

use serde::{Deserialize, Serialize};

/// One look at the host, taken for the caller who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// CPUs this agent may use.
    pub cpus: u32,
    /// Tasks that run or wait, in thousandths, over the last 1, 5 and 15 minutes (proc_loadavg(5)).
    pub load_1m_milli: u64,
    pub load_5m_milli: u64,
    pub load_15m_milli: u64,
    pub memory_total_bytes: u64,
    /// What programs could still get without swapping.
    pub memory_available_bytes: u64,
    /// Of the file system the home lies on; free as far as an ordinary user may fill it.
    pub disk_total_bytes: Option<u64>,
    pub disk_free_bytes: Option<u64>,
}
