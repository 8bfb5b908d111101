//! Ends what is left of a tree, round by round, until nothing is.

use agentd_protocol::shim::event::EventKind;
use agentd_protocol::shim::state::{AfterStop, Identity, Phase};

use super::instance::Input;
use super::supervise::Shim;
use super::tree::{self, Member, Root};
use crate::say;

/// Between rounds, ms: doubles from the first to the last, for each reads all of /proc.
const ROUND_FIRST_MS: u64 = 2;
const ROUND_MAX_MS: u64 = 250;
/// What survives SIGKILL for so long sits in the kernel; operators are told, ms.
const UNKILLABLE_MS: u64 = 10_000;

/// Progress within one phase; a new phase begins anew.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    due_boot_ms: u64,
    wait_ms: u64,
    asked: bool,
    killing_since_boot_ms: Option<u64>,
    told_unkillable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Wait,
    /// SIGTERM to everything.
    AskAll,
    /// SIGTERM to what the stop signal to the process group did not reach.
    AskEscaped,
    Kill,
}

impl Sweep {
    pub(super) fn due_boot_ms(&self) -> u64 {
        self.due_boot_ms
    }

    fn action(&self, boot_ms: u64, kill_at_boot_ms: u64, then: AfterStop) -> Action {
        if boot_ms >= kill_at_boot_ms {
            Action::Kill
        } else if self.asked {
            Action::Wait
        } else {
            match then {
                AfterStop::Policy => Action::AskAll,
                AfterStop::StayDown | AfterStop::StartAgain => Action::AskEscaped,
            }
        }
    }

    fn next_round(&mut self, boot_ms: u64) {
        self.wait_ms = (self.wait_ms * 2).clamp(ROUND_FIRST_MS, ROUND_MAX_MS);
        self.due_boot_ms = boot_ms + self.wait_ms;
    }
}

impl Shim {
    /// Remembers whose tree is to be cleared, from the program's end on.
    pub(super) fn sweep_root(&mut self, program: Identity) {
        self.last_root = Root { pid: program.pid, start_ticks: program.start_ticks };
    }

    pub(super) fn sweep(&mut self, boot_ms: u64) {
        if boot_ms < self.sweep.due_boot_ms {
            return;
        }
        match self.state.phase {
            Phase::Stopping { kill_at_boot_ms, .. } => {
                if boot_ms >= kill_at_boot_ms {
                    let root = self.program.as_ref().map_or(self.last_root, super::program::Program::root);
                    let members = tree::survey(root, &self.spec.instance);
                    self.kill(&members, boot_ms);
                    self.sweep.next_round(boot_ms);
                }
            }
            Phase::Clearing { kill_at_boot_ms, then } => {
                let members = tree::survey(self.last_root, &self.spec.instance);
                if members.is_empty() {
                    self.drain(0);
                    self.drain(1);
                    self.last_root = Root::default();
                    self.feed(Input::TreeGone);
                    return;
                }
                self.act_on(&members, self.sweep.action(boot_ms, kill_at_boot_ms, then), boot_ms);
                self.sweep.next_round(boot_ms);
            }
            Phase::Down
            | Phase::Starting { .. }
            | Phase::Up { .. }
            | Phase::Backoff { .. }
            | Phase::Quarantined { .. } => {}
        }
    }

    fn act_on(&mut self, members: &[Member], action: Action, boot_ms: u64) {
        let own_group = self.last_root.pid;
        match action {
            Action::Wait => {}
            Action::AskAll => {
                self.sweep.asked = true;
                self.record(EventKind::Stragglers { count: count(members) });
                self.signal(members, libc::SIGTERM);
            }
            Action::AskEscaped => {
                self.sweep.asked = true;
                let escaped: Vec<_> =
                    members.iter().copied().filter(|member| member.group != own_group || own_group == 0).collect();
                self.signal(&escaped, libc::SIGTERM);
            }
            Action::Kill => {
                let first = self.sweep.killing_since_boot_ms.is_none();
                let told =
                    self.sweep.asked && matches!(self.state.phase, Phase::Clearing { then: AfterStop::Policy, .. });
                if first && !told {
                    self.record(EventKind::Stragglers { count: count(members) });
                }
                self.kill(members, boot_ms);
            }
        }
    }

    fn signal(&self, members: &[Member], number: i32) {
        for member in members {
            if let Err(error) = tree::signal(*member, number) {
                say(&format!("cannot signal process {} of the instance: {error}", member.pid));
            }
        }
    }

    fn kill(&mut self, members: &[Member], boot_ms: u64) {
        let since = *self.sweep.killing_since_boot_ms.get_or_insert(boot_ms);
        self.signal(members, libc::SIGKILL);
        if boot_ms - since >= UNKILLABLE_MS && !self.sweep.told_unkillable {
            self.sweep.told_unkillable = true;
            self.record(EventKind::Unkillable { count: count(members) });
        }
    }
}

fn count(members: &[Member]) -> u32 {
    u32::try_from(members.len()).unwrap_or(u32::MAX)
}
