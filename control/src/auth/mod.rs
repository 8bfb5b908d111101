//! Who may come in: the owner by a password, programs by API tokens, this machine's owner by the Unix socket.
//!
//! Owns: passwords, sessions, API tokens, the entry link, how often somebody may try, and what every answer tells a browser.
//! Decisions are pure (`session`, `origin`, `password`, `crate::limit`); [`Accounts`] acts.
//! Must never know: stacks, hosts, pages. Of a secret it keeps the SHA-256 alone.
//! Called by: the routers, through [`Gate`]'s middleware, which puts an [`crate::core::Actor`] into each request that has
//! one; the dashboard's pages of login and account; the command line.
//! Survives a restart: everything but the counts of tries, which begin anew (from where people came in is read back from
//! the audit), and sessions that began while the disk was full.

mod accounts;
mod api;
mod gate;
mod hashing;
mod headers;
mod limits;
mod origin;
mod password;
mod secret;
mod session;
mod streams;
#[cfg(test)]
mod tests;
mod unsaved;

pub(crate) use accounts::Visitor;
pub use accounts::{Accounts, ApiTokenMade, ApiTokenRow, Entered, EntryLink, NewApiToken, Scope, SessionRow, User};
pub use api::{api, entries};
pub(crate) use gate::peer;
pub use gate::{Gate, Listener, Viewer};
pub(crate) use password::PASSWORD_CHARS_MIN;
pub(crate) use secret::Secret;
pub use session::Transport;

/// Why somebody does not come in, or does not get what he asks for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The same for a name that is not there: the difference is nobody's business.
    #[error("name or password is wrong")]
    Wrong,
    #[error("too many tries; wait {retry_s} s, then try again")]
    Limited { retry_s: u64 },
    #[error("the server is busy with other logins; try again in a moment")]
    Busy,
    #[error(
        "this link does not hold: it was used, is too old, or a newer one was made; `controld user create-link` on the server's machine prints another"
    )]
    Link,
    #[error("this password is not taken: {}", .0.join("; "))]
    Weak(Vec<String>),
    #[error("a name has 1 to 63 letters, digits, `.`, `_`, `-` or `@`")]
    Name,
    #[error("an API token lasts 1 to {days_max} days")]
    Lifetime { days_max: u64 },
    #[error("this is done on the machine of the server: `controld user`")]
    OnlyHere,
    #[error("an API token may not do this; log in, or use `controld user` on the machine of the server")]
    OnlyPeople,
    #[error("no such {what}")]
    Missing { what: &'static str },
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}
