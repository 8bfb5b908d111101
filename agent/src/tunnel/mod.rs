//! The way in that this host opens itself: cloudflared, run by agentd or by somebody else. Owns: what `[tunnel]` of
//! agentd.toml may say, the command and configuration the program is run with, and the judgement of how it does.
//! Must never know: the firewall. A tunnel that is lost changes no rule; the security mode is the owner's word alone.
//! Called by `tunnel_launch`, which runs the program under a shim, and by the app, which shows what is found here.
//!
//! The program outlives the manager, as services do: a later manager asks it again and goes on. What is lost with a
//! manager is the memory of losses (flapping) and of the last restart.

mod command;
mod drift;
mod files;
mod probe;
mod settings;
mod state;
mod watcher;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use agentd_protocol::api::{TunnelStatus, What};
use tokio::sync::{mpsc, watch};

pub use command::{Command, SECRET_FD, command};
pub use files::{program, secret};
pub use settings::{Identity, Managed, Section, Tunnel, Wrong};
pub use state::Told;
pub use watcher::start;

/// Why the program cannot be started as the settings ask. What a secret file holds is quoted by none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} cannot be read; look at its path in [tunnel] of agentd.toml, and at its owner", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no plain file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} may be read by others (mode {mode:03o}): `chmod 600` it, and make a new secret if it was seen", path.display())]
    Readable { path: PathBuf, mode: u32 },
    #[error("{} belongs to user {owner}: make it root's, or that of who runs agentd", path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("{} holds no tunnel token: one line as the dashboard shows it after `--token` (base64)", path.display())]
    NoToken { path: PathBuf },
    #[error("{} holds no credentials of tunnel {tunnel}: it is the JSON file `cloudflared tunnel create` wrote", path.display())]
    NoCredentials { path: PathBuf, tunnel: String },
    #[error("no cloudflared on the PATH; install it, or name it by `program` in [tunnel] of agentd.toml")]
    NoProgram,
    #[error("{} may be replaced by others than root (owner {owner}, mode {mode:03o}): make it root's, mode 755", path.display())]
    ProgramUnsafe { path: PathBuf, owner: u32, mode: u32 },
    #[error("the way to ask the tunnel cannot be set up")]
    Asker(#[source] reqwest::Error),
}

/// What the program's keeper tells the watcher: why there is no program, or why it keeps ending.
pub type Trouble = watch::Sender<Option<String>>;

/// The watcher, seen from outside.
#[derive(Debug)]
pub struct Handle {
    pub status: watch::Receiver<Option<TunnelStatus>>,
    /// Transitions worth an event, in order.
    pub events: mpsc::Receiver<What>,
    /// The program lives, yet does nothing, and the network is there: it is to be started again.
    pub restarts: mpsc::Receiver<()>,
    pub trouble: Trouble,
}

/// What is to be watched.
#[derive(Debug, Clone)]
pub struct Watched {
    pub metrics: SocketAddr,
    /// Of the external listener: where the tunnel is to lead.
    pub origin_port: u16,
    /// `None`: somebody else runs the program.
    pub managed: Option<Managed>,
    /// What the event log said last.
    pub told: Option<Told>,
}
