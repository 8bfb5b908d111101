//! What the keeper makes of its process before the first event.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use agentd_protocol::shim::{CONTROL_SOCKET, EXITS_FILE, INSTANCES_DIR, KEEPER_DIR, LOCK_FILE};
use agentd_sys::files::{self, Durability, Lock, NotLocked};
use agentd_sys::process;
use agentd_sys::seqpacket::Listener;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::Error;
use super::args::Parentage;
use super::takeover::Boot;
use crate::say;

/// The boot the last keeper ran in; beside `exits`.
const BOOT_FILE: &str = "boot";
/// Last but one to be killed when memory is short: without us a dead shim's program is nobody's.
const OOM_SCORE_ADJ: &str = "-999";

/// Everything acquired at start, held for life.
#[derive(Debug)]
pub(super) struct Ready {
    #[expect(dead_code, reason = "held, not used: it makes us the only keeper")]
    pub(super) lock: Lock,
    pub(super) listener: Listener,
    pub(super) signals: SignalFd,
    pub(super) instances_dir: PathBuf,
    pub(super) exits_path: PathBuf,
    pub(super) boot: Boot,
    /// RLIMIT_NOFILE before we raised ours.
    pub(super) open_files: libc::rlimit,
}

/// Which of the two processes after a detaching fork we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Starter,
    Keeper,
}

/// The starter's listening sockets must not live in us; ours are opened later.
#[expect(unsafe_code, reason = "no wrapper in nix")]
pub(super) fn close_inherited() {
    // SAFETY: nothing in this process owns a descriptor above 2 yet. ENOSYS below Linux 5.9 leaves them open, and a
    // starter that marks its descriptors close-on-exec has none to leave.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Leaves the starter as somebody it is no parent of, if asked to.
#[expect(unsafe_code, reason = "fork(2) has no safe form")]
pub(super) fn part(parentage: Parentage) -> Result<Role, Error> {
    match parentage {
        Parentage::Child => Ok(Role::Keeper),
        // SAFETY: this process has one thread, so the child may do whatever the parent might.
        Parentage::Detached => match unsafe { nix::unistd::fork() } {
            Ok(nix::unistd::ForkResult::Parent { .. }) => Ok(Role::Starter),
            Ok(nix::unistd::ForkResult::Child) => Ok(Role::Keeper),
            Err(errno) => Err(Error::Detach(errno.into())),
        },
    }
}

/// The lock comes before the socket: who has it may replace what a dead keeper left.
pub(super) fn prepare(run_dir: &Path) -> Result<Ready, Error> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let run_dir = run_dir.canonicalize().map_err(Error::RunDir)?;
    let keeper_dir = run_dir.join(KEEPER_DIR);
    let instances_dir = run_dir.join(INSTANCES_DIR);
    for dir in [&keeper_dir, &instances_dir] {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::RunDir)?;
    }
    let lock = Lock::take(&keeper_dir.join(LOCK_FILE)).map_err(|why| match why {
        NotLocked::Held { pid } => Error::Held { pid },
        NotLocked::Io(cause) => Error::Lock(cause),
    })?;
    detach();
    let signals = signals().map_err(Error::Signals)?;
    let exits_path = keeper_dir.join(EXITS_FILE);
    let boot = note_boot(&keeper_dir.join(BOOT_FILE), &exits_path).map_err(Error::RunDir)?;
    let open_files = raise_open_files();
    let listener = Listener::bind(&keeper_dir, CONTROL_SOCKET).map_err(Error::Socket)?;
    Ok(Ready { lock, listener, signals, instances_dir, exits_path, boot, open_files })
}

/// Own session, foster parent of what dead shims leave, hard to kill, no folder in use.
fn detach() {
    // EPERM: we lead a process group, because a shell started us; then we have no terminal's manager to escape from.
    let _ = nix::unistd::setsid();
    if let Err(errno) = nix::sys::prctl::set_child_subreaper(true) {
        say(&format!("programs of dead shims will not come to us: {errno}"));
    }
    // Only a name for ps; nothing depends on it.
    let _ = nix::sys::prctl::set_name(c"agentd-keeper");
    // EACCES for a plain user, who may not go below what he has.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    if let Err(error) = std::env::set_current_dir("/") {
        say(&format!("the folder we were started in stays in use: {error}"));
    }
}

/// SIGCHLD and SIGTERM by descriptor; a terminal's SIGINT and SIGHUP are not for us.
#[expect(unsafe_code, reason = "signal(2) may install handlers")]
fn signals() -> io::Result<SignalFd> {
    for ignored in [Signal::SIGPIPE, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: ignoring a signal runs no handler.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGTERM);
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Files of an earlier boot describe processes that are gone: exits are dropped, and dead shims stay dead until the
/// manager asks for them.
fn note_boot(boot_path: &Path, exits_path: &Path) -> io::Result<Boot> {
    let now = process::boot_id()?;
    let before = match std::fs::read_to_string(boot_path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if before.trim() == now {
        return Ok(Boot::Same);
    }
    match std::fs::remove_file(exits_path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    files::write_atomic(boot_path, now.as_bytes(), 0o600, Durability::Crash)?;
    Ok(Boot::New)
}

/// Up to the hard limit: two pipes, a pidfd and the held descriptors for each of 2,000 instances.
#[expect(unsafe_code, reason = "nix hides the type the child needs to set it back")]
fn raise_open_files() -> libc::rlimit {
    let mut found = libc::rlimit { rlim_cur: 1_024, rlim_max: 1_024 };
    // SAFETY: `found` is alive and writable for the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut found) };
    let raised = libc::rlimit { rlim_cur: found.rlim_max, rlim_max: found.rlim_max };
    // SAFETY: `raised` is alive for the call. Raising up to the hard limit is always allowed.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) };
    found
}

impl Ready {
    pub(super) fn signals_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_boot_makes_the_old_exits_stale() {
        let dir = tempfile::tempdir().unwrap();
        let (boot_path, exits_path) = (dir.path().join("boot"), dir.path().join("exits"));
        std::fs::write(&exits_path, b"old").unwrap();
        std::fs::write(&boot_path, b"another\n").unwrap();
        assert_eq!(note_boot(&boot_path, &exits_path).unwrap(), Boot::New);
        assert!(!exits_path.exists());
        std::fs::File::create(&exits_path).unwrap();
        assert_eq!(note_boot(&boot_path, &exits_path).unwrap(), Boot::Same);
        assert!(exits_path.exists());
    }
}
