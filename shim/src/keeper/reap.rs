//! Children that ended, looked at before they are let go.

use agentd_protocol::shim::event::ReapRecord;
use agentd_sys::clock;
use agentd_sys::process::{self, PidFd};

/// A zombie of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) pid: u32,
    /// As wait(2) gives it.
    pub(super) wait_status: i32,
}

/// Some child that has ended and is not reaped yet (waitid(2) with WNOWAIT). nix has a wrapper, which fails on
/// real-time signals.
#[expect(unsafe_code, reason = "siginfo is a union")]
pub(super) fn peek() -> Option<Ended> {
    // SAFETY: all zeroes is a valid siginfo_t, an integer struct with a union.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is alive and writable for the call.
    let done = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) };
    // SAFETY: waitid has filled the SIGCHLD part, or left the zeroes that stand for nobody.
    let (pid, value) = unsafe { (info.si_pid(), info.si_status()) };
    if done < 0 || pid == 0 {
        return None;
    }
    Some(Ended { pid: u32::try_from(pid).ok()?, wait_status: wait_status(info.si_code, value) })
}

fn wait_status(code: i32, value: i32) -> i32 {
    match code {
        libc::CLD_EXITED => (value & 0xff) << 8,
        libc::CLD_DUMPED => (value & 0x7f) | 0x80,
        // CLD_KILLED; nothing else is asked for.
        _ => value & 0x7f,
    }
}

/// What is to be remembered of a zombie; must be taken before [`reap`].
pub(super) fn record(ended: Ended) -> ReapRecord {
    let pidfd_inode = PidFd::open(ended.pid).and_then(|pidfd| pidfd.inode()).unwrap_or_default();
    let start_ticks = process::stat(ended.pid).map(|stat| stat.start_ticks).unwrap_or_default();
    ReapRecord { pid: ended.pid, wait_status: ended.wait_status, pidfd_inode, start_ticks, real_ns: clock::real_ns() }
}

/// Lets the zombie go.
#[expect(unsafe_code, reason = "nix decodes the status and fails on real-time signals")]
pub(super) fn reap(ended: Ended) {
    let Ok(pid) = i32::try_from(ended.pid) else { return };
    // SAFETY: no memory is passed. ECHILD would mean it is gone already, which is what we want.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
}

#[cfg(test)]
mod tests {
    use agentd_protocol::shim::state::Exit;

    use super::*;

    #[test]
    fn a_status_reads_back_as_wait_would_give_it() {
        assert_eq!(Exit::from_wait_status(wait_status(libc::CLD_EXITED, 42)), Exit::Code(42));
        assert_eq!(Exit::from_wait_status(wait_status(libc::CLD_DUMPED, 11)), Exit::Signal { number: 11, core: true });
        assert_eq!(Exit::from_wait_status(wait_status(libc::CLD_KILLED, 34)), Exit::Signal { number: 34, core: false });
    }
}
