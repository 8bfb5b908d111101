//! A /tmp and a /var/tmp of its own for the program: what one service puts there, under a name that another one guesses,
//! is none of that one's business. Root alone can; a plain user's services are that user anyway.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use agentd_protocol::shim::spec::{PRIVATE_TMP, PRIVATE_VAR_TMP};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// What is covered, and with what of the instance's folder. /var/tmp first: where it is a link to /tmp, the second mount
/// covers the first.
const PLACES: [(&str, &str); 2] = [("/var/tmp", PRIVATE_VAR_TMP), ("/tmp", PRIVATE_TMP)];

/// From here on this process and its descendants see folders of `dir` there. Needs a single thread. A mount namespace
/// made a moment ago for /etc/hosts is left for another one, with the same mounts in it.
pub(super) fn enter(dir: &Path) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let (none, no_options) = (None::<&CStr>, None::<&CStr>);
    // Slave, not private: what the machine mounts later still arrives, and nothing of ours goes back.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, no_options)?;
    for (place, name) in PLACES {
        let source: PathBuf = dir.join(name);
        match mount(Some(&source), place, none, MsFlags::MS_BIND, no_options) {
            // A machine without a /var/tmp has none to share.
            Err(Errno::ENOENT) if source.is_dir() => {}
            mounted => mounted?,
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        // What keeps the program from privileges is no_new_privs; this is for good measure.
        let _ = mount(none, place, none, flags, no_options);
    }
    Ok(())
}

/// What the program's log says of a refusal.
pub(super) fn refusal(errno: Errno) -> String {
    format!("agentd-shim: this program shares /tmp and /var/tmp with the machine: {}\n", errno.desc())
}

pub(super) fn dir(path: &CString) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()))
}
