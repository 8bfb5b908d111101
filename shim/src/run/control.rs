//! Connections on `ctl.sock`: who they are, what they ask, and the events each still has to get.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use agentd_protocol::shim::CONTROL_SOCKET;
use agentd_protocol::shim::wire::{Envelope, Message, Refusal, VERSION_MAX, VERSION_MIN, WireError};
use agentd_sys::seqpacket::{Blocking, Connection, Listener, Received};

use super::events::EventLog;
use super::policy::Manager;

/// The manager, its successor for a moment, and people looking on.
const PEERS_MAX: usize = 8;
/// A peer that takes no event for so long is dropped; it connects again and asks for what it lacks, ms.
const LAG_MAX_MS: u64 = 10_000;

#[derive(Debug)]
pub(crate) struct Control {
    listener: Listener,
    peers: Vec<Peer>,
}

#[derive(Debug)]
struct Peer {
    connection: Connection,
    greeting: Greeting,
    /// Last sequence number used on this connection.
    seq: u32,
    gone: bool,
}

#[derive(Debug, Clone, Copy)]
enum Greeting {
    None,
    /// No common version: may stop, kill and dismiss us all the same.
    Foreign {
        epoch: u64,
    },
    Done {
        epoch: u64,
        delivered: u64,
        stuck_since_boot_ms: Option<u64>,
    },
}

/// A message that needs the instance; what concerns the connection alone is dealt with here.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) peer: usize,
    pub(crate) re: u32,
    pub(crate) message: Message,
}

impl Control {
    pub(crate) fn bind(dir: &Path) -> io::Result<Self> {
        Ok(Self { listener: Listener::bind(dir, CONTROL_SOCKET)?, peers: Vec::new() })
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Descriptors in the order of peer numbers, and whether each waits to be written to.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        self.peers.iter().map(|peer| {
            let stuck = matches!(peer.greeting, Greeting::Done { stuck_since_boot_ms: Some(_), .. });
            (peer.connection.as_fd(), stuck)
        })
    }

    /// Whether a manager of the current epoch is connected.
    pub(crate) fn manager(&self, current_epoch: u64) -> Manager {
        let is_current = |peer: &Peer| matches!(peer.greeting, Greeting::Done { epoch, .. } if epoch == current_epoch);
        if self.peers.iter().any(is_current) { Manager::Connected } else { Manager::Away }
    }

    /// Takes waiting connections from root and from our own user; closes others and what is over the limit.
    pub(crate) fn accept(&mut self) {
        for _ in 0..PEERS_MAX {
            let Ok(Some(connection)) = self.listener.accept(Blocking::No) else { return };
            let own = nix::unistd::geteuid().as_raw();
            let allowed = connection.peer().is_ok_and(|peer| peer.uid == 0 || peer.uid == own);
            if allowed && self.peers.len() < PEERS_MAX {
                self.peers.push(Peer { connection, greeting: Greeting::None, seq: 0, gone: false });
            }
        }
    }

    /// One message of a peer; refuses by itself what needs no look at the instance.
    pub(crate) fn receive(&mut self, index: usize) -> Option<Request> {
        let peer = self.peers.get_mut(index)?;
        let envelope = match peer.connection.receive() {
            Ok(Received::Message { envelope, .. }) => envelope,
            Ok(Received::Bad(WireError::Unsupported { seq })) => {
                peer.refuse(seq, Refusal::Unsupported, "this shim does not know the message");
                return None;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return None;
            }
            Ok(Received::Bad(_) | Received::Closed) | Err(_) => {
                peer.gone = true;
                return None;
            }
        };
        let Envelope { seq, message, .. } = envelope;
        let allowed = match peer.greeting {
            Greeting::None => matches!(message, Message::Hello { .. }),
            Greeting::Foreign { .. } => {
                matches!(message, Message::Hello { .. } | Message::Stop { .. } | Message::Kill | Message::Leave)
            }
            Greeting::Done { .. } => true,
        };
        if !allowed {
            peer.refuse(seq, Refusal::Unsupported, "the first message is Hello with a version both know");
            return None;
        }
        Some(Request { peer: index, re: seq, message })
    }

