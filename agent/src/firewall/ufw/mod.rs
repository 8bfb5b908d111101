//! An active UFW drops what our table lets in, as a drop anywhere is final. So in `daemon-port`, and there alone, it gets
//! allows beside its owner's: for the proxy's port, and for SSH from the networks named. They open only what is open then.
//!
//! Owns: the allows with our comment, and the journal that says how to take them back. Everything else in UFW is its
//! owner's: it is never enabled, reset, reloaded, and no file of it is written by us.
//! Called by: the transaction, before a trial and after a return; uninstalling. Synchronous, std only.
//! Survives a restart: the journal, which is on disk before UFW is told anything.

mod drive;
#[cfg(test)]
pub(in crate::firewall) mod fake;
mod journal;
mod plan;
mod tuples;

use std::io;
use std::path::PathBuf;

pub(in crate::firewall) use drive::setting;
pub use drive::{Ensured, Stamp, State, Ufw};
pub use journal::{Restored, RestoredFile, Undone};
pub use plan::{Allow, Purpose, Wanted};
pub use tuples::Action;

use super::command;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ufw could not be asked")]
    Run(#[from] command::Error),
    #[error("`ufw status` gave no answer: {stderr}; run it by hand")]
    Status { stderr: String },
    #[error("ufw's rules {path} cannot be read")]
    Rules {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("ufw's rules {path} are larger than {limit} bytes, which no set of rules is")]
    RulesTooLarge { path: PathBuf, limit: u64 },
    #[error(
        "ufw has a rule of yours that does otherwise ({action:?}) for {allow}: delete it, or leave ufw as it is and \
         choose another mode"
    )]
    Conflict { allow: Allow, action: Action },
    #[error("ufw would need {count} rules, more than {limit}: name wider networks in security.ssh")]
    TooMany { count: usize, limit: usize },
    #[error("ufw did not take {allow}: {said}; try `ufw {order}` by hand")]
    NotTaken { allow: Allow, order: String, said: String },
    #[error("ufw did not give up {allow}: {said}; try `ufw {order}` by hand")]
    NotGivenUp { allow: Allow, order: String, said: String },
    #[error("the journal {path} cannot be read")]
    ReadJournal {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the journal {path} is not one of ours: `ufw status` shows our rules by their comment `agentd:`")]
    Journal {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the journal {path} cannot be written; nothing was changed")]
    WriteJournal {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}
