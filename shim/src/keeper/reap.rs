//! What is written down of a dead child before it is let go.

use agentd_protocol::shim::event::ReapRecord;
use agentd_protocol::shim::state::Exit;
use agentd_sys::clock;
use agentd_sys::process::{self, DeadChild, PidFd};

/// Must be taken before the reap: afterwards the pid may be another's.
pub(super) fn record(dead: DeadChild) -> ReapRecord {
    ReapRecord {
        pid: dead.pid,
        wait_status: wait_status(dead.exit),
        pidfd_inode: PidFd::open(dead.pid).and_then(|pidfd| pidfd.inode()).unwrap_or_default(),
        start_ticks: process::stat(dead.pid).map(|stat| stat.start_ticks).unwrap_or_default(),
        real_ns: clock::real_ns(),
    }
}

/// As wait(2) gives it.
fn wait_status(exit: Exit) -> i32 {
    match exit {
        Exit::Code(code) => i32::from(code) << 8,
        Exit::Signal { number, core } => i32::from(number) | if core { 0x80 } else { 0 },
        // Not ends that the kernel reports of a child.
        Exit::ExecFailed { .. } | Exit::TimeLimit | Exit::Unknown => 0x7f,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_back_as_wait_would_give_it() {
        for exit in [
            Exit::Code(42),
            Exit::Signal { number: 11, core: true },
            // SIGRTMIN, which many wrappers cannot name.
            Exit::Signal { number: 34, core: false },
        ] {
            assert_eq!(Exit::from_wait_status(wait_status(exit)), exit);
        }
    }
}
