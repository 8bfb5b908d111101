//! Whether a host may believe what it was handed: `(trust record, files, now) -> decision`, and nothing else.
//!
//! The store that hands out the files may be anybody's: it can withhold, and repeat what was true before, but neither make
//! a version up, nor bring an old one back, nor make one host believe another version 7 than the others. The order of
//! the checks is that of TUF (specification 5.3 to 5.7), folded into one mutable file.
//!
//! The caller keeps a [`TrustRecord`] on disk, and writes the new one down before it acts on a decision.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::dsse::{Envelope, Unverified};
use super::ids::StackId;
use super::statement::{FRESH_TYPE, Fresh, ROOT_TYPE, Role, Root, VERSION_TYPE, VersionStatement};
use super::time::Time;
use super::{FEATURES, HEAD_BYTES_MAX, ROOT_BYTES_MAX, ROOTS_MAX, STATE_BYTES_MAX};
use crate::digest::Digest;
use crate::ids::Version;

/// A version this far above the last one is a thief's, who wants no later one to be taken.
pub const VERSION_STEP_MAX: u64 = 1_000_000;
/// A fresh note from further ahead is refused, seconds: it would push the floor of time into the future.
pub const ISSUED_AHEAD_SECS_MAX: i64 = 3_600;

/// The only mutable file a server hands out for a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub version: Envelope,
    pub fresh: Envelope,
}

/// What a host believes; one record, replaced whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustRecord {
    pub root: Root,
    /// The newest version believed in this epoch: nothing below it is taken, nor another of the same number.
    pub floor: Option<Floor>,
    /// Newest `issued` that was believed: the clock cannot be earlier.
    pub time_floor: Time,
    pub fresh_until: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    pub version: Version,
    /// SHA-256 of the payload of its statement.
    pub statement: Digest,
}

/// Times are the caller's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub clock: Time,
    /// When this program was built: a clock before that is not set.
    pub built: Time,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// What is in force is current. The record has later times, perhaps a later root.
    Current { record: TrustRecord },
    /// There is a newer version, and the server asks to stay at the old one for now.
    Held { record: TrustRecord, offered: Version },
    /// To be fetched, checked with [`check_state`], and then believed with [`TrustRecord::adopt`].
    Newer { record: TrustRecord, offer: Box<Offer> },
}

/// A version that may be believed once its object is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub statement: VersionStatement,
    digest: Digest,
}

/// Why files are not believed. Nothing changes on the host for any of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    TooLarge {
        what: What,
        bytes_max: usize,
    },
    Unreadable {
        what: What,
    },
    Unverified {
        what: What,
        why: Unverified,
    },
    /// It is about something else than it should be.
    OtherStack {
        what: What,
    },
    /// The root pinned when the host joined is another.
    OtherRoot,
    /// A root that does not follow the one before.
    RootOrder {
        found: u64,
        expected: u64,
    },
    TooManyRoots,
    EpochBack {
        found: u64,
        floor: u64,
    },
    OtherEpoch {
        found: u64,
        expected: u64,
    },
    /// The fresh note is about another version than the one it came with.
    MixAndMatch,
    /// The fresh note knows a root that was not handed out.
    RootWithheld {
        known: u64,
        newest: u64,
    },
    /// Nobody has said lately that this version is current.
    Expired {
        at: Time,
    },
    FromTheFuture {
        issued: Time,
    },
    ClockNotSet {
        clock: Time,
    },
    Rollback {
        found: Version,
        floor: Version,
    },
    /// Two versions of one number.
    Equivocation {
        version: Version,
    },
    FastForward {
        found: Version,
        floor: Version,
    },
    Unsupported {
        features: Vec<String>,
    },
    OtherSize {
        found: usize,
        expected: u64,
    },
    OtherDigest {
        what: What,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Head,
    Root,
    Version,
    Fresh,
    State,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "head.json",
            Self::Root => "the root of trust",
            Self::Version => "the version's statement",
            Self::Fresh => "the fresh note",
            Self::State => "the state object",
        })
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { what, bytes_max } => write!(f, "{what} is over {bytes_max} bytes"),
            Self::Unreadable { what } => write!(f, "{what} cannot be read"),
            Self::Unverified { what, why } => write!(f, "{what} is not signed as it must be: {why}"),
            Self::OtherStack { what } => write!(f, "{what} is of another stack"),
            Self::OtherRoot => {
                f.write_str("the root of trust is not the one in the join string: this is another server")
            }
            Self::RootOrder { found, expected } => write!(f, "root {found} came where root {expected} was due"),
            Self::TooManyRoots => write!(f, "more than {ROOTS_MAX} roots at once"),
            Self::EpochBack { found, floor } => write!(f, "a root of epoch {found} came after one of epoch {floor}"),
            Self::OtherEpoch { found, expected } => {
                write!(f, "a version of epoch {found}, where {expected} is in force")
            }
            Self::MixAndMatch => f.write_str("the fresh note is about another version than the one it came with"),
            Self::RootWithheld { known, newest } => {
                write!(f, "root {newest} exists and was not handed out; {known} is known here")
            }
            Self::Expired { at } => write!(f, "nobody has said since {at} that this version is current"),
            Self::FromTheFuture { issued } => write!(f, "the fresh note is of {issued}, which is in the future here"),
            Self::ClockNotSet { clock } => {
                write!(f, "this machine's clock says {clock}; set it, then versions are taken")
            }
            Self::Rollback { found, floor } => {
                write!(f, "version {found} was offered, and {floor} was in force already")
            }
            Self::Equivocation { version } => write!(f, "version {version} was offered with other content than before"),
            Self::FastForward { found, floor } => {
                write!(f, "version {found} was offered after {floor}: too great a step")
            }
            Self::Unsupported { features } => write!(f, "it needs what this agentd cannot do: {}", features.join(", ")),
            Self::OtherSize { found, expected } => {
                write!(f, "the object has {found} bytes, and {expected} were signed")
            }
            Self::OtherDigest { what } => write!(f, "{what} is not the one that was signed"),
        }
    }
}

