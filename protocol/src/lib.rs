//! Types that cross a process boundary, and the pure rules about them.
//!
//! Owns: the desired-state schema and its validation, what the manager tells the edge, what manager, keeper and shim
//! tell each other, the records they leave on disk, the local API, ids and exit codes.
//! Must never know: files, sockets, clocks, tasks. Time comes in as a number, bytes come in as a slice.
//! The [`shim`] module carries no serde, so that the shim stays small; everything else sits behind the `documents`
//! feature, which every program but the shim turns on.

pub mod ids;
pub mod order;
pub mod places;
pub mod shim;

#[cfg(feature = "documents")]
pub mod api;
#[cfg(feature = "documents")]
pub mod authored;
#[cfg(feature = "documents")]
pub mod control;
#[cfg(feature = "documents")]
pub mod digest;
#[cfg(feature = "documents")]
pub mod edge;
#[cfg(feature = "documents")]
pub mod exit_code;
#[cfg(feature = "documents")]
pub mod keys;
#[cfg(feature = "documents")]
pub mod published;
#[cfg(feature = "documents")]
pub mod security;
#[cfg(feature = "documents")]
pub mod stack;
#[cfg(feature = "documents")]
pub mod validate;
