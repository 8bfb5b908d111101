//! What managers and shims ask, and the answers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::wire::{Envelope, Message, Refusal};
use agentd_sys::seqpacket::Connection;

use super::bucket::StartBucket;
use super::fleet::{Fleet, NotSpawned};
use super::instance::pair;
use agentd_sys::causes::chain;

/// Entries of one Instances message: 32 bytes each, half of what a message may carry.
const SHIMS_PER_MESSAGE: usize = 256;

/// Whether the keeper goes on after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    GoOn,
    End,
}

/// Answers one message. An error is one of the connection: a reader so slow that its socket is full is closed.
pub(super) fn answer(
    fleet: &mut Fleet,
    bucket: &mut StartBucket,
    connection: &Connection,
    (envelope, fds): (Envelope, Vec<OwnedFd>),
    now_ms: u64,
) -> io::Result<After> {
    let mut after = After::GoOn;
    let message = match envelope.message {
        Message::List => return list(fleet, connection, envelope.seq).map(|()| after),
        Message::AskHeld { instance } => return held(fleet, connection, envelope.seq, instance).map(|()| after),
        Message::Spawn { instance, names } => spawn(fleet, instance, names, fds, now_ms),
        Message::Forget { instance } => forget(fleet, instance),
        Message::Shutdown if fleet.instances.is_empty() => {
            after = After::End;
            Message::Done
        }
        Message::Shutdown => refused(Refusal::Busy, "shims live or are about to; stop and forget them first"),
        Message::AskStart { .. } => Message::GrantStart { wait_ms: bucket.take(now_ms) },
        Message::Hello { .. }
        | Message::Welcome { .. }
        | Message::Event(_)
        | Message::Ack { .. }
        | Message::Start
        | Message::Stop { .. }
        | Message::Restart
        | Message::Kill
        | Message::MarkReady { .. }
        | Message::Leave
        | Message::Held { .. }
        | Message::Done
        | Message::Refused { .. }
        | Message::Instances { .. }
        | Message::GrantStart { .. } => refused(Refusal::Unsupported, "not a question for the keeper"),
    };
    send(connection, envelope.seq, message, &[])?;
    Ok(after)
}

/// To a message of a kind or version we do not know.
pub(super) fn refuse_unknown(connection: &Connection, seq: u32) -> io::Result<()> {
    send(connection, seq, refused(Refusal::Unsupported, "unknown to this keeper"), &[])
}

fn send(connection: &Connection, re: u32, message: Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    // Every message of ours is an answer, so `re` says all that a number of our own would.
    connection.send(&Envelope { seq: 0, re, message }, fds)
}

fn refused(reason: Refusal, text: &str) -> Message {
    Message::Refused { reason, text: text.to_owned() }
}

fn spawn(fleet: &mut Fleet, instance: String, names: Vec<String>, fds: Vec<OwnedFd>, now_ms: u64) -> Message {
    let Ok(id) = InstanceId::new(instance) else { return refused(Refusal::Unknown, InstanceId::RULE) };
    let done = pair(names, fds).map_err(NotSpawned::Wrong).and_then(|held| fleet.spawn(&id, held, now_ms));
    match done {
        Ok(()) => Message::Done,
        Err(error @ NotSpawned::NoFolder) => refused(Refusal::Unknown, &chain(&error)),
        Err(error @ NotSpawned::GoingDown) => refused(Refusal::Busy, &chain(&error)),
        Err(
            error @ (NotSpawned::Wrong(_)
            | NotSpawned::Full
            | NotSpawned::Pipes(_)
            | NotSpawned::Lock(_)
            | NotSpawned::Exec(_)),
        ) => refused(Refusal::Failed, &chain(&error)),
    }
}

fn forget(fleet: &mut Fleet, instance: String) -> Message {
    match InstanceId::new(instance) {
        Err(_) => refused(Refusal::Unknown, InstanceId::RULE),
        Ok(id) if fleet.forget(&id) => Message::Done,
        Ok(_) => refused(Refusal::Busy, "its shim lives; tell it to leave first"),
    }
}

/// Instances messages until all are told, then Done.
fn list(fleet: &Fleet, connection: &Connection, re: u32) -> io::Result<()> {
    let all: Vec<(String, u32)> = fleet.living().collect();
    for shims in all.chunks(SHIMS_PER_MESSAGE) {
        send(connection, re, Message::Instances { shims: shims.to_vec() }, &[])?;
    }
    send(connection, re, Message::Done, &[])
}

fn held(fleet: &Fleet, connection: &Connection, re: u32, instance: Option<String>) -> io::Result<()> {
    let found = instance.and_then(|id| InstanceId::new(id).ok()).and_then(|id| fleet.instances.get(&id));
    let Some(instance) = found else {
        return send(connection, re, refused(Refusal::Unknown, "no such instance is kept"), &[]);
    };
    let names = instance.held.iter().map(|item| item.name.clone()).collect();
    let fds: Vec<BorrowedFd<'_>> = instance.held.iter().map(|item| item.fd.as_fd()).collect();
    send(connection, re, Message::Held { names }, &fds)
}
