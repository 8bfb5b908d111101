//! Thin, safe wrappers over the Linux calls that several programs need: SEQPACKET sockets with descriptor passing,
//! files that are never half written, locks, clocks, proof of a process's identity; and errors told with their causes.
//!
//! Owns no state and takes no decision. Blocking or explicitly non-blocking calls only; whoever needs async wraps the
//! descriptor. The shim links this, so: no runtime, no logging, few dependencies.

pub mod causes;
pub mod clock;
pub mod files;
#[cfg(feature = "http")]
pub mod http;
pub mod listeners;
pub mod namespaces;
pub mod process;
pub mod replace;
pub mod seqpacket;
