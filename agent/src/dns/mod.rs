//! The names services have for each other: answers DNS queries for `<service>.<suffix>` on sockets it is handed.
//!
//! Owns: what the zone says (`zone`, pure) and how it is said on the wire, over UDP and TCP (`wire`). hickory is named in
//! `wire` alone.
//! Must never know: where the zone comes from, the proxy, files, processes. Only the edge process imports it, and gives
//! it the services of the snapshot that the proxy routes by.
//! Every name leads to loopback, whatever its service does: the proxy behind it says why a service does not answer.
//! Nothing here survives a restart but the sockets, which the edge's shim keeps.

mod wire;
mod zone;

#[cfg(test)]
mod tests;

pub use wire::Responder;
pub use zone::Zone;

/// Why a zone was not taken; the one in force stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("suffix `{suffix}` is no DNS name that leaves room for a service's; look at the plan that made it")]
    BadSuffix { suffix: String },
}
