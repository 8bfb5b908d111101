//! Files that a reader sees whole or not at all, locks held for life, and socket names of any length.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Whether a written file must survive a power cut or only a crash of the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Written, fsynced, renamed, folder fsynced.
    PowerCut,
    /// Written and renamed: enough on a tmpfs and for what a reboot makes stale.
    Crash,
}

/// Replaces `path` as a whole: temp name in the same folder, then rename(2).
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let temp_path = dir.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        // A left-over of a killed writer with our pid would keep its own mode.
        match std::fs::remove_file(&temp_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp_path)?;
        // The mode above is masked by umask; who must read the file must be able to all the same.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        if durability == Durability::PowerCut {
            file.sync_all()?;
        }
        std::fs::rename(&temp_path, path)
    })();
    if let Err(error) = written {
        // The write's own error is what matters; a temp file that stays is overwritten next time.
        let _ = std::fs::remove_file(&temp_path);
        return Err(error);
    }
    match durability {
        Durability::PowerCut => File::open(dir)?.sync_all(),
        Durability::Crash => Ok(()),
    }
}

/// Makes a folder, and those above it, unless it is there; its mode is set when it is made.
pub fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let made = std::fs::create_dir_all(parent).and_then(|()| std::fs::DirBuilder::new().mode(mode).create(path));
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// The innermost of a folder and those above it that a user may not enter.
pub fn closed_to(dir: &Path, uid: u32, gid: u32) -> io::Result<Option<PathBuf>> {
    for path in dir.ancestors() {
        let facts = std::fs::metadata(path)?;
        let bit = match (facts.uid() == uid, facts.gid() == gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        if facts.mode() & bit == 0 {
            return Ok(Some(path.to_owned()));
        }
    }
    Ok(None)
}

/// Whether there was anything to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Changed,
    Same,
}

/// Changes the lines of a text file without making it another file, for those who hold the inode (a bind mount). The old
/// text is never cut off first: a reader finds old lines or new lines, at worst blank ones behind the new, and never the
/// rest of an old line. A file that is not there is made.
pub fn write_in_place(path: &Path, text: &[u8], mode: u32) -> io::Result<Written> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_atomic(path, text, mode, Durability::Crash)?;
            return Ok(Written::Changed);
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    file.read_to_end(&mut found)?;
    if found == text {
        return Ok(Written::Same);
    }
    let mut padded = text.to_vec();
    padded.resize(text.len().max(found.len()), b'\n');
    file.write_all_at(&padded, 0)?;
    file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))?;
    Ok(Written::Changed)
}

/// An exclusive flock(2), released when dropped or when the process ends. Close-on-exec.
#[derive(Debug)]
pub struct Lock(Flock<File>);

/// Why a lock is not ours.
#[derive(Debug)]
pub enum NotLocked {
    /// Somebody holds it; their pid as they wrote it, if they did.
    Held {
        pid: Option<u32>,
    },
    Io(io::Error),
}

impl Lock {
    /// Takes the lock without waiting and writes our pid into the file.
    pub fn take(path: &Path) -> Result<Self, NotLocked> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(NotLocked::Io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut locked) => {
                let pid = format!("{:<10}\n", std::process::id());
                locked.set_len(0).and_then(|()| locked.write_all(pid.as_bytes())).map_err(NotLocked::Io)?;
                Ok(Self(locked))
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(NotLocked::Held { pid: read_pid(path) }),
            Err((_, errno)) => Err(NotLocked::Io(errno.into())),
        }
    }

    /// The descriptor, for a check that it is still open across exec.
    pub fn raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// The pid a lock file names.
pub fn read_pid(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Whether somebody holds the lock. `Ok(false)` also when the file does not exist.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// A folder kept open so that sockets in it can be named within the 108 bytes of sockaddr_un however long its own
/// path is (unix(7)): `/proc/self/fd/<n>/<name>`.
#[derive(Debug)]
pub struct SocketDir(File);

impl SocketDir {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let flags = nix::libc::O_DIRECTORY | nix::libc::O_PATH;
        OpenOptions::new().read(true).custom_flags(flags).open(dir).map(Self)
    }

    /// Valid while `self` lives.
    pub fn path_of(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write_atomic(&path, b"one", 0o600, Durability::Crash).unwrap();
        write_atomic(&path, b"two", 0o600, Durability::PowerCut).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temp file stays");
    }

    #[test]
    fn lines_change_under_an_open_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        assert_eq!(write_in_place(&path, b"one\ntwo\n", 0o644).unwrap(), Written::Changed);
        let reader = File::open(&path).unwrap();
        let inode = reader.metadata().unwrap().ino();
        for text in [&b"three\n"[..], b"four\nfive\nsix\n", b""] {
            assert_eq!(write_in_place(&path, text, 0o644).unwrap(), Written::Changed);
            assert_eq!(write_in_place(&path, text, 0o644).unwrap(), Written::Same);
            let mut seen = vec![0; 100];
            let count = reader.read_at(&mut seen, 0).unwrap();
            assert_eq!(&seen[..count], text);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_lock_has_one_holder_and_says_who() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_locked(&path).unwrap());
        let lock = Lock::take(&path).unwrap();
        assert!(is_locked(&path).unwrap());
        match Lock::take(&path) {
            Err(NotLocked::Held { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(lock);
        assert!(!is_locked(&path).unwrap());
    }
}
