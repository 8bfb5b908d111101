//! (to be filled)

pub mod shim_binary;
pub mod socket;
