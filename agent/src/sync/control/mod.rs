//! This host and its control server: joining it, saying how the host does, and believing what it hands out.
//!
//! Owns: the identity, the signed calls, the loop of reports, what waits to be told, and the way of a version from
//! signatures to the store. Must never know: what a version does to services, or what the firewall does; a snapshot and
//! the owner's policy are handed in. A host obeys signatures, never a server: nothing that a server answers, or fails
//! to, stops or deletes anything.
//! Called by: the app, `agentd join` and `agentd leave`. Uses the store room.
//! Survives a restart: the identity file; what is believed, the versions and the outbox in the store.

mod client;
mod events;
#[cfg(test)]
#[expect(dead_code, unreachable_pub, reason = "shared with the suites that start the real programs")]
#[path = "../../../../tests/src/fake_control.rs"]
mod fake;
mod fetch;
mod fit;
mod identity;
mod join;
mod probe;
mod readopt;
mod report;
mod snapshot;
mod status;
mod step;
mod task;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_faults;
#[cfg(test)]
mod tests_of_numbers;

use std::fmt::Write;
use std::sync::Arc;

use agentd_protocol::api::{Status, What};
use agentd_protocol::control::report::EventRecord;
use futures_util::future::BoxFuture;

use super::Judge;

pub use client::{ClientError, NoAnswer, Reach, check_authorities};
pub use identity::{IDENTITY_FILE, Identity, IdentityError, drop_pending, forget, pending_key};
pub use join::{APPROVAL_LIMIT, Applicant, JoinError, Progress, join};
pub use probe::{Probe, probe};
pub use task::{Control, Setup};

/// How the host does now; `None`: nobody can say.
pub type SnapshotSource = Arc<dyn Fn() -> BoxFuture<'static, Option<Status>> + Send + Sync>;
/// Takes secrets out of what is about to leave the host.
pub type MaskRecord = Arc<dyn Fn(&mut EventRecord) + Send + Sync>;
/// Where events go.
pub type Note = Arc<dyn Fn(What) + Send + Sync>;

/// 128 bits.
fn random_hex() -> String {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random).expect("the kernel has random bytes once it has started");
    random.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every write");
        text
    })
}

fn unix_secs() -> u64 {
    agentd_sys::clock::real_ns() / 1_000_000_000
}

fn unix_ms() -> u64 {
    agentd_sys::clock::real_ns() / 1_000_000
}
