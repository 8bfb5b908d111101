//! The running program: started behind its gate or adopted, and how its end is learned.

use std::os::fd::{AsFd, BorrowedFd};

use agentd_protocol::shim::log::Mark;
use agentd_protocol::shim::state::{Exit, Identity, Phase};
use agentd_protocol::shim::{STDERR_FIFO, STDOUT_FIFO};
use agentd_sys::clock;
use agentd_sys::process::{self, DeadChild, PidFd};

use super::ended::{self, Ending};
use super::exec::{self, ExecStatus, Gate, Gated, StatusPipe};
use super::instance::{Input, NeverRan};
use super::supervise::Shim;
use super::{grant, setup, tree};
use crate::say;

/// How long somebody else's record of an exit is waited for, ms; past it the exit is unknown.
const LEARN_MS: u64 = 1_000;
/// A process whose image we may not see counts as the program when it is older than this, ms.
const EXEC_MS: u64 = 1_000;
/// Clock ticks of /proc per second: fixed at 100 for user space on every architecture we build for.
const TICKS_PER_SECOND: u64 = 100;

#[derive(Debug)]
pub(super) struct Program {
    pidfd: PidFd,
    identity: Identity,
    kin: Kin,
}

#[derive(Debug)]
enum Kin {
    /// Ours to reap.
    Child { gate: Option<Gate>, status: Option<StatusPipe>, exec_errno: Option<i32> },
    /// Another shim's child; its parent now is the keeper, or whoever adopts orphans.
    Stranger { executed: Executed, learn_until_boot_ms: Option<u64> },
}

/// An adopted program may have been caught between fork and exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Executed {
    Yes,
    NotSeen,
}

/// What became of the program that a state names.
#[derive(Debug)]
pub(super) enum Sight {
    /// It names none.
    None,
    OtherBoot,
    Alive(Program),
    Gone(Input),
}

impl Program {
    /// CLOCK_BOOTTIME, from the kernel's own record; 10 ms coarse.
    pub(super) fn started_boot_ms(&self) -> u64 {
        self.identity.start_ticks.saturating_mul(1_000 / TICKS_PER_SECOND)
    }

    pub(super) fn exec_status_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.kin {
            // Before the gate is open there is nothing to tell.
            Kin::Child { status, gate: None, .. } => status.as_ref().map(|status| status.0.as_fd()),
            Kin::Child { gate: Some(_), .. } | Kin::Stranger { .. } => None,
        }
    }

    /// Becomes readable when a stranger has ended; a child's end comes as SIGCHLD.
    pub(super) fn end_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.kin {
            Kin::Stranger { learn_until_boot_ms: None, .. } => Some(self.pidfd.as_fd()),
            Kin::Stranger { learn_until_boot_ms: Some(_), .. } | Kin::Child { .. } => None,
        }
    }

    pub(super) fn needs_recheck(&self) -> bool {
        match &self.kin {
            Kin::Stranger { executed, learn_until_boot_ms } => {
                *executed == Executed::NotSeen || learn_until_boot_ms.is_some()
            }
            Kin::Child { .. } => false,
        }
    }

    pub(super) fn root(&self) -> tree::Root {
        tree::Root { pid: self.identity.pid, start_ticks: self.identity.start_ticks }
    }

    /// The stop signal goes to the whole process group, for wrappers (npm, sh -c) do not pass it on.
    pub(super) fn signal_group(&self, number: i32, instance: &str) {
        match self.pidfd.signal_group(number) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                for member in tree::survey(self.root(), instance) {
                    if member.group == self.identity.pid {
                        told(tree::signal(member, number));
                    }
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => told(Err(error)),
        }
    }
}

fn told(sent: std::io::Result<()>) {
    if let Err(error) = sent {
        say(&format!("cannot signal a process of the instance: {error}"));
    }
}

impl Shim {
    /// Finds what the restored state names.
    pub(super) fn look_for_program(&self) -> Sight {
        let Some(identity) = self.state.phase.program() else { return Sight::None };
        match process::boot_id() {
            Ok(boot_id) if boot_id != identity.boot_id => return Sight::OtherBoot,
            Ok(_) => {}
            Err(error) => say(&format!("cannot read the boot id: {error}")),
        }
        match process::find(identity) {
            Ok(Some(pidfd)) => {
                let executed = match self.state.phase {
                    Phase::Starting { .. } => Executed::NotSeen,
                    Phase::Down
                    | Phase::Up { .. }
                    | Phase::Stopping { .. }
                    | Phase::Clearing { .. }
                    | Phase::Backoff { .. }
                    | Phase::Quarantined { .. } => Executed::Yes,
                };
                let kin = Kin::Stranger { executed, learn_until_boot_ms: None };
                Sight::Alive(Program { pidfd, identity: identity.clone(), kin })
            }
            // Whoever reaps records first, so one look is enough.
            Ok(None) => Sight::Gone(self.ending_input(identity, ended::learn(None, identity, &self.exits_path))),
            Err(error) => {
                say(&format!("cannot look for the program, taking it for gone: {error}"));
                Sight::Gone(self.ending_input(identity, None))
            }
        }
    }

    fn ending_input(&self, identity: &Identity, ending: Option<Ending>) -> Input {
        let ending = ending.unwrap_or(Ending { exit: Exit::Unknown, at_real_ns: None });
        if ending.exit == Exit::Code(exec::NEVER_RAN) && matches!(self.state.phase, Phase::Starting { .. }) {
            return Input::NeverRan { shim: NeverRan::Before };
        }
        let at_real_ns = ending.at_real_ns.unwrap_or_else(clock::real_ns);
        let ago_ms = clock::real_ns().saturating_sub(at_real_ns) / 1_000_000;
        let started_boot_ms = identity.start_ticks.saturating_mul(1_000 / TICKS_PER_SECOND);
        let uptime_ms = clock::boot_ms().saturating_sub(ago_ms).saturating_sub(started_boot_ms);
        let manager = self.control.manager(self.state.epoch);
        Input::Ended { exit: ending.exit, at_real_ns, uptime_ms, manager }
    }

