//! Moves the program's output to segment files so that killing us loses no byte and doubles none.
//!
//! The bytes go from pipe to file inside one splice(2) at an explicit offset, so no copy of ours is ever the only one,
//! and the file's size is the position a next shim goes on from. The index record stands before the bytes it tells of.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agentd_protocol::shim::log::{
    INDEX_RECORD_BYTES, IndexRecord, LINE_SLACK_BYTES, Mark, Source, index_name, segment_name, segment_number,
};
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};

/// Bytes moved by one splice: what a pipe holds unless somebody enlarged it.
const SPLICE_BYTES: usize = 64 * 1024;
/// Splices in one go, so that a flood cannot keep us from everything else: 2 MiB, twice the largest usual pipe.
const SPLICES_MAX: u32 = 32;
/// Bytes of the same stream so soon after the last index record go without their own, ns.
const COALESCE_NS: u64 = 1_000_000;
/// A loss that goes on is told of this often, ms.
const LOSS_REPORT_MS: u64 = 60_000;
/// Readable by the operators' group.
const LOG_MODE: u32 = 0o640;

#[derive(Debug)]
pub(crate) struct Logs {
    dir: PathBuf,
    segment_bytes: u64,
    segments_max: u32,
    /// Least number that may still exist.
    oldest: u32,
    current: u32,
    /// `None` while the folder cannot be written.
    segment: Option<Segment>,
    loss: Loss,
}

/// Bytes thrown away and not yet told of.
#[derive(Debug, Default)]
struct Loss {
    bytes: u64,
    since_boot_ms: u64,
    over: bool,
}

#[derive(Debug)]
struct Segment {
    log: File,
    index: File,
    offset: i64,
    last: Option<(Source, u64)>,
}

/// What to do about a write that failed.
#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    Retry,
    Later,
    DeleteOldest,
    Discard,
}

/// Never block the program for a disk: give up our own oldest segments, then the newest bytes.
fn remedy(errno: Errno, sealed_segments: u32) -> Remedy {
    match errno {
        Errno::EINTR => Remedy::Retry,
        Errno::EAGAIN => Remedy::Later,
        Errno::ENOSPC | Errno::EDQUOT if sealed_segments > 0 => Remedy::DeleteOldest,
        _ => Remedy::Discard,
    }
}

nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);

/// Bytes that wait in a pipe; 0 also where it cannot be asked.
#[expect(unsafe_code, reason = "ioctls have no safe wrapper")]
fn waiting(fifo: BorrowedFd<'_>) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, `bytes` is one and alive.
    match unsafe { fionread(fifo.as_raw_fd(), &raw mut bytes) } {
        Ok(_) => usize::try_from(bytes).unwrap_or_default(),
        Err(_) => 0,
    }
}

impl Logs {
    /// Goes on in the newest segment of the folder.
    pub(crate) fn open(dir: &Path, segment_bytes: u64, segments_max: u32) -> Self {
        let numbers = || {
            let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
            names.filter_map(|entry| segment_number(entry.file_name().to_str()?))
        };
        let current = numbers().max().unwrap_or(0);
        Self {
            dir: dir.to_owned(),
            segment_bytes: segment_bytes.max(1),
            segments_max: segments_max.max(1),
            oldest: numbers().min().unwrap_or(current),
            current,
            segment: None,
            loss: Loss::default(),
        }
    }

    /// Moves what waits in the pipe; returns when it is empty or a fair share is done.
    pub(crate) fn drain(&mut self, fifo: &File, source: Source, boot_ms: u64) {
        for _ in 0..SPLICES_MAX {
            if waiting(fifo.as_fd()) == 0 {
                return;
            }
            let Err(errno) = self.store(fifo.as_fd(), source) else { continue };
            match remedy(errno, self.current.saturating_sub(self.oldest)) {
                Remedy::Retry => {}
                Remedy::Later => return,
                Remedy::DeleteOldest => self.delete_oldest(),
                Remedy::Discard => {
                    self.segment = None;
                    self.discard(fifo, boot_ms);
                }
            }
        }
    }

