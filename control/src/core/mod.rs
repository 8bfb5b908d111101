//! What the server does, behind one handle.
mod actor;
mod error;
mod handle;

pub use actor::Actor;
pub use error::{Error, problem_response};
pub use handle::Control;
