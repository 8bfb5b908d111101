//! Whose the files of a service are, and changing it in trees that a build or a service has filled: whatever lies there
//! was put there by somebody hostile, and may still be changed by them while we look.
//!
//! Nothing is reached by path below the root. An entry is opened without following it, looked at through its descriptor,
//! and changed through the same descriptor: what was looked at is what is changed. Only what belongs to the user we take
//! it from is touched, so a hard link to somebody else's file gives that file to nobody.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use super::error::Error;

/// Entries of one tree: several times the largest that package managers are known to make.
const ENTRIES_MAX: u64 = 4_000_000;
/// Folders within folders; a descriptor is held for each.
const DEPTH_MAX: usize = 128;
/// Bytes of files with several names that are copied in one tree; each of them counts once for every name.
const COPY_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

const DIR_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;
const PROGRAM_MODE: u32 = 0o750;
const ANY_EXECUTE: u32 = 0o111;

/// Whose the files of one service are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The manager's own, and so are the programs.
    Manager,
    /// A user that all services share: what it built stays its own.
    Shared(Ids),
    /// A user of this service alone: what it built becomes the manager's, for the user's group to read.
    Alone(Ids),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// Who runs with these files; `None`: whoever the manager runs as.
    pub fn ids(self) -> Option<Ids> {
        match self {
            Self::Manager => None,
            Self::Shared(ids) | Self::Alone(ids) => Some(ids),
        }
    }
}

/// Makes a built tree the manager's: its group may read and execute, nobody may write, others may do nothing. From
/// the first call on the build's user can put nothing new into it; descriptors that it holds open for writing stay what
/// they are, so a service can hurt its own release that far, and no other.
pub(super) fn make_read_only(root: &Path, Ids { uid, gid }: Ids) -> Result<(), Error> {
    let opened = open_root(root)?;
    let found = opened.metadata().map_err(Error::io("look at", root))?.uid();
    let mut copied = 0;
    let mut take = |at: &At<'_>| {
        let ours = at.facts.uid() == 0 && (at.facts.is_dir() || at.facts.nlink() == 1);
        if at.facts.is_symlink() {
            // Has no mode, cannot be changed, and its folder is ours by now.
            return Ok(());
        }
        if at.is_root() {
            // Of no group but ours until all is done: it tells, after a crash too, that it is not.
            return at.change(0, 0, Some(DIR_MODE)).map_err(Error::io("make read-only", root));
        }
        // A root that is ours already tells of an attempt that was cut short, and of no other owner.
        let theirs = at.facts.uid() == uid || (found != 0 && at.facts.uid() == found);
        if !theirs && !ours {
            return Err(Error::ForeignFile { path: at.shown() });
        }
        if at.facts.is_dir() {
            return at.change(0, gid, Some(DIR_MODE)).map_err(Error::io("make read-only", &at.shown()));
        }
        if !at.facts.is_file() {
            // A socket or a FIFO of the build; nobody else can get at it.
            return Ok(());
        }
        let mode = if at.facts.mode() & ANY_EXECUTE == 0 { FILE_MODE } else { PROGRAM_MODE };
        if at.facts.nlink() == 1 {
            return at.change(0, gid, Some(mode)).map_err(Error::io("make read-only", &at.shown()));
        }
        copied += at.facts.size();
        if copied > COPY_BYTES_MAX {
            return Err(Error::TreeTooLarge { path: at.shown(), limit: "16 GiB of files with several names" });
        }
        at.replace_by_copy(gid, mode).map_err(Error::io("copy", &at.shown()))
    };
    walk(root, &opened, &mut take)?;
    own(root, &opened, Ids { uid: 0, gid })
}

fn own(root: &Path, opened: &File, Ids { uid, gid }: Ids) -> Result<(), Error> {
    let owned = fchownat(opened, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_EMPTY_PATH);
    owned.map_err(|errno| Error::io("change the owner of", root)(errno.into()))
}