    /// Notes something between the bytes.
    pub(crate) fn mark(&mut self, mark: Mark) {
        // A mark on a full disk is lost like the bytes beside it.
        let _ = self.ready_segment().and_then(|segment| segment.note(Source::Mark(mark)));
    }

    /// Bytes thrown away since the last call, once the disk takes writes again or the loss has lasted.
    pub(crate) fn take_loss(&mut self, boot_ms: u64) -> Option<u64> {
        let due = self.loss.over || boot_ms.saturating_sub(self.loss.since_boot_ms) >= LOSS_REPORT_MS;
        if self.loss.bytes == 0 || !due {
            return None;
        }
        Some(std::mem::take(&mut self.loss).bytes)
    }

    fn store(&mut self, fifo: BorrowedFd<'_>, source: Source) -> Result<(), Errno> {
        let lossy = self.loss.bytes > 0 && !self.loss.over;
        let segment = self.ready_segment()?;
        if lossy {
            segment.note(Source::Mark(Mark::Dropped))?;
        }
        if !segment.covers(source) {
            segment.note(source)?;
        }
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        splice(fifo, None, &segment.log, Some(&mut segment.offset), SPLICE_BYTES, flags)?;
        self.loss.over = self.loss.bytes > 0;
        Ok(())
    }

    /// The open segment, a new one where the last is full.
    fn ready_segment(&mut self) -> Result<&mut Segment, Errno> {
        if self.segment.as_ref().is_some_and(|segment| segment.is_full(self.segment_bytes)) {
            self.segment = None;
            self.current += 1;
            while self.current - self.oldest >= self.segments_max {
                self.delete_oldest();
            }
        }
        let segment = match self.segment.take() {
            Some(segment) => segment,
            None => Segment::open(&self.dir, self.current).map_err(to_errno)?,
        };
        Ok(self.segment.insert(segment))
    }

    fn delete_oldest(&mut self) {
        for name in [segment_name(self.oldest), index_name(self.oldest)] {
            // Numbers may have gaps, and the manager may have moved a sealed segment away.
            let _ = std::fs::remove_file(self.dir.join(name));
        }
        self.oldest += 1;
    }

    fn discard(&mut self, mut fifo: &File, boot_ms: u64) {
        let mut bytes = [0; 4096];
        // Nothing to read means nothing to lose.
        let read = fifo.read(&mut bytes).unwrap_or_default();
        if self.loss.bytes == 0 {
            self.loss.since_boot_ms = boot_ms;
        }
        self.loss.over = false;
        self.loss.bytes = self.loss.bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
}

impl Segment {
    fn open(dir: &Path, number: u32) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).create(true).truncate(false).mode(LOG_MODE);
        let log = options.clone().write(true).open(dir.join(segment_name(number)))?;
        let index = options.append(true).open(dir.join(index_name(number)))?;
        for file in [&log, &index] {
            // Our umask keeps run files private; logs have readers.
            file.set_permissions(PermissionsExt::from_mode(LOG_MODE))?;
        }
        drop_torn_record(&index)?;
        let offset = i64::try_from(log.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        Ok(Self { log, index, offset, last: None })
    }

    fn end(&self) -> u64 {
        u64::try_from(self.offset).unwrap_or_default()
    }

    /// Full at a line end past the limit, or far past it anywhere.
    fn is_full(&self, segment_bytes: u64) -> bool {
        let end = self.end();
        if end < segment_bytes {
            return false;
        }
        let mut last = [0];
        let at_line_end = self.log.read_exact_at(&mut last, end - 1).is_ok() && last == [b'\n'];
        at_line_end || end >= segment_bytes.saturating_add(LINE_SLACK_BYTES)
    }

