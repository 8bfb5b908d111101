//! From a spec to a running program: fork, the gate, and what the child does to itself before exec.
//!
//! The child waits for one byte that we write when its identity is on disk. If we are killed before that it reads the
//! end of the pipe and leaves with status 126, so no program ever runs that no record tells of.

use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use agentd_protocol::shim::hosts::{Refused, Step};
use agentd_protocol::shim::spec::Spec;
use agentd_protocol::shim::{INSTANCE_ENV, LISTEN_PREFIX};
use agentd_sys::process::PidFd;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{ForkResult, Gid, Uid};

use super::{Error, hosts, tmp};

/// Exit status of a child whose gate never opened.
pub(crate) const NEVER_RAN: u8 = 126;
/// Exit status of a child that could not become the program; why is told by the status pipe.
const EXEC_FAILED: i32 = 127;
/// What the child says on the status pipe when it leads its own session.
const READY: &[u8; 1] = b"r";
/// Where a program without PATH is looked for.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";
/// Descriptors are parked from here on while 0, 1, 2 and the listeners take their places; above 3 + HELD_FDS_MAX.
const PARK_FROM: RawFd = 64;
/// Capabilities have numbers below this (the kernel's mask is 64 bits).
const CAPABILITIES_MAX: libc::c_ulong = 64;
/// Signals, real-time ones too, are numbered 1 to 64.
const SIGNALS_MAX: i32 = 64;

/// Everything the child needs, made before the fork.
#[derive(Debug)]
pub(crate) struct Plan {
    argv: Vec<CString>,
    env: Vec<CString>,
    /// Tried in order.
    candidates: Vec<CString>,
    cwd: CString,
    user: Option<(Uid, Gid)>,
    open_files_max: u64,
    oom_score_adj: i32,
    no_new_privileges: bool,
    listeners: Vec<RawFd>,
    /// Shown in the place of /etc/hosts.
    hosts_file: Option<CString>,
    /// Shown in the places of /tmp and /var/tmp.
    tmp_dir: Option<CString>,
}

/// Where the program finds the names of the services.
#[derive(Debug, Clone, Copy)]
enum Names<'a> {
    /// In the machine's own /etc/hosts, if there.
    Machine,
    Private(&'a CStr),
    Refused(Refused),
}

/// A child behind its gate.
#[derive(Debug)]
pub(crate) struct Gated {
    pub(crate) pid: u32,
    pub(crate) pidfd: PidFd,
    pub(crate) gate: Gate,
    pub(crate) status: StatusPipe,
}

/// Dropped unopened, it sends the child away.
#[derive(Debug)]
pub(crate) struct Gate(File);

/// Tells whether the child became the program: ends empty when it did, carries an errno when not.
#[derive(Debug)]
pub(crate) struct StatusPipe(pub(crate) File);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecStatus {
    Pending,
    Executed,
    Failed { errno: i32 },
}

impl Plan {
    /// `held` are the names and descriptors this shim keeps; the listeners among them go to the program.
    pub(crate) fn new(spec: &Spec, held: &[(String, OwnedFd)]) -> Result<Self, Error> {
        let listeners: Vec<_> = held.iter().filter(|(name, _)| name.starts_with(LISTEN_PREFIX)).collect();
        let mut env: Vec<Vec<u8>> = spec.env.iter().filter(|entry| !is_ours(entry)).cloned().collect();
        env.push(format!("{INSTANCE_ENV}={}", spec.instance).into_bytes());
        if !listeners.is_empty() {
            let names: Vec<_> =
                listeners.iter().map(|(name, _)| name.strip_prefix(LISTEN_PREFIX).unwrap_or(name)).collect();
            env.push(format!("LISTEN_FDS={}", names.len()).into_bytes());
            env.push(format!("LISTEN_FDNAMES={}", names.join(":")).into_bytes());
        }
        let program = spec.argv.first().map_or(&b""[..], Vec::as_slice);
        let text = |what, bytes: Vec<u8>| CString::new(bytes).map_err(|_| Error::ZeroByte { what });
        Ok(Self {
            candidates: candidates(program, &spec.env)
                .into_iter()
                .map(|path| text("command", path))
                .collect::<Result<_, _>>()?,
            argv: spec.argv.iter().map(|arg| text("command", arg.clone())).collect::<Result<_, _>>()?,
            env: env.into_iter().map(|entry| text("environment", entry)).collect::<Result<_, _>>()?,
            cwd: text("working folder", spec.cwd.clone())?,
            user: spec.user.as_ref().map(|user| (Uid::from_raw(user.uid), Gid::from_raw(user.gid))),
            open_files_max: spec.open_files_max,
            oom_score_adj: spec.oom_score_adj,
            no_new_privileges: spec.no_new_privileges,
            listeners: listeners.iter().map(|(_, fd)| fd.as_raw_fd()).collect(),
            hosts_file: spec.hosts_file.clone().map(|path| text("hosts file", path)).transpose()?,
            tmp_dir: spec.tmp_dir.clone().map(|path| text("folder for /tmp", path)).transpose()?,
        })
    }
}

