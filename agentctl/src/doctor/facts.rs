//! What is found out of host and home before it is judged.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use agentd_protocol::api::Status;
use agentd_protocol::places::Places;
use agentd_protocol::shim::hosts;

#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) kernel: String,
    /// What `git --version` prints, or why it cannot be run.
    pub(super) git: Result<String, String>,
    pub(super) home: Home,
    pub(super) manager: Manager,
    pub(super) disk: Option<Disk>,
    pub(super) inotify: Inotify,
    /// Most open files that a program started by the manager or, without one, by this user may be given.
    pub(super) open_files_max: Option<u64>,
    pub(super) ports: Vec<Port>,
    pub(super) instance_ports: RangeInclusive<u16>,
    /// Sockets of whomever that listen in that range.
    pub(super) instance_ports_used: usize,
    pub(super) names: Names,
    pub(super) clock: Clock,
    /// Keepers whose home is gone, by pid.
    pub(super) orphaned_keepers: Vec<(u32, PathBuf)>,
    /// Of the agent of the machine alone.
    pub(super) machine: Option<Machine>,
}

/// What a system service needs of its machine.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) runs_systemd: bool,
    pub(super) has_nft: bool,
    /// Rules were confirmed that shut something.
    pub(super) has_rules: bool,
    /// Units of ours that are not started at boot.
    pub(super) not_at_boot: Vec<&'static str>,
    /// Programs of systemd's that the manager calls and that are not there.
    pub(super) missing: Vec<&'static str>,
    /// Somebody listens on the system bus.
    pub(super) has_bus: bool,
    pub(super) lacks: Vec<Lack>,
}

/// What the package depends on and somebody removed all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    Ip,
    Certificates,
    Ssh,
}

#[derive(Debug, Clone)]
pub(super) struct Home {
    pub(super) places: Places,
    /// What a person knows it by.
    pub(super) root: PathBuf,
    pub(super) folder: Folder,
    /// As root: the user services run as, and the folder above or in the home that it may not enter.
    pub(super) closed_to: Option<(String, PathBuf)>,
    /// As root: `--run-as` names nobody known.
    pub(super) unknown_user: Option<String>,
    /// Why agentd.toml cannot be read.
    pub(super) settings: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Folder {
    Missing { can_be_made: bool },
    Occupied,
    NotWritable,
    Usable,
}

#[derive(Debug, Clone)]
pub(super) enum Manager {
    /// Nobody holds the lock of the home; whether a keeper runs on with its services.
    Away {
        keeper: Option<u32>,
    },
    /// The home is another user's: neither lock nor socket can be looked at.
    Foreign,
    /// Somebody holds the lock and does not answer.
    Silent {
        pid: Option<u32>,
        cause: String,
    },
    Answers {
        status: Box<Status>,
        keeper: Life,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Runs,
    Gone,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
    pub(super) free_inodes: u64,
    pub(super) total_inodes: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Inotify {
    pub(super) instances_max: Option<u64>,
    pub(super) watches_max: Option<u64>,
    /// Held by processes of our user, as far as we see them.
    pub(super) instances_used: u64,
}

/// One port agentd listens on, or is to.
#[derive(Debug, Clone)]
pub(super) struct Port {
    pub(super) what: &'static str,
    /// Where it is set.
    pub(super) key: &'static str,
    pub(super) address: SocketAddr,
    pub(super) state: PortState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PortState {
    /// It runs, and does as it should.
    Answers,
    /// It runs, and does not.
    Silent {
        cause: String,
    },
    Free,
    /// By this home's own proxy, which runs on without a manager.
    Ours,
    Taken {
        owner: Option<String>,
    },
    /// The system does not let us have it.
    Refused {
        cause: String,
    },
}

#[derive(Debug, Clone)]
pub(super) enum Names {
    Possible,
    Refused {
        refused: hosts::Refused,
        facts: hosts::Facts,
    },
    /// Nothing to try it with before a first start: what the host's settings say.
    Untried {
        facts: hosts::Facts,
    },
    /// A manager of another user has tried it: its limitations tell.
    ManagerTells,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) now_unix_s: u64,
    /// Last change of the home's database.
    pub(super) database_unix_s: Option<u64>,
}
