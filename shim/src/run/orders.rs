//! What managers ask over the control socket, and the answers.

use std::os::fd::AsFd;

use agentd_protocol::shim::state::Phase;
use agentd_protocol::shim::wire::{Message, Refusal, VERSION_MAX};
use agentd_sys::clock;

use super::control::Request;
use super::instance::{Input, Order};
use super::supervise::{Lifetime, Shim};
use crate::say;

impl Shim {
    pub(super) fn answer(&mut self, peer: usize) {
        let Some(request) = self.control.receive(peer) else { return };
        if let Message::Hello { version_min, version_max, epoch, events_after } = request.message {
            self.hello(&request, (version_min, version_max), epoch, events_after);
        } else if self.control.epoch(peer) < self.state.epoch {
            self.control.refuse(&request, Refusal::OldEpoch, "a newer manager has taken over");
        } else {
            self.obey(&request);
        }
    }

    fn hello(&mut self, request: &Request, versions: (u8, u8), epoch: u64, events_after: u64) {
        if epoch < self.state.epoch {
            self.control.refuse(request, Refusal::OldEpoch, "a newer manager has taken over");
            return;
        }
        if epoch > self.state.epoch {
            self.state.epoch = epoch;
            self.persist();
        }
        self.state.event_seq = self.events.last_seq();
        let welcome = Message::Welcome {
            version: VERSION_MAX,
            shim_pid: std::process::id(),
            shim_build: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.state.clone(),
            held: self.held.iter().map(|(name, _)| name.clone()).collect(),
        };
        // A number beyond ours is from another life of the directory; what comes now is still delivered.
        let delivered = events_after.min(self.events.last_seq());
        self.control.greet(request, versions, epoch, delivered, welcome);
    }

    fn obey(&mut self, request: &Request) {
        match &request.message {
            Message::Start => self.order(request, Order::Start),
            Message::Stop { timeout_ms } => self.order(request, Order::Stop { timeout_ms: *timeout_ms }),
            Message::Restart => self.order(request, Order::Restart),
            Message::Kill => self.order(request, Order::Kill),
            Message::MarkReady { incarnation } => {
                let up = matches!(self.state.phase, Phase::Up { .. });
                if up && *incarnation == self.state.incarnation {
                    self.order(request, Order::MarkReady);
                } else {
                    self.control.refuse(request, Refusal::Busy, "that incarnation is not up");
                }
            }
            Message::Ack { event_seq } => {
                if let Err(error) = self.events.acknowledge(*event_seq) {
                    say(&format!("cannot shorten the events file; look at the space in the run folder: {error}"));
                }
            }
            Message::Leave => match self.state.phase {
                Phase::Down => {
                    self.control.reply(request, Message::Done, &[]);
                    self.lifetime = Lifetime::Left;
                }
                Phase::Starting { .. }
                | Phase::Up { .. }
                | Phase::Stopping { .. }
                | Phase::Clearing { .. }
                | Phase::Backoff { .. }
                | Phase::Quarantined { .. } => self.control.refuse(request, Refusal::Busy, "stop it first"),
            },
            Message::AskHeld { .. } => {
                let names = self.held.iter().map(|(name, _)| name.clone()).collect();
                let fds: Vec<_> = self.held.iter().map(|(_, fd)| fd.as_fd()).collect();
                self.control.reply(request, Message::Held { names }, &fds);
            }
            Message::Hello { .. }
            | Message::Welcome { .. }
            | Message::Event(_)
            | Message::Held { .. }
            | Message::Done
            | Message::Refused { .. }
            | Message::Spawn { .. }
            | Message::List
            | Message::Instances { .. }
            | Message::Forget { .. }
            | Message::Shutdown
            | Message::AskStart { .. }
            | Message::GrantStart { .. } => {
                self.control.refuse(request, Refusal::Unsupported, "not a message for a shim");
            }
        }
    }

    /// Done once it is on disk; what follows comes as events.
    fn order(&mut self, request: &Request, order: Order) {
        if self.lifetime == Lifetime::HostGoesDown && matches!(order, Order::Start | Order::Restart) {
            self.control.refuse(request, Refusal::Busy, "the host goes down");
            return;
        }
        self.feed(Input::Order(order));
        if self.is_persisted() {
            self.control.reply(request, Message::Done, &[]);
        } else {
            self.control.refuse(request, Refusal::Failed, "the state file cannot be written");
        }
        // The answer stands before the events it leads to.
        self.control.deliver(&self.events, clock::boot_ms());
    }
}
