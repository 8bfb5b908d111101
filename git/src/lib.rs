//! Talking to the servers of git repositories: addresses taken apart, credentials that stay in their files, a git that
//! reads no configuration but ours, limits on its time and output, and what its complaints mean.
//!
//! Owns `home/` and the `<hash>.config` files of its folder. Starts processes, but no task and no thread: whoever calls
//! brings a tokio runtime. Must never know what a commit is good for: the agent's room of sources keeps mirrors with it,
//! the control server asks which commit a name means.
//!
//! Nothing of value survives a restart: every file here is written anew where it is missing.

mod asker;
mod auth;
mod call;
mod classify;
mod command;
mod error;
mod key;
mod remote;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use asker::{Asker, Config};
pub use auth::Credential;
pub use call::{Call, SHORT_OUTPUT_BYTES_MAX, words};
pub use classify::{Fault, classify, telling_line};
pub use command::Finished;
pub use error::Error;
pub use key::{new_key, pin_host};
pub use remote::{Remote, is_reference};
