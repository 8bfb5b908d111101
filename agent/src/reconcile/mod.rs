//! Makes what runs match what is wanted. One worker per service converges by itself, so that one service's failure
//! never stops another; the task here hands them their orders.
//!
//! Owns: the event log, the plan, the order of a deploy (fetch, build, start beside, gate, swap, drain, stop), operator commands, the
//! verdict on the stack. Must never know: how a document arrives (sync), how a request is answered (api).
//! Callers: sync hands over versions, api and the app talk to [`Handle`].
//! After a restart nothing here is remembered but what the store says (versions, active releases, pins, stops) and what
//! the supervisor found running; a deploy that was cut short is cleaned up and started again.

mod answers;
mod attempt;
mod budget;
mod build;
mod command;
mod deploy;
mod digest;
mod environment;
mod gate;
mod handle;
mod hosts;
mod journal;
mod lives;
mod look;
mod observer;
mod plan;
mod rollback;
mod routing;
mod status;
mod status_file;
mod task;
#[cfg(test)]
mod testing;
mod transitions;
mod trouble;
mod upkeep;
mod worker;

pub use crate::store::EventQuery;
pub use environment::Naming;
pub use handle::{Handle, Leaving};
pub use hosts::{Given, HostsFile};
pub use journal::Journal;
pub use status::{DocumentProblems, Facts, FileProblem, Reading};
pub use task::{Setup, start};

use agentd_protocol::ids::{ReleaseNumber, ServiceName};

/// What a caller of [`Handle`] is told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the reconciler has ended; the agent is about to restart")]
    Ended,
    #[error("everything is being taken down; `agentd run` brings it back")]
    GoingDown,
    #[error("there is no service `{0}`; `agentctl status` lists them")]
    NoService(ServiceName),
    #[error("service `{service}` has no built release {release}; kept releases: {kept}")]
    NoRelease { service: ServiceName, release: ReleaseNumber, kept: String },
    #[error("service `{0}` has no earlier release to go back to")]
    NothingEarlier(ServiceName),
    #[error("service `{0}` is still in the stack: take it out of the document first, prune removes its data")]
    StillWanted(ServiceName),
    #[error("service `{service}`: {cause}")]
    NotDone { service: ServiceName, cause: String },
    #[error("service `{service}` has not got there within {limit_s} s; `agentctl status` shows where it stands")]
    TooSlow { service: ServiceName, limit_s: u64 },
    #[error("the edge does not route by the newest table: {cause}")]
    Route { cause: String },
    #[error("edge")]
    Edge(#[from] crate::edge::Error),
    #[error("store")]
    Store(#[from] crate::store::Error),
    #[error("source")]
    Source(#[from] crate::source::Error),
    #[error("supervisor")]
    Supervisor(#[from] crate::supervisor::Error),
}
