//! Changing a text file of the machine's: as a whole by rename where that can be, in place where something is mounted
//! there, and with everything else about it as it was.

use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use crate::files::write_in_place;

/// Somebody else writes the file too: as often is it read anew before we give up.
const TRIES: u32 = 3;
/// Longest wait for another writer, who needs milliseconds.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(5);
/// Most bytes of the list of a file's extended attributes, and of one value (the kernel's own limit, xattr(7)).
const XATTR_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    Same,
    /// It is another inode now: mounts over the old one are gone.
    Renamed,
    /// Rename was refused: a bind mount, or a folder we may not write to.
    InPlace,
}

/// Writes what `change` makes of the file. Links are followed: what they lead to is changed. Owner, mode and extended
/// attributes (ACL, SELinux) stay. A file over `bytes_max` is refused.
pub fn replace(path: &Path, bytes_max: u64, change: impl Fn(&[u8]) -> Vec<u8>) -> io::Result<Replaced> {
    let path = path.canonicalize()?;
    for _ in 0..TRIES {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path)?;
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut found = Vec::new();
        Read::by_ref(&mut file).take(bytes_max.saturating_add(1)).read_to_end(&mut found)?;
        if u64::try_from(found.len()).is_ok_and(|bytes| bytes > bytes_max) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let wanted = change(&found);
        if wanted == found {
            return Ok(Replaced::Same);
        }
        match renamed(&path, &file, &facts, &wanted) {
            Ok(Swap::Done) => return Ok(Replaced::Renamed),
            Ok(Swap::Overtaken) => {}
            Err(error) if is_refusal(&error) => {
                write_in_place(&path, &wanted, facts.mode() & 0o7777)?;
                return Ok(Replaced::InPlace);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Removes what a writer that was killed left beside the file.
pub fn sweep(path: &Path) -> io::Result<()> {
    let temp_path = temp_path(&path.canonicalize()?)?;
    if !temp_path.exists() {
        return Ok(());
    }
    let _claimed = claim(&temp_path)?;
    std::fs::remove_file(&temp_path)
}

enum Swap {
    Done,
    /// The file is no longer the one that was read.
    Overtaken,
}

/// What a bind mount, a read-only folder or a file system without the attributes says.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [libc::EBUSY, libc::EXDEV, libc::EROFS, libc::EACCES, libc::EPERM, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|errno| refusals.contains(&errno))
}

fn renamed(path: &Path, old: &File, facts: &Metadata, bytes: &[u8]) -> io::Result<Swap> {
    let temp_path = temp_path(path)?;
    let temp = claim(&temp_path)?;
    let swapped = swap(path, &temp_path, &temp, old, facts, bytes);
    if !matches!(swapped, Ok(Swap::Done)) {
        // The outcome is what matters; a temp file that stays is overwritten next time.
        let _ = std::fs::remove_file(&temp_path);
        return swapped;
    }
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    swapped
}

/// The same for every writer: what a killed one leaves is the next one's.
fn temp_path(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(path.with_file_name(format!(".{}.agentd", name.to_string_lossy())))
}

/// Empty, ours alone until it is dropped, and still under its name: who had it before may have renamed or removed it.
fn claim(temp_path: &Path) -> io::Result<Flock<File>> {
    let start = Instant::now();
    while start.elapsed() < LOCK_LIMIT {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        match Flock::lock(options.open(temp_path)?, FlockArg::LockExclusiveNonblock) {
            Ok(temp) => {
                let (ours, named) = (temp.metadata()?, temp_path.symlink_metadata());
                if named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
                    temp.set_len(0)?;
                    return Ok(temp);
                }
            }
            Err((_, Errno::EWOULDBLOCK)) => std::thread::sleep(LOCK_POLL),
            Err((_, errno)) => return Err(errno.into()),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

fn swap(
    path: &Path,
    temp_path: &Path,
    mut temp: &File,
    old: &File,
    facts: &Metadata,
    bytes: &[u8],
) -> io::Result<Swap> {
    temp.write_all(bytes)?;
    fchown(temp, Some(facts.uid()), Some(facts.gid()))?;
    // Before the attributes: an ACL's mask is the mode's group bits.
    temp.set_permissions(PermissionsExt::from_mode(facts.mode() & 0o7777))?;
    copy_attributes(old, temp)?;
    temp.sync_all()?;
    let stamp = |facts: &Metadata| (facts.dev(), facts.ino(), facts.size(), facts.mtime(), facts.mtime_nsec());
    if path.symlink_metadata().map(|now| stamp(&now)).ok() != Some(stamp(facts)) {
        return Ok(Swap::Overtaken);
    }
    std::fs::rename(temp_path, path)?;
    Ok(Swap::Done)
}

fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    let names = match list_attributes(from) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
        names => names?,
    };
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name)?;
        set_attribute(to, &name, &attribute(from, &name)?)?;
    }
    Ok(())
}

