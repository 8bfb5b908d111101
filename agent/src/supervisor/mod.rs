//! (to be filled)

pub mod keeper;
pub mod shim_binary;
pub mod socket;
