//! What transactions ask of the kernel, so that every decision can be tested without one.

use std::fmt;
use std::sync::Arc;

use agentd_sys::causes::chain;
use serde_json::Value;

use super::inspect::{self, Dropped, Found};
use super::nft::{self, Nft};
use super::{Facts, Ruleset, facts};

pub trait Kernel: Send + Sync + fmt::Debug {
    /// Whether it would take these rules; changes nothing.
    fn check(&self, ruleset: &Ruleset) -> Result<(), nft::Error>;
    /// All of it or nothing.
    fn apply(&self, ruleset: &Ruleset) -> Result<(), nft::Error>;
    /// Our table; `None` where there is none.
    fn table(&self) -> Result<Option<Value>, nft::Error>;
    /// The same, judged.
    fn look(&self) -> Result<(Found, Dropped), nft::Error> {
        let table = self.table()?;
        Ok((inspect::read(table.as_ref()), table.as_ref().map(inspect::dropped).unwrap_or_default()))
    }
    /// What the host is like now. What cannot be found out is left at its safe default: less is let in.
    fn facts(&self) -> Facts;
}

/// A host without nft: it can keep `open`, and an active UFW can keep part of `daemon-port`.
#[derive(Debug)]
pub struct WithoutNft;

/// The kernel this runs on; another failure than a missing nft wants a person.
pub fn of_this_host() -> Result<Arc<dyn Kernel>, nft::Error> {
    match Nft::find() {
        Ok(nft) => Ok(Arc::new(nft)),
        Err(nft::Error::Missing) => Ok(Arc::new(WithoutNft)),
        Err(error) => Err(error),
    }
}

fn facts_of_this_host() -> Facts {
    let sources = facts::Sources::host();
    facts::gather(&sources).unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "guests may not reach out");
        facts::but_interfaces(&sources)
    })
}

impl Kernel for WithoutNft {
    fn check(&self, _: &Ruleset) -> Result<(), nft::Error> {
        Err(nft::Error::Missing)
    }

    fn apply(&self, _: &Ruleset) -> Result<(), nft::Error> {
        Err(nft::Error::Missing)
    }

    fn table(&self) -> Result<Option<Value>, nft::Error> {
        Err(nft::Error::Missing)
    }

    fn facts(&self) -> Facts {
        facts_of_this_host()
    }
}

impl Kernel for Nft {
    fn check(&self, ruleset: &Ruleset) -> Result<(), nft::Error> {
        Self::check(self, ruleset)
    }

    fn apply(&self, ruleset: &Ruleset) -> Result<(), nft::Error> {
        Self::apply(self, ruleset)
    }

    fn table(&self) -> Result<Option<Value>, nft::Error> {
        Self::table(self)
    }

    fn facts(&self) -> Facts {
        facts_of_this_host()
    }
}