/// Names, each ended by a zero byte.
#[expect(unsafe_code, reason = "no wrapper in nix")]
fn list_attributes(file: &File) -> io::Result<Vec<u8>> {
    let mut names = vec![0_u8; XATTR_BYTES_MAX];
    // SAFETY: the buffer is alive and as long as said; the kernel writes no more than that.
    let count = unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    cut(names, count)
}

#[expect(unsafe_code, reason = "no wrapper in nix")]
fn attribute(file: &File, name: &CString) -> io::Result<Vec<u8>> {
    let mut value = vec![0_u8; XATTR_BYTES_MAX];
    // SAFETY: name and buffer are alive, the buffer is as long as said.
    let count = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    cut(value, count)
}

/// To what the call said it wrote; negative is its failure.
fn cut(mut bytes: Vec<u8>, count: libc::ssize_t) -> io::Result<Vec<u8>> {
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    bytes.truncate(count);
    Ok(bytes)
}

#[expect(unsafe_code, reason = "no wrapper in nix")]
fn set_attribute(file: &File, name: &CString, value: &[u8]) -> io::Result<()> {
    // SAFETY: name and value are alive, the value is as long as said.
    let done = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(found: &[u8]) -> Vec<u8> {
        [found, b"+"].concat()
    }

    #[test]
    fn all_but_the_text_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(&path, "a").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let name = CString::new("user.agentd").unwrap();
        let has_attributes = set_attribute(&File::options().write(true).open(&path).unwrap(), &name, b"kept").is_ok();
        let before = std::fs::metadata(&path).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("hosts", &link).unwrap();
        assert_eq!(replace(&link, 10, append).unwrap(), Replaced::Renamed);
        assert_eq!(replace(&link, 10, <[u8]>::to_vec).unwrap(), Replaced::Same);
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"a+");
        assert_ne!(before.ino(), after.ino());
        assert_eq!((before.mode(), before.uid(), before.gid()), (after.mode(), after.uid(), after.gid()));
        assert!(link.symlink_metadata().unwrap().is_symlink());
        if has_attributes {
            assert_eq!(attribute(&File::open(&path).unwrap(), &name).unwrap(), b"kept");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temp file stays");
    }

    #[test]
    fn what_is_no_such_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(replace(dir.path(), 10, append).is_err());
        assert!(replace(&dir.path().join("absent"), 10, append).is_err());
        let path = dir.path().join("long");
        std::fs::write(&path, "0123456789a").unwrap();
        assert_eq!(replace(&path, 10, append).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(std::fs::read(&path).unwrap(), b"0123456789a");
    }

    #[test]
    fn what_a_killed_writer_left_is_taken_over_or_swept() {
        let dir = tempfile::tempdir().unwrap();
        let (path, left) = (dir.path().join("hosts"), dir.path().join(".hosts.agentd"));
        let files = || std::fs::read_dir(dir.path()).unwrap().count();
        std::fs::write(&path, "a").unwrap();
        std::fs::write(&left, "longer than what is written").unwrap();
        assert_eq!(replace(&path, 10, append).unwrap(), Replaced::Renamed);
        assert_eq!((std::fs::read(&path).unwrap(), files()), (b"a+".to_vec(), 1));
        std::fs::write(&left, "again").unwrap();
        assert_eq!((replace(&path, 10, <[u8]>::to_vec).unwrap(), files()), (Replaced::Same, 2));
        sweep(&path).unwrap();
        sweep(&path).unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), files()), (b"a+".to_vec(), 1));
    }

    #[test]
    fn two_writers_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(&path, "").unwrap();
        let busy = |error: &io::Error| error.kind() == io::ErrorKind::ResourceBusy;
        let written: usize = std::thread::scope(|scope| {
            let writer = || {
                let replaced = (0..50).map(|_| replace(&path, 1_000, append));
                replaced.filter(|replaced| !replaced.as_ref().is_err_and(busy)).map(Result::unwrap).count()
            };
            let writers = [scope.spawn(writer), scope.spawn(writer)];
            writers.into_iter().map(|writer| writer.join().unwrap()).sum()
        });
        assert_eq!(std::fs::read(&path).unwrap().len(), written, "none is lost");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temp file stays");
    }

    #[test]
    fn a_writer_that_is_faster_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(&path, "a").unwrap();
        let others = std::cell::Cell::new(0);
        let change = |found: &[u8]| {
            if others.replace(others.get() + 1) == 0 {
                std::fs::write(&path, "theirs").unwrap();
            }
            append(found)
        };
        assert_eq!(replace(&path, 10, change).unwrap(), Replaced::Renamed);
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs+");
    }
}
