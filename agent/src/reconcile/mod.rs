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
mod diagnose;
mod digest;
mod environment;
mod gate;
mod handle;
mod hosts;
mod journal;
mod lives;
mod logs;
mod look;
mod mask;
mod observer;
mod plan;
mod rollback;
mod routing;
mod running;
mod sequence;
mod status;
mod status_file;
mod task;
#[cfg(test)]
mod testing;
mod transitions;
mod upkeep;
mod why;
mod worker;

pub use crate::store::EventQuery;
pub use environment::Naming;
pub use handle::{Handle, Leaving};
pub use hosts::{Given, HostsFile};
pub use journal::Journal;
pub use logs::LogReading;
pub use mask::CredentialFiles;
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
    #[error("there is no log `{name}`; there are {known}")]
    NoLog { name: String, known: String },
    #[error(
        "there is no log of a build of `{service}`{}; a service without `build` has none, and only the newest are kept",
        release.map(|release| format!(" for release {release}")).unwrap_or_default()
    )]
    NoBuildLog { service: String, release: Option<u64> },
    #[error("`{service}` has no log of an instance `{instance}`; there are {known}")]
    NoInstanceLog { service: String, instance: String, known: String },
    #[error("too many logs are being read already; end an `agentctl logs -f`, then try again")]
    TooManyReaders,
    #[error("the log `{name}` cannot be read; look at the owner and mode of its folder")]
    Log {
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error("edge")]
    Edge(#[from] crate::edge::Error),
    #[error("store")]
    Store(#[from] crate::store::Error),
    #[error("source")]
    Source(#[from] crate::source::Error),
    #[error("supervisor")]
    Supervisor(#[from] crate::supervisor::Error),
}
