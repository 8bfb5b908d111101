//! What a shim does once, before its loop: lock, records, process attributes, descriptors.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_protocol::shim::spec::{SPEC_BYTES_MAX, Spec};
use agentd_protocol::shim::state::State;
use agentd_protocol::shim::{HELD_FDS_ENV, HELD_FDS_MAX, LOCK_FILE, SPEC_FILE, STATE_FILE};
use agentd_sys::files::{Lock, NotLocked};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;

use super::Error;

/// A killed shim's child may hold the lock until it has closed its copy: tries, and the wait between them.
const LOCK_TRIES: u32 = 30;
const LOCK_WAIT: Duration = Duration::from_millis(10);
/// Rather any program of the host than the one that holds their records.
const OOM_SCORE_ADJ: &str = "-900";
/// First descriptor that an exec hands over (sd_listen_fds(3)).
const HELD_FDS_START: RawFd = 3;

/// What an earlier shim left.
#[derive(Debug)]
pub(crate) enum Stored {
    Nothing,
    Unreadable,
    Known(State),
}

/// `None`: another shim works here.
pub(crate) fn lock(dir: &Path) -> Result<Option<Lock>, Error> {
    for _ in 0..LOCK_TRIES {
        match Lock::take(&dir.join(LOCK_FILE)) {
            Ok(lock) => return Ok(Some(lock)),
            Err(NotLocked::Held { .. }) => std::thread::sleep(LOCK_WAIT),
            Err(NotLocked::Io(source)) => return Err(Error::Lock { dir: dir.to_owned(), source }),
        }
    }
    Ok(None)
}

pub(crate) fn read_spec(dir: &Path) -> Result<Spec, Error> {
    let path = dir.join(SPEC_FILE);
    let read = |path: &Path| Ok((std::fs::metadata(path)?.len(), std::fs::read(path)?));
    let (bytes, spec) = read(&path).map_err(|source| Error::ReadSpec { path: path.clone(), source })?;
    if usize::try_from(bytes).is_ok_and(|bytes| bytes <= SPEC_BYTES_MAX) {
        Spec::decode(&spec).map_err(|source| Error::DecodeSpec { path, source })
    } else {
        Err(Error::SpecTooLong { path, bytes })
    }
}

pub(crate) fn read_state(dir: &Path) -> Stored {
    match std::fs::read(dir.join(STATE_FILE)) {
        Ok(bytes) => State::decode(&bytes).map_or(Stored::Unreadable, Stored::Known),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Stored::Nothing,
        Err(_) => Stored::Unreadable,
    }
}

/// Takes the descriptors that the keeper left from 3 on. Must come before anything is opened.
#[expect(unsafe_code, reason = "descriptors inherited by number")]
pub(crate) fn held_fds() -> Result<Vec<(String, OwnedFd)>, Error> {
    let list = std::env::var(HELD_FDS_ENV).unwrap_or_default();
    let names: Vec<&str> = list.split(':').filter(|name| !name.is_empty()).collect();
    if names.len() > HELD_FDS_MAX {
        return Err(Error::HeldFds { variable: HELD_FDS_ENV, count: names.len() });
    }
    let mut held = Vec::new();
    for (number, name) in (HELD_FDS_START..).zip(names) {
        // SAFETY: asks about a number; no descriptor changes hands.
        let set = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        Errno::result(set).map_err(|errno| Error::HeldFd { variable: HELD_FDS_ENV, number, source: errno.into() })?;
        // SAFETY: it is open, and by the contract with the keeper it is ours alone.
        held.push((name.to_owned(), unsafe { OwnedFd::from_raw_fd(number) }));
    }
    Ok(held)
}

/// Session, subreaper, name, umask and signals; the descriptor tells of SIGCHLD and SIGTERM.
#[expect(unsafe_code, reason = "sigaction")]
pub(crate) fn become_shim(service: &str) -> Result<SignalFd, Error> {
    // Refused when we lead a process group already, which is as good.
    let _ = nix::unistd::setsid();
    nix::sys::stat::umask(Mode::S_IRWXG | Mode::S_IRWXO);
    // EPERM without CAP_SYS_RESOURCE: a plain user's shim is as likely a victim as its program.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    // 15 bytes are kept, for `ps`; the name is no more than a courtesy.
    let _ = std::ffi::CString::new(format!("shim:{service}")).map(|name| nix::sys::prctl::set_name(&name));
    let set_up = || {
        nix::sys::prctl::set_child_subreaper(true)?;
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        for signal in [Signal::SIGPIPE, Signal::SIGINT, Signal::SIGHUP] {
            // SAFETY: ignoring runs no code of ours in a handler.
            unsafe { sigaction(signal, &ignore) }?;
        }
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.add(Signal::SIGTERM);
        mask.thread_block()?;
        SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
    };
    set_up().map_err(|errno: Errno| Error::Process(errno.into()))
}

/// Opened for reading and writing, so that there is never an end of file nor a broken pipe.
pub(crate) fn open_fifo(path: PathBuf) -> Result<File, Error> {
    let open = || {
        match nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
            // The manager makes them, with the owner the program needs.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path)
    };
    open().map_err(|source: io::Error| Error::Open { path: path.clone(), source })
}

/// Whether the process runs another image than ours: it has become the program. `None` while that cannot be seen, as in
/// the moments between a process's last breath and its zombie.
pub(crate) fn runs_other_image(pid: u32) -> Option<bool> {
    use std::os::unix::fs::MetadataExt;
    let image = |path: &str| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    Some(image(&format!("/proc/{pid}/exe"))? != image("/proc/self/exe")?)
}
