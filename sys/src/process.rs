//! Proof that a pid is the process we mean, and how a process we may not be the parent of ended.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use agentd_protocol::shim::NO_PIDFD_INFO_ENV;
use agentd_protocol::shim::state::{Exit, Identity};

/// A process held by descriptor: signals to it never reach a successor with the same pid.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// pidfd_open(2). ESRCH when there is no such process.
    #[expect(unsafe_code, reason = "no wrapper in nix")]
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: the call takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
        let fd = i32::try_from(fd).expect("descriptors fit in an int");
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// pidfd_send_signal(2). ESRCH when the process has been reaped.
    #[expect(unsafe_code, reason = "no wrapper in nix")]
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let none: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: the descriptor is ours and open; a null siginfo is what kill(2) would send.
        let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), number, none, 0) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// As `signal`, to the whole process group that this process leads (PIDFD_SIGNAL_PROCESS_GROUP, kernel 6.9).
    /// EINVAL on older kernels.
    #[expect(unsafe_code, reason = "no wrapper in nix")]
    pub fn signal_group(&self, number: i32) -> io::Result<()> {
        const PROCESS_GROUP: libc::c_uint = 1 << 2;
        if plays_old_kernel() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let none: *const libc::siginfo_t = std::ptr::null();
        let fd = self.0.as_raw_fd();
        // SAFETY: the descriptor is ours and open; a null siginfo is what kill(2) would send.
        let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, none, PROCESS_GROUP) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Inode of the pidfd, unique per boot from kernel 6.9 on; 0 below (every pidfd is the same anon inode there) or
    /// when the test switch plays an old kernel.
    pub fn inode(&self) -> io::Result<u64> {
        let stat = nix::sys::stat::fstat(&self.0)?;
        // Before pidfs the inode was that of the one anonymous inode, on a file system of another magic.
        const PID_FS: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x5049_4446);
        let fs = nix::sys::statfs::fstatfs(&self.0)?;
        Ok(if fs.filesystem_type() == PID_FS && !plays_old_kernel() { stat.st_ino } else { 0 })
    }

    /// How the process ended, from the kernel's own record: any holder may ask, after anyone has reaped it
    /// (PIDFD_GET_INFO with PIDFD_INFO_EXIT, kernel 6.15). `None` before the reap and on older kernels.
    #[expect(unsafe_code, reason = "no wrapper in nix")]
    pub fn exit_info(&self) -> Option<Exit> {
        /// include/uapi/linux/pidfd.h; only the first 64 bytes are asked for.
        #[repr(C)]
        #[derive(Default)]
        struct PidFdInfo {
            mask: u64,
            cgroup_id: u64,
            pid: u32,
            tgid: u32,
            ppid: u32,
            ruid: u32,
            rgid: u32,
            euid: u32,
            egid: u32,
            suid: u32,
            sgid: u32,
            fsuid: u32,
            fsgid: u32,
            exit_code: i32,
        }
        const INFO_EXIT: u64 = 1 << 3;
        nix::ioctl_readwrite!(pidfd_get_info, 0xff, 11, PidFdInfo);
        if plays_old_kernel() {
            return None;
        }
        let mut info = PidFdInfo { mask: INFO_EXIT, ..PidFdInfo::default() };
        // SAFETY: `info` is the struct the request number names, alive and writable for the call.
        unsafe { pidfd_get_info(self.0.as_raw_fd(), &raw mut info) }.ok()?;
        (info.mask & INFO_EXIT != 0).then(|| Exit::from_wait_status(info.exit_code))
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A child that has ended and has not been reaped: its pid stays ours until [`reap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadChild {
    pub pid: u32,
    pub exit: Exit,
}

/// Looks at one dead child without reaping it, so that its end can be recorded first; `None` when there is none.
#[expect(unsafe_code, reason = "nix cannot represent real-time signals in a wait status")]
pub fn dead_child() -> io::Result<Option<DeadChild>> {
    // SAFETY: siginfo_t is plain old data for which all zeroes is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is alive and writable for the call.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) } != 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) };
    }
    // SAFETY: waitid filled the SIGCHLD members, or left the zeroes that say nobody is dead.
    let (pid, value) = unsafe { (info.si_pid(), info.si_status()) };
    let low = value.to_le_bytes()[0];
    let exit = match info.si_code {
        libc::CLD_EXITED => Exit::Code(low),
        code => Exit::Signal { number: low, core: code == libc::CLD_DUMPED },
    };
    Ok(u32::try_from(pid).ok().filter(|pid| *pid != 0).map(|pid| DeadChild { pid, exit }))
}

/// Reaps a dead child of ours.
#[expect(unsafe_code, reason = "nix cannot represent real-time signals in a wait status")]
pub fn reap(pid: u32) -> io::Result<()> {
    // SAFETY: siginfo_t is plain old data for which all zeroes is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is alive and writable for the call.
    let done = unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOHANG) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the test switch asks us to behave as on a kernel without pidfd inodes and exit records.
fn plays_old_kernel() -> bool {
    std::env::var_os(NO_PIDFD_INFO_ENV).is_some_and(|value| value == "1")
}

/// Lets every signal through again. A process starts with what its parent had blocked, and who waits for SIGTERM would
/// never hear of it. To be called first in `main`: other threads inherit it.
pub fn unblock_signals() {
    nix::sys::signal::SigSet::all().thread_unblock().expect("the set of all signals is one");
}

/// Random per boot (random(4)).
pub fn boot_id() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

/// What we read of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `Z`, ...
    pub state: char,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    pub start_ticks: u64,
    /// Wait status of a zombie, where we may see it; else 0.
    pub exit_code: i32,
}

/// Reads /proc/PID/stat; `None` when there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold anything, `)` too: fields are counted from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Field n of the manual stands at n - 3 here.
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
        exit_code: fields.get(49)?.parse().ok()?,
    })
}

/// Takes the identity of a process that cannot end meanwhile (our child behind its gate) or that we hold by `pidfd`.
pub fn identify(pid: u32, pidfd: &PidFd) -> io::Result<Identity> {
    let stat = stat(pid).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(Identity { boot_id: boot_id()?, pid, pidfd_inode: pidfd.inode()?, start_ticks: stat.start_ticks })
}

/// Finds the process again, if it is still the same one: the descriptor is opened first and compared after.
pub fn find(identity: &Identity) -> io::Result<Option<PidFd>> {
    if boot_id()? != identity.boot_id {
        return Ok(None);
    }
    let pidfd = match PidFd::open(identity.pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    let inode = pidfd.inode()?;
    let same_inode = inode == 0 || identity.pidfd_inode == 0 || inode == identity.pidfd_inode;
    let same_start = stat(identity.pid).is_some_and(|stat| stat.start_ticks == identity.start_ticks);
    Ok((same_inode && same_start).then_some(pidfd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_hostile_names() {
        let line = format!("7 (a) Z 1 (b)) S 5 6 7 0 -1 {} 4242 {} 2304", "0 ".repeat(13), "0 ".repeat(29));
        let stat = parse_stat(&line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.group, stat.session), ('S', 5, 6, 7));
        assert_eq!((stat.start_ticks, stat.exit_code), (4242, 2304));
    }

    #[test]
    fn a_living_process_is_found_and_a_dead_one_is_not() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = PidFd::open(child.id()).unwrap();
        let identity = identify(child.id(), &pidfd).unwrap();
        assert!(find(&identity).unwrap().is_some());
        assert!(find(&Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() }).unwrap().is_none());
        assert!(find(&Identity { boot_id: "other".into(), ..identity.clone() }).unwrap().is_none());
        pidfd.signal(libc::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(find(&identity).unwrap().is_none());
        if let Some(exit) = pidfd.exit_info() {
            assert_eq!(exit, Exit::Signal { number: 9, core: false });
        }
    }
}