/// Gives what `from` owns in a tree to another. The root comes last: it tells whether all is done. Left alone is what
/// belongs to anybody else, and files with several names, of which some may lie elsewhere.
pub(super) fn give(root: &Path, from: u32, to: Ids) -> Result<(), Error> {
    let opened = open_root(root)?;
    let mut kept = 0_u64;
    let mut hand_over = |at: &At<'_>| {
        let alone = at.facts.is_dir() || at.facts.nlink() == 1;
        if at.is_root() {
            return Ok(());
        }
        if at.facts.uid() != from || !alone {
            kept += 1;
            return Ok(());
        }
        at.change(to.uid, to.gid, None).map_err(Error::io("change the owner of", &at.shown()))
    };
    walk(root, &opened, &mut hand_over)?;
    if kept > 0 {
        tracing::warn!(root = %root.display(), kept, "files of others, and files with several names, keep their owner");
    }
    own(root, &opened, to)
}

/// Where a walk stands: an entry, held by a descriptor that cannot read it, only name it.
struct At<'a> {
    root: &'a Path,
    /// Folder it was found in and its name there; `None`: the root itself.
    found: Option<(&'a File, &'a OsStr)>,
    below: &'a Path,
    entry: &'a File,
    facts: Metadata,
}

impl At<'_> {
    fn is_root(&self) -> bool {
        self.found.is_none()
    }

    fn shown(&self) -> PathBuf {
        self.root.join(self.below)
    }

    /// The owner first: until then the mode is theirs to change.
    fn change(&self, uid: u32, gid: u32, mode: Option<u32>) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(self.entry, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        match mode {
            Some(mode) => std::fs::set_permissions(path_of(self.entry), Permissions::from_mode(mode)),
            None => Ok(()),
        }
    }

    /// A file of the build's user with other names, perhaps outside of the tree: those stay what they are. Its folder is
    /// ours, so nobody puts another in its place meanwhile.
    fn replace_by_copy(&self, gid: u32, mode: u32) -> io::Result<()> {
        let Some((dir, name)) = self.found else { return Ok(()) };
        let mut source = File::open(path_of(self.entry))?;
        unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?;
        let path = path_of(dir).join(name);
        let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        io::copy(&mut source, &mut copy)?;
        nix::unistd::fchown(&copy, None, Some(Gid::from_raw(gid)))?;
        copy.set_permissions(Permissions::from_mode(mode))
    }
}

/// The inode behind a descriptor, by a path that follows nothing else.
fn path_of(entry: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", entry.as_raw_fd()))
}

fn open_root(root: &Path) -> Result<File, Error> {
    let flags = (OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits();
    OpenOptions::new().read(true).custom_flags(flags).open(root).map_err(Error::io("open", root))
}

fn open_entry(dir: &File, name: &OsStr) -> io::Result<File> {
    Ok(openat(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?.into())
}

type Visit<'a> = dyn FnMut(&At<'_>) -> Result<(), Error> + 'a;

struct Walk<'a> {
    root: &'a Path,
    entries: u64,
    visit: &'a mut Visit<'a>,
}

/// Visits the root and everything below, a folder before it is listed.
fn walk<'a>(root: &'a Path, opened: &File, visit: &'a mut Visit<'a>) -> Result<(), Error> {
    let facts = opened.metadata().map_err(Error::io("look at", root))?;
    let below = Path::new("");
    visit(&At { root, found: None, below, entry: opened, facts })?;
    Walk { root, entries: 0, visit }.list(opened, below, 0)
}

