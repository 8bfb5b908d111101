//! What is to run, as the reconcile room asks for it, and what of it stays in the instance folder.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use agentd_protocol::ids::{InstanceId, ReleaseNumber};
use agentd_protocol::shim::spec::RestartPolicy;
use serde::{Deserialize, Serialize};

use super::ports::Reservation;

/// Everything needed to start one instance.
#[derive(Debug)]
pub struct Launch {
    /// Also the name of the log folder: `api`, `edge`, `build.api`.
    pub service: String,
    pub label: Label,
    pub argv: Vec<String>,
    /// Complete; nothing is inherited.
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
    pub port: Option<Reservation>,
    /// `listen.<x>` goes on to the program.
    pub held: Vec<(String, OwnedFd)>,
    pub restart: RestartPolicy,
    pub stop_signal: i32,
    pub stop_timeout: Duration,
    pub run_limit: Option<Duration>,
    pub gate: Gate,
    pub probe: ProbePolicy,
    pub user: RunAs,
    /// Shown to the program in the place of /etc/hosts.
    pub hosts_file: Option<PathBuf>,
}

/// What an instance is to the one who launched it; opaque here, so that a restarted manager needs no database for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Label {
    Instance {
        release: ReleaseNumber,
    },
    Build {
        key: String,
    },
    Edge,
    /// The program of a tunnel, started with these settings; a secret is not among them.
    Tunnel {
        settings: String,
    },
}

/// When a started program counts as ready. Without a port, `Tcp` and `Http` are as `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Gate {
    /// Up for a second.
    None,
    /// Accepts a connection on its port.
    Tcp,
    /// Answers 200-399 on its port.
    Http { path: String, host: Option<String> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePolicy {
    /// Between probes of a ready instance.
    pub interval: Duration,
    pub timeout: Duration,
    /// So many in a row make a ready instance failing.
    pub failures: u32,
    pub start_deadline: Duration,
    /// Restart an instance that fails for long (DESIGN §7).
    pub restart: bool,
}

impl Default for ProbePolicy {
    /// DESIGN §7.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            failures: 3,
            start_deadline: Duration::from_secs(60),
            restart: true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunAs {
    /// The user of the room's configuration.
    Configured,
    /// The manager's own.
    Same,
}

/// The file `label` of an instance folder: with it alone a restarted manager knows what runs there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: InstanceId,
    pub(super) service: String,
    pub(super) label: Label,
    pub(super) port: Option<u16>,
    pub(super) gate: Gate,
    pub(super) probe: ProbePolicy,
    pub(super) stop_timeout: Duration,
    pub(super) log_dir: PathBuf,
    /// User the program runs as.
    pub(super) uid: u32,
}
