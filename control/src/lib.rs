//! controld: hands out stacks to hosts, and shows what is true of them.

pub mod clock;
pub mod core;
pub mod lifecycle;
pub mod model;
pub mod seal;
pub mod store;