    /// Starts the program, or puts the start off as long as the keeper says.
    pub(super) fn launch(&mut self) {
        if !std::mem::take(&mut self.granted) {
            let wait_ms = grant::ask(&self.dir, &self.spec.instance);
            if wait_ms > 0 {
                self.granted = true;
                self.feed(Input::Granted { wait_ms });
                return;
            }
        }
        self.logs.mark(Mark::IncarnationStart);
        let (out, err) = (self.dir.join(STDOUT_FIFO), self.dir.join(STDERR_FIFO));
        let forked = exec::fork_gated(&self.plan, &out, &err, self.lock.raw_fd())
            .and_then(|gated| Ok((process::identify(gated.pid, &gated.pidfd)?, gated)));
        match forked {
            Ok((identity, Gated { pidfd, gate, status, .. })) => {
                let kin = Kin::Child { gate: Some(gate), status: Some(status), exec_errno: None };
                self.program = Some(Program { pidfd, identity: identity.clone(), kin });
                self.feed(Input::Forked { program: identity });
            }
            Err(error) => {
                say(&format!("cannot start a process; look at the limits of processes and memory: {error}"));
                self.feed(Input::ForkFailed);
            }
        }
    }

    /// Without a record the gate is dropped unopened, which sends the child away.
    pub(super) fn open_gate(&mut self) {
        let persisted = self.is_persisted();
        let Some(Program { kin: Kin::Child { gate, status, .. }, .. }) = &mut self.program else { return };
        match gate.take() {
            Some(gate) if persisted => {
                if let Err(error) = gate.open() {
                    say(&format!("cannot open the start gate: {error}"));
                }
            }
            // The pipe will end without an exec.
            Some(_) | None => *status = None,
        }
    }

    pub(super) fn ask_to_end(&mut self) {
        if let Some(program) = &self.program {
            program.signal_group(self.spec.stop_signal, &self.spec.instance);
            // A stopped process acts on nothing until it goes on.
            program.signal_group(libc::SIGCONT, &self.spec.instance);
        }
    }

    pub(super) fn read_exec_status(&mut self) {
        let Some(Program { kin: Kin::Child { status: slot, exec_errno, .. }, .. }) = &mut self.program else { return };
        let Some(pipe) = slot else { return };
        match pipe.read() {
            ExecStatus::Pending => {}
            ExecStatus::Failed { errno } => {
                *exec_errno = Some(errno);
                *slot = None;
            }
            ExecStatus::Executed => {
                *slot = None;
                self.feed(Input::Executed);
            }
        }
    }

    /// Reaps everything dead; the program only after its end is on disk.
    pub(super) fn reap(&mut self) {
        loop {
            match process::dead_child() {
                Ok(Some(dead)) => {
                    let is_program = self.program.as_ref().is_some_and(|program| program.identity.pid == dead.pid);
                    if is_program {
                        self.child_ended(dead);
                    }
                    if let Err(error) = process::reap(dead.pid) {
                        say(&format!("cannot reap {}: {error}", dead.pid));
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => return say(&format!("cannot look for dead children: {error}")),
            }
        }
    }

    fn child_ended(&mut self, dead: DeadChild) {
        self.read_exec_status();
        let Some(program) = self.program.take() else { return };
        self.drain(0);
        self.drain(1);
        let Program { identity, kin, .. } = program;
        let errno = match kin {
            Kin::Child { exec_errno, .. } => exec_errno,
            Kin::Stranger { .. } => None,
        };
        let exit = errno.map_or(dead.exit, |errno| Exit::ExecFailed { errno });
        let input = match self.ending_input(&identity, Some(Ending { exit, at_real_ns: None })) {
            Input::NeverRan { .. } => Input::NeverRan { shim: NeverRan::Ours },
            other => other,
        };
        self.sweep_root(identity);
        self.feed(input);
    }

    /// A stranger's pidfd says that it has ended; whoever reaps it may need a moment.
    pub(super) fn stranger_ended(&mut self) {
        let until = clock::boot_ms() + LEARN_MS;
        if let Some(Program { kin: Kin::Stranger { learn_until_boot_ms, .. }, .. }) = &mut self.program {
            learn_until_boot_ms.get_or_insert(until);
        }
    }

    /// Looks again at what no descriptor tells.
    pub(super) fn recheck_program(&mut self, boot_ms: u64) {
        let Some(program) = &mut self.program else { return };
        let Program { pidfd, identity, kin: Kin::Stranger { executed, learn_until_boot_ms } } = program else { return };
        match *learn_until_boot_ms {
            None => {
                let begun_boot_ms = identity.start_ticks.saturating_mul(1_000 / TICKS_PER_SECOND);
                let is_old = boot_ms.saturating_sub(begun_boot_ms) > EXEC_MS;
                if *executed == Executed::NotSeen && setup::runs_other_image(identity.pid).unwrap_or(is_old) {
                    *executed = Executed::Yes;
                    self.feed(Input::Executed);
                }
            }
            Some(until) => {
                let ending = ended::learn(Some(pidfd), identity, &self.exits_path);
                if ending.is_none() && boot_ms < until {
                    return;
                }
                let identity = identity.clone();
                self.program = None;
                self.drain(0);
                self.drain(1);
                let input = self.ending_input(&identity, ending);
                self.sweep_root(identity);
                self.feed(input);
            }
        }
    }
}
