//! The node agent: manager (`agentd run`) and edge (`agentd edge`) in one binary. ARCHITECTURE.md draws the map.
//!
//! Each folder is a room; its `mod.rs` says what it owns and what it must never know. `app.rs` is the one file that sees
//! every room.

pub mod api;
pub mod app;
pub mod config;
pub mod dns;
pub mod edge;
pub mod edge_launch;
pub mod firewall;
pub mod firewall_cli;
pub mod firewall_launch;
pub mod firewall_look;
pub mod firewall_preview;
pub mod join_cli;
pub mod lifecycle;
pub mod logging;
pub mod policy;
pub mod proxy;
pub mod reconcile;
mod run_as;
pub mod source;
pub mod static_site;
pub mod store;
pub mod supervisor;
pub mod sync;
pub mod tunnel;
pub mod tunnel_launch;
