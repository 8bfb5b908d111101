//! Asks the keeper before a start, so that a host full of crashing programs does not drown in forks.

use std::path::Path;
use std::time::Duration;

use agentd_protocol::shim::wire::{Envelope, Message};
use agentd_protocol::shim::{CONTROL_SOCKET, KEEPER_DIR};
use agentd_sys::seqpacket::{Connection, Received};

/// A keeper that takes longer, or is away, is not waited for: each shim's own back-off holds.
const ANSWER_MAX: Duration = Duration::from_millis(100);
/// Longest wait that is believed, ms.
const WAIT_MAX_MS: u32 = 60_000;

/// How long to wait before starting, ms.
pub(crate) fn ask(instance_dir: &Path, instance: &str) -> u64 {
    u64::from(asked(instance_dir, instance).unwrap_or(0).min(WAIT_MAX_MS))
}

fn asked(instance_dir: &Path, instance: &str) -> Option<u32> {
    let keeper_dir = instance_dir.join("../..").join(KEEPER_DIR);
    let connection = Connection::connect_within(&keeper_dir, CONTROL_SOCKET, ANSWER_MAX).ok()?;
    let message = Message::AskStart { instance: instance.to_owned() };
    connection.send(&Envelope { seq: 1, re: 0, message }, &[]).ok()?;
    match connection.receive().ok()? {
        Received::Message { envelope: Envelope { message: Message::GrantStart { wait_ms }, .. }, .. } => Some(wait_ms),
        Received::Message { .. } | Received::Bad(_) | Received::Closed => None,
    }
}