impl std::error::Error for Refused {}

impl TrustRecord {
    /// From the roots that came with the enrolment, the first of which the join string has pinned.
    pub fn begin(stack: &StackId, pinned: &Digest, roots: &[Envelope]) -> Result<Self, Refused> {
        let first = roots.first().ok_or(Refused::Unreadable { what: What::Root })?;
        // Which keys may sign it, it says itself; that it is the right one, the pin does.
        let claimed: Root = parse(&claimed_payload(first)?, What::Root)?;
        let payload = opened(first, ROOT_TYPE, &claimed, Role::Root, What::Root)?;
        if Digest::of(&payload) != *pinned {
            return Err(Refused::OtherRoot);
        }
        let root: Root = parse(&payload, What::Root)?;
        if root.stack != *stack {
            return Err(Refused::OtherStack { what: What::Root });
        }
        if root.version != 1 {
            return Err(Refused::RootOrder { found: root.version, expected: 1 });
        }
        let record = Self { root, floor: None, time_floor: Time::EPOCH, fresh_until: Time::EPOCH };
        record.follow(roots.get(1..).unwrap_or_default())
    }

    /// Follows the chain of roots: each is signed by the one before and by itself.
    pub fn follow(mut self, roots: &[Envelope]) -> Result<Self, Refused> {
        if roots.len() > ROOTS_MAX {
            return Err(Refused::TooManyRoots);
        }
        for envelope in roots {
            let payload = opened(envelope, ROOT_TYPE, &self.root, Role::Root, What::Root)?;
            let next: Root = parse(&payload, What::Root)?;
            opened(envelope, ROOT_TYPE, &next, Role::Root, What::Root)?;
            if next.stack != self.root.stack {
                return Err(Refused::OtherStack { what: What::Root });
            }
            if Some(next.version) != self.root.version.checked_add(1) {
                let expected = self.root.version.saturating_add(1);
                return Err(Refused::RootOrder { found: next.version, expected });
            }
            if next.epoch < self.root.epoch {
                return Err(Refused::EpochBack { found: next.epoch, floor: self.root.epoch });
            }
            if next.epoch > self.root.epoch {
                // The way back after a stolen key has pushed version or time ahead.
                self.floor = None;
                self.time_floor = Time::EPOCH;
                self.fresh_until = Time::EPOCH;
            }
            self.root = next;
        }
        Ok(self)
    }

    /// What the head says, as far as it can be believed.
    pub fn decide(&self, head: &[u8], now: Now) -> Result<Decision, Refused> {
        if now.clock < now.built && self.time_floor < now.built {
            return Err(Refused::ClockNotSet { clock: now.clock });
        }
        let head: Head = limited(head, HEAD_BYTES_MAX, What::Head)?;
        let payload = opened(&head.version, VERSION_TYPE, &self.root, Role::Version, What::Version)?;
        let statement: VersionStatement = parse(&payload, What::Version)?;
        let offer = Offer { statement, digest: Digest::of(&payload) };
        let payload = opened(&head.fresh, FRESH_TYPE, &self.root, Role::Fresh, What::Fresh)?;
        let fresh: Fresh = parse(&payload, What::Fresh)?;
        self.check_names(&offer, &fresh)?;
        self.check_times(&fresh, now)?;
        let is_newer = self.check_version(&offer)?;
        let unknown: Vec<String> =
            offer.statement.requires.iter().filter(|name| !FEATURES.contains(&name.as_str())).cloned().collect();
        let record = Self {
            time_floor: self.time_floor.max(fresh.issued),
            fresh_until: self.fresh_until.max(fresh.expires),
            ..self.clone()
        };
        match is_newer {
            false => Ok(Decision::Current { record }),
            true if !unknown.is_empty() => Err(Refused::Unsupported { features: unknown }),
            true if fresh.paused => Ok(Decision::Held { record, offered: offer.statement.version }),
            true => Ok(Decision::Newer { record, offer: Box::new(offer) }),
        }
    }