impl Walk<'_> {
    fn list(&mut self, dir: &File, below: &Path, depth: usize) -> Result<(), Error> {
        let shown = self.root.join(below);
        if depth > DEPTH_MAX {
            return Err(Error::TreeTooLarge { path: shown, limit: "128 folders within each other" });
        }
        for entry in std::fs::read_dir(path_of(dir)).map_err(Error::io("list", &shown))? {
            let name = entry.map_err(Error::io("list", &shown))?.file_name();
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(Error::TreeTooLarge { path: shown, limit: "4,000,000 files" });
            }
            let below = below.join(&name);
            let entry = match open_entry(dir, &name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(Error::io("open", &self.root.join(&below)))?,
            };
            let facts = entry.metadata().map_err(Error::io("look at", &self.root.join(&below)))?;
            let is_dir = facts.is_dir();
            (self.visit)(&At { root: self.root, found: Some((dir, &name)), below: &below, entry: &entry, facts })?;
            if is_dir {
                self.list(&entry, &below, depth + 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn facts(path: &Path) -> (u32, u32, u32) {
        let facts = path.symlink_metadata().unwrap();
        (facts.uid(), facts.gid(), facts.mode() & 0o7777)
    }

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("release");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        for (name, mode) in [("a/file", 0o666), ("a/b/program", 0o4777), ("a/secret", 0o600)] {
            std::fs::write(root.join(name), name).unwrap();
            std::fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
        }
        (dir, root)
    }

    fn hand(path: &Path, uid: u32) {
        std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
    }

    const OURS: Ids = Ids { uid: 77_001, gid: 77_001 };

    /// Changing owners takes root, which `xtask test-root` and many build machines are.
    fn is_root() -> bool {
        nix::unistd::geteuid().is_root()
    }

    #[test]
    fn a_tree_becomes_read_only_and_links_lead_nowhere() {
        if !is_root() {
            return;
        }
        let (dir, root) = tree();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "theirs").unwrap();
        std::fs::set_permissions(&outside, Permissions::from_mode(0o666)).unwrap();
        symlink(&outside, root.join("link")).unwrap();
        symlink(dir.path(), root.join("a/up")).unwrap();
        std::fs::hard_link(root.join("a/file"), dir.path().join("second-name")).unwrap();
        for path in ["", "a", "a/b", "a/file", "a/b/program", "a/secret"] {
            hand(&root.join(path), 77_001);
        }
        make_read_only(&root, OURS).unwrap();
        make_read_only(&root, OURS).unwrap();
        for (path, mode) in
            [("", 0o750), ("a", 0o750), ("a/b", 0o750), ("a/file", 0o640), ("a/b/program", 0o750), ("a/secret", 0o640)]
        {
            assert_eq!(facts(&root.join(path)), (0, 77_001, mode), "{path}");
        }
        assert_eq!(std::fs::read_to_string(root.join("a/file")).unwrap(), "a/file");
        assert_eq!(facts(&dir.path().join("second-name")), (77_001, 77_001, 0o666), "the other name is what it was");
        assert_eq!(facts(&outside), (0, 0, 0o666), "what a link leads to is what it was");
    }

    #[test]
    fn a_hard_link_to_anothers_file_is_refused() {
        if !is_root() {
            return;
        }
        for other in [0, 77_002] {
            let (dir, root) = tree();
            let shadow = dir.path().join("shadow");
            std::fs::write(&shadow, "secret").unwrap();
            std::fs::set_permissions(&shadow, Permissions::from_mode(0o600)).unwrap();
            hand(&shadow, other);
            for path in ["", "a", "a/b", "a/file", "a/b/program", "a/secret"] {
                hand(&root.join(path), 77_001);
            }
            std::fs::hard_link(&shadow, root.join("a/shadow")).unwrap();
            // The root is the manager's after the first: a second attempt is no weaker than the first.
            for attempt in 0..2 {
                let refused = make_read_only(&root, OURS);
                let named = matches!(&refused, Err(Error::ForeignFile { path }) if path.ends_with("a/shadow"));
                assert!(named, "attempt {attempt}: {refused:?}");
                assert_eq!(facts(&shadow), (other, other, 0o600));
            }
        }
    }

    #[test]
    fn only_what_was_theirs_is_given() {
        if !is_root() {
            return;
        }
        let (dir, root) = tree();
        for path in ["", "a", "a/b", "a/file", "a/b/program"] {
            hand(&root.join(path), 77_001);
        }
        std::fs::hard_link(root.join("a/b/program"), dir.path().join("second-name")).unwrap();
        give(&root, 77_001, Ids { uid: 77_003, gid: 77_003 }).unwrap();
        for path in ["", "a", "a/b", "a/file"] {
            assert_eq!(facts(&root.join(path)).0, 77_003, "{path}");
        }
        assert_eq!(facts(&root.join("a/secret")).0, 0, "somebody else's");
        assert_eq!(facts(&dir.path().join("second-name")).0, 77_001);
    }

    #[test]
    fn a_tree_without_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().join("release");
        for _ in 0..=DEPTH_MAX {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        let root = dir.path().join("release");
        let opened = open_root(&root).unwrap();
        let refused = walk(&root, &opened, &mut |_: &At<'_>| Ok(()));
        assert!(matches!(refused, Err(Error::TreeTooLarge { .. })), "{refused:?}");
        symlink(&root, dir.path().join("link")).unwrap();
        assert!(open_root(&dir.path().join("link")).is_err());
    }
}
