//! From a path to an open file beneath the folder.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use super::ask::{Asked, End};
use super::coding::Coding;

/// What stands for a folder.
const INDEX: &str = "index.html";
/// The kernel gives up on a path while something is renamed above it; a release does not change, so this is plenty.
const TRIES_MAX: usize = 4;

/// The folder of one site.
#[derive(Debug)]
pub(super) struct Folder {
    root: OwnedFd,
    fallback: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) enum Found {
    File(File),
    /// A folder that was asked for without the final slash its relative links need.
    Folder,
    Nothing,
}

#[derive(Debug)]
pub(super) struct File {
    /// O_PATH: names the file, cannot read it.
    pub(super) fd: OwnedFd,
    /// Of the plain file, for its type and its caching.
    pub(super) path: PathBuf,
    pub(super) coding: Option<Coding>,
    pub(super) size: u64,
    pub(super) modified_ns: i128,
    pub(super) role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Asked,
    /// Stands in for what no file matches.
    Fallback,
}

impl Folder {
    /// `root` must lie beneath the folder we were started in, which is the release.
    pub(super) fn open(root: &Path, fallback: Option<PathBuf>) -> io::Result<Self> {
        Ok(Self { root: beneath(&folder(Path::new("."))?, root, OFlag::O_DIRECTORY)?, fallback })
    }

    #[cfg(test)]
    pub(super) fn at(path: &Path, fallback: Option<PathBuf>) -> io::Result<Self> {
        Ok(Self { root: folder(path)?, fallback })
    }

    /// Blocks on the disk.
    pub(super) fn find(&self, asked: &Asked, codings: &[Coding]) -> io::Result<Found> {
        match self.find_asked(asked, codings)? {
            Found::Nothing => {}
            found @ (Found::File(_) | Found::Folder) => return Ok(found),
        }
        match &self.fallback {
            Some(path) => self.file(path, codings, Role::Fallback),
            None => Ok(Found::Nothing),
        }
    }

    fn find_asked(&self, asked: &Asked, codings: &[Coding]) -> io::Result<Found> {
        let index = asked.path.join(INDEX);
        match asked.end {
            End::Slash => self.file(&index, codings, Role::Asked),
            End::Name => match self.file(&asked.path, codings, Role::Asked)? {
                Found::Folder if self.look(&index)?.is_none_or(|(_, stat)| !is(&stat, SFlag::S_IFREG)) => {
                    Ok(Found::Nothing)
                }
                found => Ok(found),
            },
        }
    }

    fn file(&self, path: &Path, codings: &[Coding], role: Role) -> io::Result<Found> {
        let Some((plain, stat)) = self.look(path)? else { return Ok(Found::Nothing) };
        if is(&stat, SFlag::S_IFDIR) {
            return Ok(Found::Folder);
        }
        // A pipe or a device would block the reader, or never end.
        if !is(&stat, SFlag::S_IFREG) {
            return Ok(Found::Nothing);
        }
        for coding in codings {
            let mut name = path.as_os_str().to_owned();
            name.push(coding.extension());
            if let Some((fd, stat)) = self.look(Path::new(&name))?.filter(|(_, stat)| is(stat, SFlag::S_IFREG)) {
                return Ok(Found::File(file(fd, path, Some(*coding), &stat, role)));
            }
        }
        Ok(Found::File(file(plain, path, None, &stat, role)))
    }

    /// `None` for whatever is not there for us, be it for its name, its permissions or a link that leads out.
    fn look(&self, path: &Path) -> io::Result<Option<(OwnedFd, FileStat)>> {
        match beneath(&self.root, path, OFlag::empty()) {
            Ok(fd) => {
                let stat = fstat(&fd)?;
                Ok(Some((fd, stat)))
            }
            Err(
                Errno::ENOENT
                | Errno::ENOTDIR
                | Errno::EACCES
                | Errno::EPERM
                | Errno::ELOOP
                | Errno::EXDEV
                | Errno::ENAMETOOLONG
                | Errno::EINVAL,
            ) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn folder(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

fn file(fd: OwnedFd, path: &Path, coding: Option<Coding>, stat: &FileStat, role: Role) -> File {
    let modified_ns = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    File { fd, path: path.to_owned(), coding, size, modified_ns, role }
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}

fn beneath(folder: impl AsFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    for _ in 1..TRIES_MAX {
        match openat2(&folder, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            opened => return opened,
        }
    }
    openat2(&folder, path, how)
}
