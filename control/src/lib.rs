//! controld: hands out stacks to hosts, and shows what is true of them.

pub mod agent_api;
pub mod clock;
pub mod core;
pub mod lifecycle;
pub mod model;
pub mod operator_api;
pub mod seal;
pub mod store;