    /// The epoch a peer greeted with.
    pub(crate) fn epoch(&self, index: usize) -> u64 {
        match self.peers.get(index).map(|peer| peer.greeting) {
            Some(Greeting::Foreign { epoch } | Greeting::Done { epoch, .. }) => epoch,
            Some(Greeting::None) | None => 0,
        }
    }

    /// Remembers a greeting and answers it: with `welcome` when there is a common version.
    pub(crate) fn greet(
        &mut self,
        request: &Request,
        versions: (u8, u8),
        epoch: u64,
        delivered: u64,
        welcome: Message,
    ) {
        let Some(peer) = self.peers.get_mut(request.peer) else { return };
        if versions.0.max(VERSION_MIN) > versions.1.min(VERSION_MAX) {
            peer.greeting = Greeting::Foreign { epoch };
            let text = format!("this shim speaks versions {VERSION_MIN} to {VERSION_MAX}");
            peer.refuse(request.re, Refusal::Unsupported, &text);
            return;
        }
        peer.greeting = Greeting::Done { epoch, delivered, stuck_since_boot_ms: None };
        peer.send(request.re, welcome, &[]);
    }

    pub(crate) fn reply(&mut self, request: &Request, message: Message, fds: &[BorrowedFd<'_>]) {
        if let Some(peer) = self.peers.get_mut(request.peer) {
            peer.send(request.re, message, fds);
        }
    }

    pub(crate) fn refuse(&mut self, request: &Request, reason: Refusal, text: &str) {
        if let Some(peer) = self.peers.get_mut(request.peer) {
            peer.refuse(request.re, reason, text);
        }
    }

    /// Sends every peer the events it lacks, as many as its socket takes.
    pub(crate) fn deliver(&mut self, events: &EventLog, boot_ms: u64) {
        for peer in self.peers.iter_mut().filter(|peer| !peer.gone) {
            peer.catch_up(events, boot_ms);
        }
    }

    /// Forgets who is gone; peer numbers are valid until then.
    pub(crate) fn forget_gone(&mut self) {
        self.peers.retain(|peer| !peer.gone);
    }
}

impl Peer {
    fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    /// A peer that cannot even take an answer is dropped.
    fn send(&mut self, re: u32, message: Message, fds: &[BorrowedFd<'_>]) {
        let seq = self.next_seq();
        self.gone |= self.connection.send(&Envelope { seq, re, message }, fds).is_err();
    }

    fn refuse(&mut self, re: u32, reason: Refusal, text: &str) {
        self.send(re, Message::Refused { reason, text: text.to_owned() }, &[]);
    }

    fn catch_up(&mut self, events: &EventLog, boot_ms: u64) {
        let Greeting::Done { epoch, mut delivered, stuck_since_boot_ms } = self.greeting else { return };
        let mut stuck = stuck_since_boot_ms;
        let before = delivered;
        while let Ok(Some((event_seq, event))) = events.after(delivered) {
            if let Some(event) = event {
                let seq = self.next_seq();
                match self.connection.send(&Envelope { seq, re: 0, message: Message::Event(event) }, &[]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let since = if delivered > before { boot_ms } else { stuck.unwrap_or(boot_ms) };
                        self.gone |= boot_ms.saturating_sub(since) > LAG_MAX_MS;
                        self.greeting = Greeting::Done { epoch, delivered, stuck_since_boot_ms: Some(since) };
                        return;
                    }
                    Err(_) => {
                        self.gone = true;
                        return;
                    }
                }
            }
            delivered = event_seq;
            stuck = None;
        }
        self.greeting = Greeting::Done { epoch, delivered, stuck_since_boot_ms: stuck };
    }
}