    /// Believes a version whose object is here. To be on disk before anything is applied.
    pub fn adopt(mut self, offer: &Offer) -> Self {
        self.floor = Some(Floor { version: offer.statement.version, statement: offer.digest });
        self
    }

    fn check_names(&self, offer: &Offer, fresh: &Fresh) -> Result<(), Refused> {
        let statement = &offer.statement;
        if statement.stack != self.root.stack {
            return Err(Refused::OtherStack { what: What::Version });
        }
        if fresh.stack != self.root.stack {
            return Err(Refused::OtherStack { what: What::Fresh });
        }
        if statement.epoch != self.root.epoch {
            return Err(Refused::OtherEpoch { found: statement.epoch, expected: self.root.epoch });
        }
        if fresh.statement != offer.digest || fresh.version != statement.version {
            return Err(Refused::MixAndMatch);
        }
        if fresh.root > self.root.version {
            return Err(Refused::RootWithheld { known: self.root.version, newest: fresh.root });
        }
        Ok(())
    }

    fn check_times(&self, fresh: &Fresh, now: Now) -> Result<(), Refused> {
        if fresh.issued > now.clock.max(now.built).plus_secs(ISSUED_AHEAD_SECS_MAX) {
            return Err(Refused::FromTheFuture { issued: fresh.issued });
        }
        if fresh.expires <= now.clock.max(self.time_floor) {
            return Err(Refused::Expired { at: fresh.expires });
        }
        Ok(())
    }

    /// Whether it is newer than what is believed.
    fn check_version(&self, offer: &Offer) -> Result<bool, Refused> {
        let found = offer.statement.version;
        let Some(Floor { version: floor, statement }) = self.floor else { return Ok(true) };
        if found < floor {
            return Err(Refused::Rollback { found, floor });
        }
        if found == floor {
            let is_same = statement == offer.digest;
            return if is_same { Ok(false) } else { Err(Refused::Equivocation { version: found }) };
        }
        if found.0 - floor.0 > VERSION_STEP_MAX {
            return Err(Refused::FastForward { found, floor });
        }
        Ok(true)
    }
}

/// Whether these bytes are the state that was signed; to be asked before they are parsed.
pub fn check_state(offer: &Offer, bytes: &[u8]) -> Result<(), Refused> {
    let expected = offer.statement.state;
    if bytes.len() > STATE_BYTES_MAX {
        return Err(Refused::TooLarge { what: What::State, bytes_max: STATE_BYTES_MAX });
    }
    if u64::try_from(bytes.len()) != Ok(expected.size) {
        return Err(Refused::OtherSize { found: bytes.len(), expected: expected.size });
    }
    if Digest::of(bytes) != expected.sha256 {
        return Err(Refused::OtherDigest { what: What::State });
    }
    Ok(())
}

/// An envelope as a server hands it out.
pub fn read_root(bytes: &[u8]) -> Result<Envelope, Refused> {
    limited(bytes, ROOT_BYTES_MAX, What::Root)
}

fn limited<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize, what: What) -> Result<T, Refused> {
    if bytes.len() > bytes_max {
        return Err(Refused::TooLarge { what, bytes_max });
    }
    parse(bytes, what)
}

fn parse<T: DeserializeOwned>(bytes: &[u8], what: What) -> Result<T, Refused> {
    serde_json::from_slice(bytes).map_err(|_| Refused::Unreadable { what })
}

fn opened(envelope: &Envelope, kind: &str, root: &Root, role: Role, what: What) -> Result<Vec<u8>, Refused> {
    let opened = envelope.open(kind, &root.keys_of(role), root.threshold_of(role));
    opened.map_err(|why| Refused::Unverified { what, why })
}

/// Before anything of it is known to be true.
fn claimed_payload(envelope: &Envelope) -> Result<Vec<u8>, Refused> {
    use base64::Engine;
    let decoded = base64::engine::general_purpose::STANDARD.decode(&envelope.payload);
    let payload = decoded.map_err(|_| Refused::Unreadable { what: What::Root })?;
    if payload.len() > ROOT_BYTES_MAX {
        return Err(Refused::TooLarge { what: What::Root, bytes_max: ROOT_BYTES_MAX });
    }
    Ok(payload)
}
