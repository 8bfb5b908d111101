//! Instances: programs under a shim each, kept by one keeper. Owns: instance folders, ports, the conversation with shims
//! and keeper, health probes, reading of logs. Must never know what a release or a route is: a [`Label`] comes back as
//! it was given. Called by the reconcile room alone, through [`Supervisor`].
//!
//! When the manager ends, every program runs on under its shim and restarts by its policy. A new manager finds all of it
//! again in the instance folders: nothing here is in the database. What is lost with a manager: the last probes,
//! warnings, the rest of freed ports, leave for liveness restarts.
//!
//! Events go to the one reader of [`Supervisor::events`] and are acknowledged to the shim when they are in its queue: a
//! crash may lose history of the last moment, the state itself never.

mod client;
#[cfg(test)]
mod fake_shim;
mod handle;
mod health;
mod instance;
pub mod keeper;
mod launch;
mod layout;
mod logs;
mod look;
mod own_program;
mod ports;
pub mod private_hosts;
mod room;
mod scope;
pub mod shim_binary;
pub mod socket;
mod spec;
mod task;
mod tracked;
mod usage;
mod view;

use std::io;
use std::path::PathBuf;

use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::wire::Refusal;

pub use handle::{Config, Supervisor};
pub use keeper::KeeperView;
pub use launch::{Gate, Label, Launch, ProbePolicy, RunAs};
pub use logs::{Line, LogFile, LogFolder, Merged, Origin, Start};
pub use own_program::own_program;
pub use ports::{PortWish, Reservation, Transport, listener_name};
pub use scope::Scope;
pub use usage::{Usage, Used};
pub use view::{InstanceView, Readiness};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use {}; look at its owner, its permissions and the free space", .path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("port {port} is taken by {}; stop it or choose another port", .owner.as_deref().unwrap_or("a program that cannot be seen"))]
    PortTaken { port: u16, owner: Option<String> },
    #[error("no port from {first} to {last} is free; see who listens there with ss -ltnp")]
    NoPort { first: u16, last: u16 },
    #[error("cannot reserve port {port} on 127.0.0.1")]
    Port {
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("`{service}` cannot name a service's log folder")]
    ServiceName { service: String },
    #[error("{what} is over the limit of {max}")]
    TooMuch { what: &'static str, max: usize },
    #[error("{what} holds a NUL byte")]
    NulByte { what: &'static str },
    #[error("there is no instance {id}")]
    Unknown { id: InstanceId },
    #[error("shim of instance {id} did not answer; look at its warnings in the status")]
    Unreachable { id: InstanceId },
    #[error("shim of instance {id} refuses ({reason:?}): {text}")]
    Refused { id: InstanceId, reason: Refusal, text: String },
    #[error("instance {id} has not stopped in its time; look for processes in state D with ps")]
    NotStopped { id: InstanceId },
    #[error("instance {id} still runs; stop it first")]
    NotDown { id: InstanceId },
    #[error("{count} instances are still there; remove them first")]
    NotEmpty { count: usize },
    #[error("cannot read the logs in {}", .dir.display())]
    Logs {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("our own program file cannot be opened")]
    OwnProgram(#[source] io::Error),
    #[error("cannot set up the probe client")]
    Prober(#[source] reqwest::Error),
    #[error("the keeper did not do it")]
    Keeper(#[from] keeper::Error),
    #[error("this agentd is ending")]
    Ending,
}
