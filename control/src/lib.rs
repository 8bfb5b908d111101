//! controld: hands out stacks to hosts, and shows what is true of them.

pub mod agent_api;
pub mod auth;
mod body;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod dashboard;
mod limit;
pub mod model;
pub mod operator_api;
mod plain;
pub mod routes;
pub mod seal;
pub mod serve;
pub mod store;

pub use agentd_lifecycle as lifecycle;
