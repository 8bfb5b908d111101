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
