//! Starting a shim: fork and exec by hand, because std's Command keeps descriptors of its own where ours must stand.

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agentd_protocol::shim::{HELD_FDS_ENV, NO_PIDFD_INFO_ENV};
use agentd_sys::process::PidFd;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{ForkResult, fork, pipe2};

use super::instance::Held;

/// Where held descriptors begin, as for LISTEN_FDS (sd_listen_fds(3)).
const FIRST_FD: RawFd = 3;
/// Our own binary, also when its file has been deleted.
const OWN_BINARY: &str = "/proc/self/exe";

/// What every shim of this keeper is started with.
#[derive(Debug)]
pub(super) struct Launcher {
    program: CString,
    env: Vec<CString>,
    /// RLIMIT_NOFILE as we found it; ours is raised, a shim's need not be.
    open_files: libc::rlimit,
}

/// All the child needs, made before fork(2): after it there are only system calls.
struct Plan {
    argv: Vec<CString>,
    env: Vec<CString>,
    /// Copies above the numbers they are to get, so that no dup2(2) hits one that is still needed.
    held: Vec<OwnedFd>,
    null: OwnedFd,
    report: OwnedFd,
}

impl Launcher {
    /// `shim` stands in for our own binary in tests.
    pub(super) fn new(shim: Option<&Path>, open_files: libc::rlimit) -> io::Result<Self> {
        let program = c_string(shim.map_or(OsStr::new(OWN_BINARY), Path::as_os_str))?;
        let mut env = Vec::new();
        for name in ["PATH", NO_PIDFD_INFO_ENV] {
            if let Some(value) = std::env::var_os(name) {
                env.push(entry(name, value.as_bytes())?);
            }
        }
        Ok(Self { program, env, open_files })
    }

    /// Returns once the shim's program image is in place. The child is ours to reap.
    #[expect(unsafe_code, reason = "fork(2) has no safe form")]
    pub(super) fn start(&self, instance_dir: &Path, held: &[Held]) -> io::Result<(u32, PidFd)> {
        let (report_read, report_write) = pipe2(OFlag::O_CLOEXEC)?;
        let plan = self.plan(instance_dir, held, report_write)?;
        let argv = pointers(&plan.argv);
        let env = pointers(&plan.env);
        // SAFETY: this process has one thread, and the child makes system calls only until it executes or ends.
        match unsafe { fork() }? {
            ForkResult::Child => self.become_shim(&plan, &argv, &env),
            ForkResult::Parent { child } => {
                drop(plan);
                let pid = u32::try_from(child.as_raw()).expect("pids are positive");
                // Opened before anything may reap the child.
                let pidfd = PidFd::open(pid);
                let mut errno = [0; 4];
                match std::fs::File::from(report_read).read_exact(&mut errno) {
                    // Nothing came before the end: execve closed the pipe.
                    Err(_) => Ok((pid, pidfd?)),
                    Ok(()) => {
                        nix::sys::wait::waitpid(child, None)?;
                        Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
                    }
                }
            }
        }
    }

    fn plan(&self, instance_dir: &Path, held: &[Held], report: OwnedFd) -> io::Result<Plan> {
        let count = RawFd::try_from(held.len()).expect("at most 32 are held");
        let floor = FIRST_FD + count;
        let names: Vec<&str> = held.iter().map(|item| item.name.as_str()).collect();
        let mut env = self.env.clone();
        env.push(entry(HELD_FDS_ENV, names.join(":").as_bytes())?);
        Ok(Plan {
            argv: vec![c"agentd-shim".to_owned(), c"run".to_owned(), c_string(instance_dir.as_os_str())?],
            env,
            held: held.iter().map(|item| raised(&item.fd, floor)).collect::<io::Result<_>>()?,
            null: raised(&std::fs::File::options().read(true).write(true).open("/dev/null")?, floor)?,
            report: raised(&report, floor)?,
        })
    }

    /// In the child. Never returns.
    #[expect(unsafe_code, reason = "between fork and exec only raw system calls are allowed")]
    fn become_shim(&self, plan: &Plan, argv: &[*const libc::c_char], env: &[*const libc::c_char]) -> ! {
        // SAFETY: every pointer is into `plan`, `self` or a local, all alive until execve or _exit; every descriptor is
        // open; nothing here allocates or takes a lock.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            for signal in [libc::SIGPIPE, libc::SIGINT, libc::SIGHUP] {
                libc::signal(signal, libc::SIG_DFL);
            }
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const self.open_files);
            let mut failed = libc::dup2(plan.null.as_raw_fd(), 0) < 0 || libc::dup2(plan.null.as_raw_fd(), 1) < 0;
            for (place, fd) in (FIRST_FD..).zip(&plan.held) {
                failed |= libc::dup2(fd.as_raw_fd(), place) < 0;
            }
            if !failed {
                libc::execve(self.program.as_ptr(), argv.as_ptr(), env.as_ptr());
            }
            let errno = *libc::__errno_location();
            libc::write(plan.report.as_raw_fd(), (&raw const errno).cast(), size_of_val(&errno));
            libc::_exit(127)
        }
    }
}

/// A close-on-exec copy numbered `floor` or higher.
#[expect(unsafe_code, reason = "fcntl gives a raw descriptor")]
fn raised(fd: &impl AsFd, floor: RawFd) -> io::Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(floor))?;
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(number) })
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn entry(name: &str, value: &[u8]) -> io::Result<CString> {
    CString::new([name.as_bytes(), b"=", value].concat()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