/// Entries that only a shim may write.
fn is_ours(entry: &[u8]) -> bool {
    let name = entry.split(|byte| *byte == b'=').next().unwrap_or_default();
    [INSTANCE_ENV.as_bytes(), b"LISTEN_FDS", b"LISTEN_PID", b"LISTEN_FDNAMES"].contains(&name)
}

/// Paths to try, as execvp(3) would with the program's own PATH.
fn candidates(program: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    let dirs = path.split(|byte| *byte == b':');
    dirs.map(|dir| [if dir.is_empty() { b"." } else { dir }, b"/", program].concat()).collect()
}

/// Forks; the child waits. `lock_fd` is closed in the child at once: flock(2) is shared with it.
#[expect(unsafe_code, reason = "fork")]
pub(crate) fn fork_gated(plan: &Plan, stdout: &Path, stderr: &Path, lock_fd: RawFd) -> io::Result<Gated> {
    let stdio = [
        File::open("/dev/null")?,
        OpenOptions::new().read(true).write(true).open(stdout)?,
        OpenOptions::new().read(true).write(true).open(stderr)?,
    ];
    let names = match plan.hosts_file.as_deref() {
        None => Names::Machine,
        Some(file) => hosts::trial(file, lock_fd).map_or_else(Names::Refused, |()| Names::Private(file)),
    };
    let (gate_read, gate_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let (status_read, status_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: this process has one thread, so the child may do whatever we may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            drop((gate_write, status_read));
            // SAFETY: in the child nothing else uses the lock's descriptor, and it never returns to who owns it.
            unsafe { libc::close(lock_fd) };
            child(plan, names, &stdio, File::from(gate_read), File::from(status_write))
        }
        ForkResult::Parent { child } => {
            let pid = u32::try_from(child.as_raw()).map_err(|_| io::ErrorKind::InvalidData)?;
            drop((status_write, gate_read));
            let mut status_read = File::from(status_read);
            // Answered within microseconds, or ended by the child's death.
            status_read.read_exact(&mut [0; READY.len()])?;
            nix::fcntl::fcntl(&status_read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let pidfd = PidFd::open(pid)?;
            Ok(Gated { pid, pidfd, gate: Gate(gate_write.into()), status: StatusPipe(status_read) })
        }
    }
}

impl Gate {
    pub(crate) fn open(mut self) -> io::Result<()> {
        self.0.write_all(b"x")
    }
}

impl StatusPipe {
    pub(crate) fn read(&mut self) -> ExecStatus {
        let mut errno = [0; 4];
        match self.0.read(&mut errno) {
            Ok(4) => ExecStatus::Failed { errno: i32::from_le_bytes(errno) },
            Ok(0) => ExecStatus::Executed,
            // One write of four bytes arrives whole; an interrupted read is tried again with the next event.
            Ok(_) | Err(_) => ExecStatus::Pending,
        }
    }
}

/// Why the child did not become the program.
#[derive(Debug)]
struct Failure {
    what: &'static str,
    errno: Errno,
}

fn failed(what: &'static str) -> impl Fn(Errno) -> Failure {
    move |errno| Failure { what, errno }
}

fn child(plan: &Plan, names: Names<'_>, stdio: &[File; 3], mut gate: File, mut status: File) -> ! {
    let failure = match lead_session() {
        Ok(()) => {
            if status.write_all(READY).is_err() || gate.read_exact(&mut [0]).is_err() {
                leave(NEVER_RAN.into());
            }
            let Err(failure) = become_program(plan, names, stdio, &mut status);
            failure
        }
        Err(failure) => failure,
    };
    // The log is where people look first, the pipe is what the shim goes by; a failure of either changes nothing.
    let program = plan.argv.first().map(|arg| arg.to_string_lossy()).unwrap_or_default();
    let text = format!("agentd-shim: cannot start {program}: {}: {}\n", failure.what, failure.errno.desc());
    let _ = (&stdio[2]).write_all(text.as_bytes()); // see above
    let errno = io::Error::from(failure.errno).raw_os_error().unwrap_or_default();
    let _ = status.write_all(&errno.to_le_bytes()); // see above
    leave(EXEC_FAILED)
}

#[expect(unsafe_code, reason = "a forked child leaves without our exit handlers")]
fn leave(status: i32) -> ! {
    // SAFETY: ends the process; nothing of ours needs to be unwound in a child.
    unsafe { libc::_exit(status) }
}

/// From here on a signal to the process group reaches the child and acts as it will on the program.
fn lead_session() -> Result<(), Failure> {
    reset_signals().map_err(failed("signals"))?;
    nix::unistd::setsid().map_err(failed("setsid")).map(drop)
}

fn become_program(
    plan: &Plan,
    names: Names<'_>,
    stdio: &[File; 3],
    status: &mut File,
) -> Result<std::convert::Infallible, Failure> {
    place_descriptors(plan, stdio, status).map_err(failed("descriptors"))?;
    limit_open_files(plan.open_files_max).map_err(failed("limit of open files"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    // Lowering needs a right that a plain user's shim lacks; the program runs all the same.
    let _ = std::fs::write("/proc/self/oom_score_adj", plan.oom_score_adj.to_string());
    take_names(names, &stdio[2])?;
    take_tmp(plan.tmp_dir.as_ref(), &stdio[2]);
    nix::unistd::chdir(plan.cwd.as_c_str()).map_err(failed("working folder"))?;
    if plan.no_new_privileges {
        drop_capability_bounds();
    }
    if let Some((uid, gid)) = plan.user {
        become_user(uid, gid).map_err(failed("user"))?;
    }
    if plan.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().map_err(failed("no new privileges"))?;
    }
    let mut env = plan.env.clone();
    if !plan.listeners.is_empty() {
        let entry = CString::new(format!("LISTEN_PID={}", std::process::id()));
        env.push(entry.map_err(|_| Errno::EINVAL).map_err(failed("environment"))?);
    }
    Err(Failure { what: "exec", errno: exec(&plan.candidates, &plan.argv, &env) })
}

/// Without a private /etc/hosts the program runs all the same; its log says what it lacks. Only half an identity is no
/// way to run.
fn take_names(names: Names<'_>, mut log: &File) -> Result<(), Failure> {
    let entered = match names {
        Names::Machine => Ok(()),
        Names::Private(file) => hosts::enter(file),
        Names::Refused(refused) => Err(refused),
    };
    match entered {
        Ok(()) => Ok(()),
        Err(Refused { step: Step::Identity, errno }) if matches!(names, Names::Private(_)) => {
            Err(Failure { what: "user namespace", errno: Errno::from_raw(errno) })
        }
        Err(refused) => {
            let text = format!("agentd-shim: service names are not in this program's /etc/hosts: {refused}\n");
            let _ = log.write_all(text.as_bytes()); // a failure changes nothing
            Ok(())
        }
    }
}

/// Without a /tmp of its own the program runs all the same; its log says so.
fn take_tmp(dir: Option<&CString>, mut log: &File) {
    let Some(dir) = dir else { return };
    let entered = if Uid::effective().is_root() { tmp::enter(tmp::dir(dir)) } else { Err(Errno::EPERM) };
    if let Err(errno) = entered {
        let _ = log.write_all(tmp::refusal(errno).as_bytes()); // a failure changes nothing
    }
}

/// Default actions and an empty mask: what we ignore or block is our own affair.
/// By system call, for a C library refuses the two or three signals it keeps for itself, and they are inherited too.
#[expect(unsafe_code, reason = "nix cannot name real-time signals")]
fn reset_signals() -> Result<(), Errno> {
    /// Bytes of the kernel's signal set.
    const MASK_BYTES: libc::size_t = 8;
    let default = [0u64; 4];
    let old: *mut libc::c_void = std::ptr::null_mut();
    for number in 1..=SIGNALS_MAX {
        // SAFETY: `default` is as long as the kernel's struct and alive; all zeroes mean SIG_DFL. Refused for SIGKILL
        // and SIGSTOP, which need none.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), old, MASK_BYTES) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()
}

/// 0, 1, 2, then the listeners; everything else closes at exec.
fn place_descriptors(plan: &Plan, stdio: &[File; 3], status: &mut File) -> Result<(), Errno> {
    let wanted: Vec<RawFd> = stdio.iter().map(AsRawFd::as_raw_fd).chain(plan.listeners.iter().copied()).collect();
    *status = File::from(park(status.as_raw_fd())?);
    // First out of the way, then into place: a source may sit where another one is to go.
    let parked: Vec<OwnedFd> = wanted.into_iter().map(park).collect::<Result<_, _>>()?;
    let mut next = 0;
    for fd in &parked {
        place(fd.as_raw_fd(), next)?;
        next += 1;
    }
    close_on_exec_from(next);
    Ok(())
}

#[expect(unsafe_code, reason = "the child's descriptor table is rearranged by number")]
fn park(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: fcntl and from_raw_fd on a number the kernel just gave us.
    unsafe {
        let parked = Errno::result(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, PARK_FROM))?;
        Ok(OwnedFd::from_raw_fd(parked))
    }
}

#[expect(unsafe_code, reason = "the child's descriptor table is rearranged by number")]
fn place(fd: RawFd, at: RawFd) -> Result<(), Errno> {
    // SAFETY: whatever stood at `at` is not used again: the child goes on with numbers alone until exec.
    Errno::result(unsafe { libc::dup2(fd, at) }).map(drop)
}

/// All of ours are close-on-exec already; this also takes what somebody before us leaked.
#[expect(unsafe_code, reason = "no wrapper in nix")]
fn close_on_exec_from(first: RawFd) {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: takes integers and touches no memory. Kernels below 5.11 refuse, see above.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
}

/// As many as asked for, or as many as we may.
fn limit_open_files(wanted: u64) -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if wanted == 0 {
        return Ok(());
    }
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted) {
        Err(Errno::EPERM) => {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)
        }
        done => done,
    }
}

