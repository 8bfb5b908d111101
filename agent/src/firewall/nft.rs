//! The nft program: the one place that starts it.

use serde_json::Value;

use super::Ruleset;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("nft is not installed: `apt install nftables`")]
    Missing,
}

/// An nft that can be run, found once.
#[derive(Debug, Clone)]
pub struct Nft {}

impl Nft {
    pub fn find() -> Result<Self, Error> {
        Err(Error::Missing)
    }

    /// Whether the kernel would take it; changes nothing.
    pub fn check(&self, _ruleset: &Ruleset) -> Result<(), Error> {
        Err(Error::Missing)
    }

    /// All of it or nothing.
    pub fn apply(&self, _ruleset: &Ruleset) -> Result<(), Error> {
        Err(Error::Missing)
    }

    /// Our table as the kernel has it; `None` where there is none.
    pub fn table(&self) -> Result<Option<Value>, Error> {
        Err(Error::Missing)
    }
}
