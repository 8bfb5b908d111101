//! The proxy on loopback: hand-written clients and backends, so that every byte on both sides is ours.

mod clients;
mod conformance;
mod drain;
mod entrances;
mod hold;
mod opening;
mod rig;
mod routing;
mod streams;