fn become_user(uid: Uid, gid: Gid) -> Result<(), Errno> {
    if !Uid::effective().is_root() && uid == Uid::effective() && gid == Gid::effective() {
        return Ok(());
    }
    nix::unistd::setgroups(&[gid])?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)
}

/// Empties the bounding and ambient sets, so that exec gives nothing back. A plain user has nothing to drop and is
/// refused; no_new_privs covers the rest.
#[expect(unsafe_code, reason = "no wrapper in nix")]
fn drop_capability_bounds() {
    let zero: libc::c_ulong = 0;
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: takes integers and touches no memory.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, zero, zero, zero) };
    }
    let clear = libc::c_ulong::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs());
    // SAFETY: takes integers and touches no memory.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, zero, zero, zero) };
}

/// Returns only on failure: the most telling errno of all candidates.
fn exec(candidates: &[CString], argv: &[CString], env: &[CString]) -> Errno {
    let mut telling = Errno::ENOENT;
    for path in candidates {
        let Err(errno) = nix::unistd::execve::<&CStr, &CStr>(path, &as_strs(argv), &as_strs(env));
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => telling = errno,
            other => return other,
        }
    }
    telling
}

fn as_strs(strings: &[CString]) -> Vec<&CStr> {
    strings.iter().map(CString::as_c_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_looked_up_in_the_programs_own_path() {
        let env = vec![b"PATH=/none".to_vec(), b"PATH=/a::/b".to_vec()];
        let found = candidates(b"node", &env);
        assert_eq!(found, [&b"/a/node"[..], b"./node", b"/b/node"]);
        assert_eq!(candidates(b"./x", &env), [b"./x"]);
        assert_eq!(candidates(b"x", &[])[0], b"/usr/local/bin/x");
    }

    #[test]
    fn only_the_shim_writes_its_own_names() {
        assert!(is_ours(b"LISTEN_FDS=3"));
        assert!(is_ours(b"AGENTD_INSTANCE=x"));
        assert!(!is_ours(b"LISTEN_FDS_X=3"));
        assert!(!is_ours(b""));
    }
}
