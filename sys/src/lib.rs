//! Thin, safe wrappers over the Linux calls that several programs need: SEQPACKET sockets with descriptor passing,
//! files that are never half written, locks, clocks, and proof of a process's identity.
//!
//! Owns no state and takes no decision. Blocking or explicitly non-blocking calls only; whoever needs async wraps the
//! descriptor. The shim links this, so: no runtime, no logging, few dependencies.

pub mod clock;
pub mod files;
pub mod process;
pub mod seqpacket;
