//! controld: hands out stacks to hosts, and shows what is true of them.

pub mod auth;
pub mod clock;
pub mod core;
pub mod dashboard;
pub mod lifecycle;
pub mod model;
pub mod seal;
pub mod store;
