//! What others may know of an instance.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::SystemTime;

use agentd_protocol::api::Probe;
use agentd_protocol::ids::{Incarnation, InstanceId};
use agentd_protocol::shim::state::{LastExit, Phase};

use super::Label;

/// Probes remembered per instance, for status and for the cause of a failed deploy.
pub(super) const PROBES_KEPT: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceView {
    pub id: InstanceId,
    pub service: String,
    pub label: Label,
    pub phase: Phase,
    pub incarnation: Incarnation,
    /// `None`: the shim does not answer; the program may run on, unsupervised.
    pub shim_pid: Option<u32>,
    pub port: Option<u16>,
    pub readiness: Readiness,
    pub last_exit: Option<LastExit>,
    /// Starts nobody asked for.
    pub restarts: u32,
    /// The last ten, oldest first.
    pub probes: VecDeque<Probe>,
    pub warnings: Vec<String>,
    pub last_event_seq: u64,
    pub log_dir: PathBuf,
}

impl InstanceView {
    /// Pid of the running program.
    pub fn pid(&self) -> Option<u32> {
        self.phase.program().map(|program| program.pid)
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.readiness, Readiness::Ready { .. })
    }

    /// In the order in which instances are worth keeping: the ready ones first, of those the longest-lived.
    pub fn standing(&self) -> (bool, SystemTime) {
        match self.readiness {
            Readiness::Ready { since } => (false, since),
            Readiness::NotReady { since }
            | Readiness::Failing { since, .. }
            | Readiness::StartDeadlineOver { since } => (true, since),
        }
    }
}

impl Readiness {
    /// In this incarnation.
    pub fn has_been_ready(self) -> bool {
        match self {
            Self::Ready { .. } | Self::Failing { .. } => true,
            Self::NotReady { .. } | Self::StartDeadlineOver { .. } => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Never passed in this incarnation, or nothing runs.
    NotReady {
        since: SystemTime,
    },
    Ready {
        since: SystemTime,
    },
    /// Was ready and fails its probes now.
    Failing {
        since: SystemTime,
        failures: u32,
    },
    /// Never passed in this incarnation and its time is over; probed on.
    StartDeadlineOver {
        since: SystemTime,
    },
}
