//! What the server does, behind one handle: stacks, drafts and versions, tokens and hosts, reports and events.
//!
//! Owns: the rules, the signatures, and what is kept in memory. Must never know: HTTP, pages, or how rows are stored.
//! Called by: the agent API, the operator API and the dashboard, through [`Control`]. Every change writes its row of the
//! audit in the same transaction. After a restart everything is read again from the store.

mod actor;
mod diff;
mod document;
mod drafts;
mod enroll;
mod error;
mod events;
mod fleet;
mod handle;
mod hosts;
mod limits;
mod memory;
mod names;
mod preview;
mod publish;
mod report;
mod settings;
mod stacks;
mod statements;
mod views;

pub use actor::Actor;
pub use enroll::Welcome;
pub use error::{Error, problem_response};
pub use events::{EVENTS_PER_PAGE_MAX, shown};
pub(crate) use fleet::AHEAD_BELIEVED_MAX;
pub use handle::Control;
pub use hosts::File;
pub use settings::Settings;
