//! What a new keeper finds: shims that live on, and programs whose shim died with the keeper before us.

use std::io;
use std::path::Path;

use agentd_protocol::shim::state::{Phase, State};
use agentd_protocol::shim::wire::{Envelope, Message, VERSION_MAX, VERSION_MIN};
use agentd_protocol::shim::{CONTROL_SOCKET, LOCK_FILE, SPEC_FILE, STATE_FILE};
use agentd_sys::files;
use agentd_sys::process::PidFd;
use agentd_sys::seqpacket::{Blocking, Connection};

/// Whether the files in the run folder can speak of processes that still exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Boot {
    Same,
    New,
}

/// The living shim of an instance folder, if there is one. The pidfd is opened between two looks at the lock: whoever
/// wrote the pid holds it still, so the pid cannot have passed to another process.
pub(super) fn living(dir: &Path) -> io::Result<Option<(u32, PidFd)>> {
    let lock_path = dir.join(LOCK_FILE);
    if !files::is_locked(&lock_path)? {
        return Ok(None);
    }
    // Locked a moment ago and not yet written, or being overwritten: the caller comes back.
    let pid = files::read_pid(&lock_path).ok_or(io::ErrorKind::WouldBlock)?;
    let pidfd = match PidFd::open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => return Err(error),
    };
    if !files::is_locked(&lock_path)? {
        return Ok(None);
    }
    if files::read_pid(&lock_path) != Some(pid) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(Some((pid, pidfd)))
}

/// Whether a dead shim left a program, or the duty to start one again. A state nobody can read is the shim's to judge.
pub(super) fn wants_shim(dir: &Path) -> bool {
    if !dir.join(SPEC_FILE).is_file() {
        return false;
    }
    match std::fs::read(dir.join(STATE_FILE)).map(|bytes| State::decode(&bytes)) {
        Ok(Ok(state)) => state.phase != Phase::Down,
        Ok(Err(_)) => true,
        // Never started: the manager wrote the spec and has not asked yet.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Asks a shim for its held descriptors; the answer is read when it comes. Fails when somebody else listens there. We
/// greet it with the epoch it knows, as whoever speaks to a shim must, and want none of its events.
pub(super) fn ask_held(dir: &Path, pid: u32) -> io::Result<Connection> {
    let connection = Connection::connect(dir, CONTROL_SOCKET, Blocking::No)?;
    if connection.peer()?.pid != pid {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let epoch = match std::fs::read(dir.join(STATE_FILE)).map(|bytes| State::decode(&bytes)) {
        Ok(Ok(state)) => state.epoch,
        // Nobody has greeted it yet, or its own next write mends the file: refused, and asked again.
        Ok(Err(_)) | Err(_) => 0,
    };
    let hello = Message::Hello { version_min: VERSION_MIN, version_max: VERSION_MAX, epoch, events_after: u64::MAX };
    for (seq, message) in (1..).zip([hello, Message::AskHeld { instance: None }]) {
        connection.send(&Envelope { seq, re: 0, message }, &[])?;
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use agentd_sys::files::Lock;

    use super::*;

    #[test]
    fn only_a_held_lock_is_a_living_shim() {
        let dir = tempfile::tempdir().unwrap();
        assert!(living(dir.path()).unwrap().is_none());
        std::fs::write(dir.path().join(LOCK_FILE), format!("{}\n", std::process::id())).unwrap();
        assert!(living(dir.path()).unwrap().is_none(), "a pid without the lock is a dead shim's");
        let lock = Lock::take(&dir.path().join(LOCK_FILE)).unwrap();
        assert_eq!(living(dir.path()).unwrap().unwrap().0, std::process::id());
        drop(lock);
    }

    #[test]
    fn a_shim_is_wanted_where_something_runs_or_will() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!wants_shim(dir.path()), "no spec");
        std::fs::write(dir.path().join(SPEC_FILE), b"").unwrap();
        assert!(!wants_shim(dir.path()), "never started");
        let mut state = State::fresh();
        std::fs::write(dir.path().join(STATE_FILE), state.encode()).unwrap();
        assert!(!wants_shim(dir.path()), "down");
        state.phase = Phase::Backoff { retry_at_boot_ms: 5 };
        std::fs::write(dir.path().join(STATE_FILE), state.encode()).unwrap();
        assert!(wants_shim(dir.path()));
        std::fs::write(dir.path().join(STATE_FILE), b"garbage").unwrap();
        assert!(wants_shim(dir.path()));
    }
}
