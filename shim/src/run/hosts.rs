//! An /etc/hosts of its own for the program: a mount in a mount namespace of its own. As a plain user that takes a user
//! namespace too, in which every id but the user's own looks like nobody's; rights on files are as before.
//!
//! There is no way back out of a user namespace, so a child that finds half of the way closed could not start its
//! program without one any more: a process of its own goes the whole way first, before each start.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agentd_protocol::shim::INSTANCE_ENV;
use agentd_protocol::shim::hosts::{MACHINE_HOSTS_FILE, Refused, Step};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, Gid, Uid};

/// A mount that hangs (a source on a dead network file system) ends the trial by SIGALRM after so long, s.
const TRIAL_LIMIT_S: libc::c_uint = 5;
/// What the trial says when the whole way was open.
const OPEN: &[u8] = b"open";
/// More than any answer of the trial.
const ANSWER_BYTES_MAX: usize = 64;

fn refused(step: Step) -> impl Fn(Errno) -> Refused {
    move |errno| Refused { step, errno: io::Error::from(errno).raw_os_error().unwrap_or_default() }
}

fn refused_io(step: Step) -> impl Fn(io::Error) -> Refused {
    move |error| Refused { step, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// Shows `file` in the place of /etc/hosts to this process and its descendants. Needs a single thread. As a plain user
/// we hold every capability of the new user namespace until exec, which leaves none: our uid is not 0 there.
pub(crate) fn enter(file: &CStr) -> Result<(), Refused> {
    if Uid::effective().is_root() {
        unshare(CloneFlags::CLONE_NEWNS).map_err(refused(Step::Namespace))?;
    } else {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(refused(Step::Namespace))?;
        keep_identity(uid, gid).map_err(refused_io(Step::Identity))?;
    }
    cover(file)
}

/// Groups must be given up first (user_namespaces(7)); those we are in keep counting, they only lose their numbers.
fn keep_identity(uid: Uid, gid: Gid) -> io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// mount(2) follows links: where /etc/hosts is one, what it leads to is covered.
fn cover(file: &CStr) -> Result<(), Refused> {
    let (none, no_options) = (None::<&CStr>, None::<&CStr>);
    // Slave, not private: what the machine mounts later still arrives, and nothing of ours goes back.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, no_options).map_err(refused(Step::Propagation))?;
    mount(Some(file), MACHINE_HOSTS_FILE, none, MsFlags::MS_BIND, no_options).map_err(refused(Step::Bind))
}

/// Goes the whole way in a child. `lock_fd` is closed there at once: flock(2) is shared with it.
#[expect(unsafe_code, reason = "fork")]
pub(crate) fn trial(file: &CStr, lock_fd: libc::c_int) -> Result<(), Refused> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(refused(Step::Namespace))?;
    // SAFETY: this process has one thread, so the child may do whatever we may.
    match unsafe { nix::unistd::fork() }.map_err(refused(Step::Namespace))? {
        ForkResult::Child => {
            // SAFETY: in the child nothing else uses the lock's descriptor; alarm(2) takes a number; the child leaves
            // without our exit handlers.
            unsafe {
                libc::close(lock_fd);
                libc::alarm(TRIAL_LIMIT_S);
                let answer = enter(file).map_or_else(|refused| refused.line().into_bytes(), |()| OPEN.to_vec());
                // A parent that has gone needs no answer.
                let _ = File::from(write).write_all(&answer);
                libc::_exit(0)
            }
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut answer = String::new();
            let limit = u64::try_from(ANSWER_BYTES_MAX).unwrap_or_default();
            File::from(read).take(limit).read_to_string(&mut answer).map_err(refused_io(Step::Bind))?;
            nix::sys::wait::waitpid(child, None).map_err(refused(Step::Bind))?;
            if answer.as_bytes() == OPEN {
                return Ok(());
            }
            Err(Refused::parse(&answer).unwrap_or(Refused { step: Step::Bind, errno: libc::ETIMEDOUT }))
        }
    }
}

/// Covers /etc/hosts again for a running instance. A mount ends in every namespace when the file under it is replaced
/// outside, as editors do with the machine's own /etc/hosts.
pub(crate) fn renew(pid: &str, instance: &str, file: &CStr, file_path: &Path) -> Result<(), Refused> {
    let at = refused_io(Step::Namespace);
    // Held by descriptor, so that all we look at belongs to one process.
    let process = File::open(format!("/proc/{pid}")).map_err(&at)?;
    let inside = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&process));
    let entry = format!("{INSTANCE_ENV}={instance}");
    let environ = std::fs::read(format!("{inside}/environ")).map_err(&at)?;
    let is_ours = environ.split(|byte| *byte == 0).any(|found| found == entry.as_bytes());
    let mounts = File::open(format!("{inside}/ns/mnt")).map_err(&at)?;
    let inode = |path: &Path| std::fs::metadata(path).map(|facts| (facts.dev(), facts.ino()));
    let of_file = |file: &File| file.metadata().map(|facts| (facts.dev(), facts.ino()));
    // One that was started without names lives in the machine's own namespace, where nothing may be covered.
    if !is_ours || of_file(&mounts).map_err(&at)? == inode(Path::new("/proc/self/ns/mnt")).map_err(&at)? {
        return Ok(());
    }
    if !Uid::effective().is_root() {
        let users = File::open(format!("{inside}/ns/user")).map_err(&at)?;
        setns(users, CloneFlags::CLONE_NEWUSER).map_err(refused(Step::Namespace))?;
    }
    setns(mounts, CloneFlags::CLONE_NEWNS).map_err(refused(Step::Namespace))?;
    let wanted = inode(file_path).map_err(refused_io(Step::Bind))?;
    match inode(Path::new(MACHINE_HOSTS_FILE)) {
        Ok(found) if found == wanted => Ok(()),
        Ok(_) => cover(file),
        Err(error) => Err(refused_io(Step::Bind)(error)),
    }
}
