//! What else is on this host that an order must mind, so that every decision can be tested without one.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use super::consent::Objections;
use super::foreign::{self, Seen};
use super::guard::{self, Peer};
use super::ufw::Ufw;
use super::{Facts, Policy};

pub trait Surroundings: Send + Sync + fmt::Debug {
    /// `guests` are interfaces of guests (P8).
    fn seen(&self, guests: &BTreeSet<String>) -> Seen;
    /// Everybody on SSH.
    fn on_ssh(&self, facts: &Facts) -> Result<Vec<Peer>, guard::Error>;
}

/// The one this runs on.
#[derive(Debug, Clone)]
pub struct ThisHost {
    pub ufw: Ufw,
}

impl Surroundings for ThisHost {
    fn seen(&self, guests: &BTreeSet<String>) -> Seen {
        foreign::gather(Path::new("/"), &self.ufw, guests)
    }

    fn on_ssh(&self, facts: &Facts) -> Result<Vec<Peer>, guard::Error> {
        Ok(guard::peers(&guard::gather(facts)?))
    }
}

/// One look, against which any number of policies can be judged.
#[derive(Debug, Clone)]
pub struct Survey {
    pub facts: Facts,
    pub peers: Vec<Peer>,
    pub seen: Seen,
}

impl Survey {
    pub fn take(surroundings: &dyn Surroundings, facts: Facts) -> Result<Self, guard::Error> {
        let (peers, seen) = (surroundings.on_ssh(&facts)?, surroundings.seen(&facts.guest_interfaces));
        Ok(Self { facts, peers, seen })
    }

    pub fn verdict(&self, to: &Policy) -> foreign::Verdict {
        foreign::judge(&self.seen, to)
    }

    pub fn objections(&self, to: &Policy) -> Objections {
        Objections::of(guard::judge(&self.peers, to, &self.facts), &self.verdict(to))
    }
}
