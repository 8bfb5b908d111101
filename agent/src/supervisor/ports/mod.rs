//! Ports of instances. Owns: which port an instance gets, the socket that keeps it from being taken, and who listens
//! where. After a restart the leases are rebuilt from the labels of the instances that are found.

mod owner;
mod pool;

pub use agentd_sys::listeners::{Transport, listener_name};
pub(super) use owner::{Judgement, judge, survey};
pub(super) use pool::{Lease, Ports};
pub use pool::{PortWish, Reservation};
