//! What hosts call: `/v1/enroll`, `/v1/report`, and the files of their stack (`protocol::control` has the table).
//!
//! Owns: who signed a request, limits of size, time and number, and the mapping of answers to HTTP. A request is believed
//! by its headers before its body is read. Must never know: how anything is done; it asks core's handle.
//! Nothing here survives a restart.

mod calls;
mod limits;
mod signed;

pub use calls::router;