    /// Whether bytes of `source` now belong to the extent that the last record opened.
    fn covers(&self, source: Source) -> bool {
        let Some((last, at_ns)) = self.last else { return false };
        let now_ns = agentd_sys::clock::real_ns();
        last == source && now_ns >= at_ns && now_ns - at_ns < COALESCE_NS
    }

    fn note(&mut self, source: Source) -> Result<(), Errno> {
        let unix_ns = agentd_sys::clock::real_ns();
        let record = IndexRecord { unix_ns, offset: self.end(), source };
        let written = (&self.index).write(&record.encode()).map_err(to_errno)?;
        if written != INDEX_RECORD_BYTES {
            drop_torn_record(&self.index).map_err(to_errno)?;
            return Err(Errno::ENOSPC);
        }
        self.last = Some((source, unix_ns));
        Ok(())
    }
}

fn drop_torn_record(index: &File) -> io::Result<()> {
    let len = index.metadata()?.len();
    let torn = len % u64::try_from(INDEX_RECORD_BYTES).expect("16 fits");
    if torn == 0 { Ok(()) } else { index.set_len(len - torn) }
}

fn to_errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifo(dir: &Path) -> File {
        let path = dir.join("f");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
    }

    #[test]
    fn a_failed_write_costs_old_logs_first_and_never_the_program() {
        assert_eq!(remedy(Errno::ENOSPC, 2), Remedy::DeleteOldest);
        assert_eq!(remedy(Errno::ENOSPC, 0), Remedy::Discard);
        assert_eq!(remedy(Errno::EDQUOT, 0), Remedy::Discard);
        assert_eq!(remedy(Errno::EIO, 5), Remedy::Discard);
        assert_eq!(remedy(Errno::EAGAIN, 0), Remedy::Later);
        assert_eq!(remedy(Errno::EINTR, 0), Remedy::Retry);
    }

    #[test]
    fn what_cannot_be_stored_is_counted_and_told_once_the_folder_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let log_dir = dir.path().join("logs");
        let fifo = fifo(dir.path());
        let mut logs = Logs::open(&log_dir, 100, 2);
        (&fifo).write_all(b"lost\n").unwrap();
        logs.drain(&fifo, Source::Stdout, 1_000);
        assert_eq!(waiting(fifo.as_fd()), 0, "the program never blocks");
        assert_eq!(logs.take_loss(2_000), None);
        std::fs::create_dir(&log_dir).unwrap();
        (&fifo).write_all(b"kept\n").unwrap();
        logs.drain(&fifo, Source::Stdout, 2_000);
        assert_eq!(logs.take_loss(2_000), Some(5));
        assert_eq!(std::fs::read(log_dir.join("00000000.log")).unwrap(), b"kept\n");
        let index = std::fs::read(log_dir.join("00000000.idx")).unwrap();
        let first = IndexRecord::decode(index[..16].try_into().unwrap()).unwrap();
        assert_eq!((first.source, first.offset), (Source::Mark(Mark::Dropped), 0));
    }

    #[test]
    fn a_next_shim_goes_on_where_the_last_one_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = fifo(dir.path());
        for (source, text) in [(Source::Stdout, "one\n"), (Source::Stderr, "two\n")] {
            (&fifo).write_all(text.as_bytes()).unwrap();
            Logs::open(dir.path(), 1_000, 2).drain(&fifo, source, 0);
            let mut index = OpenOptions::new().append(true).open(dir.path().join("00000000.idx")).unwrap();
            index.write_all(&[1; 5]).unwrap();
        }
        assert_eq!(std::fs::read(dir.path().join("00000000.log")).unwrap(), b"one\ntwo\n");
        let index = std::fs::read(dir.path().join("00000000.idx")).unwrap();
        let (records, _torn) = index.as_chunks::<16>();
        let extents: Vec<_> =
            records.iter().map(|record| IndexRecord::decode(*record).unwrap()).map(|r| (r.offset, r.source)).collect();
        assert_eq!(extents, [(0, Source::Stdout), (4, Source::Stderr)]);
    }
}
