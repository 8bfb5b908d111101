//! The proxy: takes requests from its listening sockets to the backends of the snapshot in force, by host and path from
//! outside, by the service's name from within.
//!
//! Owns: routing (`entrance`, `routes`, `names`), what is refused before it (`request`, `io`), backends and their leases
//! (`backends`, `table`), requests held during a replacement (`hold`), the accept loop and its drain (`accept`), pingora's
//! hooks (`hooks`, `headers`, `peer`) and every answer that is ours (`errors`). pingora is named in this folder alone.
//! Must never know: where snapshots come from, files, processes, the manager. Only the edge process imports it.
//! Nothing here survives a restart: a new edge starts from a snapshot, with no connection.

mod accept;
mod backends;
mod entrance;
mod errors;
mod headers;
mod hold;
mod hooks;
mod io;
mod names;
mod peer;
mod request;
mod routes;
mod table;
#[cfg(test)]
mod tests;

pub use accept::{Limits, Proxy};
pub use backends::BackendKey;
pub use entrance::Entrance;
pub use hold::HoldLimits;
pub use io::HeadLimits;
pub use table::{Registry, Table};

use agentd_protocol::ids::{Generation, InstanceId, ServiceName};

/// Why a snapshot was not taken; the one in force stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("route names service `{name}`, which the snapshot does not have; look at the plan that made it")]
    UnknownService { name: ServiceName },
    #[error("service `{name}` appears twice in the snapshot")]
    DuplicateService { name: ServiceName },
    #[error("two routes share host {host:?} and path `{path}`; give one of the services another path")]
    DuplicateRoute { host: Option<String>, path: String },
    #[error("route path `{path}` must start with `/` and not end with one")]
    BadRoutePath { path: String },
    #[error("route host `{host}` must be lower case, without port or trailing dot")]
    BadRouteHost { host: String },
    #[error("instance `{instance}` appears twice in the snapshot")]
    DuplicateBackend { instance: InstanceId },
    #[error("instance `{instance}` changed its address without a new incarnation")]
    BackendMoved { instance: InstanceId },
    #[error("generation {offered} is older than {in_force}, which is in force; is a second manager running?")]
    Older { offered: Generation, in_force: Generation },
    #[error("generation {generation} is in force with other content; is a second manager running?")]
    SameGeneration { generation: Generation },
}
