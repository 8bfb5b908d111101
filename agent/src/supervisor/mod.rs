//! (to be filled)

pub mod socket;
