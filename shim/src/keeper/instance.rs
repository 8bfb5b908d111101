//! What the keeper has of one instance: descriptors, and the process that should use them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use agentd_protocol::shim::{HELD_FDS_MAX, STDERR_FIFO, STDOUT_FIFO};
use agentd_sys::process::PidFd;
use agentd_sys::seqpacket::Connection;

use super::respawn::Respawns;

/// Longest name of a held descriptor, bytes: 32 of them fit in a message with room to spare.
const NAME_BYTES_MAX: usize = 128;

/// A descriptor kept for the instance, and the name it goes by.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) fd: OwnedFd,
}

#[derive(Debug)]
pub(super) struct Instance {
    pub(super) held: Vec<Held>,
    /// Never read: while one descriptor is open, the bytes in the pipe outlive every reader.
    #[expect(dead_code, reason = "held open, not used")]
    pub(super) pipes: Vec<File>,
    pub(super) shim: Shim,
    pub(super) respawns: Respawns,
}

#[derive(Debug)]
pub(super) enum Shim {
    /// We started it and wait for it.
    Child { pid: u32, pidfd: PidFd, started_ms: u64 },
    /// A keeper before us started it: watched by pidfd, its exit status may be unknown.
    Adopted { pid: u32, pidfd: PidFd, since_ms: u64, ask: Ask },
    /// None runs; one is started at `at_ms`.
    Due { at_ms: u64 },
}

/// Getting the held descriptors back from a shim we did not start.
#[derive(Debug)]
pub(super) enum Ask {
    Again { at_ms: u64, until_ms: u64 },
    Sent { connection: Connection, until_ms: u64 },
    Finished,
}

impl Shim {
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Child { pid, .. } | Self::Adopted { pid, .. } => Some(*pid),
            Self::Due { .. } => None,
        }
    }

    pub(super) fn pidfd(&self) -> Option<&PidFd> {
        match self {
            Self::Child { pidfd, .. } | Self::Adopted { pidfd, .. } => Some(pidfd),
            Self::Due { .. } => None,
        }
    }
}

/// Pairs names with the descriptors that came with them, or says what is wrong.
pub(super) fn pair(names: Vec<String>, fds: Vec<OwnedFd>) -> Result<Vec<Held>, &'static str> {
    if names.len() != fds.len() {
        return Err("as many descriptors as names are needed");
    }
    if !names.iter().all(|name| is_held_name(name)) {
        return Err("a descriptor's name is 1 to 128 printable bytes without `:`");
    }
    Ok(names.into_iter().zip(fds).map(|(name, fd)| Held { name, fd }).collect())
}

fn is_held_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

/// A new descriptor replaces the one of the same name, others stay. Nothing changes when there would be too many.
pub(super) fn merge(held: &mut Vec<Held>, new: Vec<Held>) -> Result<(), &'static str> {
    let mut fresh: Vec<&str> =
        new.iter().map(|item| item.name.as_str()).filter(|name| held.iter().all(|kept| kept.name != *name)).collect();
    fresh.sort_unstable();
    fresh.dedup();
    if held.len() + fresh.len() > HELD_FDS_MAX {
        return Err("one instance holds at most 32 descriptors");
    }
    for item in new {
        match held.iter_mut().find(|kept| kept.name == item.name) {
            Some(kept) => kept.fd = item.fd,
            None => held.push(item),
        }
    }
    Ok(())
}

/// Opens both log pipes for life: read and write, so that opening never waits for another end (fifo(7)).
pub(super) fn open_pipes(dir: &Path) -> io::Result<Vec<File>> {
    let open = |name: &str| -> io::Result<File> {
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(dir.join(name))?;
        if file.metadata()?.file_type().is_fifo() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    };
    Ok(vec![open(STDOUT_FIFO)?, open(STDERR_FIFO)?])
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn fd() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn held(names: &[&str]) -> Vec<Held> {
        names.iter().map(|name| Held { name: (*name).to_owned(), fd: fd() }).collect()
    }

    #[test]
    fn names_that_would_break_the_list_are_refused() {
        for bad in ["", "a:b", "a b", "ä", &"x".repeat(129)] {
            assert!(pair(vec![bad.to_owned()], vec![fd()]).is_err(), "{bad}");
        }
        assert!(pair(vec!["listen.x".into()], vec![]).is_err());
        assert_eq!(pair(vec!["listen.x".into()], vec![fd()]).unwrap().len(), 1);
    }

    #[test]
    fn a_name_is_replaced_and_the_limit_holds() {
        let mut kept = held(&["a", "b"]);
        let new = held(&["b", "c"]);
        let number = new[0].fd.as_raw_fd();
        merge(&mut kept, new).unwrap();
        let names: Vec<&str> = kept.iter().map(|item| item.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(kept[1].fd.as_raw_fd(), number);

        let many: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(merge(&mut kept, held(&many)).is_err());
        assert_eq!(kept.len(), 3);
        merge(&mut kept, held(&many[..29])).unwrap();
        assert_eq!(kept.len(), HELD_FDS_MAX);
    }
}
