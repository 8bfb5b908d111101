//! `keeper/exits`: how the programs ended whose shim was dead. Written before the reap, so that nobody can have reaped
//! and forgotten.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use agentd_protocol::shim::event::{REAP_BYTES, ReapRecord};
use agentd_sys::files::{self, Durability};

/// At this size the older half goes. A shim reads its program's record within moments of the end.
const EXITS_BYTES_MAX: u64 = 64 * 1024;
/// Whole records in half of that.
const KEPT_BYTES: usize = 32 * 1024 / REAP_BYTES * REAP_BYTES;

#[derive(Debug)]
pub(super) struct ExitLog {
    path: PathBuf,
}

impl ExitLog {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Appends in one write; a reader sees the record whole or not at all.
    pub(super) fn append(&self, record: &ReapRecord) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let before = whole_records(&file)?;
        if let Err(error) = file.write_all(&record.encode()) {
            file.set_len(before)?;
            return Err(error);
        }
        if before >= EXITS_BYTES_MAX { self.drop_older_half() } else { Ok(()) }
    }

    fn drop_older_half(&self) -> io::Result<()> {
        let bytes = std::fs::read(&self.path)?;
        let newest = bytes.split_at(bytes.len().saturating_sub(KEPT_BYTES)).1;
        files::write_atomic(&self.path, newest, 0o600, Durability::Crash)
    }
}

/// Cuts off what a full disk left of a record, so that the next one stands where readers look for it.
fn whole_records(file: &File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    let record = u64::try_from(REAP_BYTES).expect("48 fits");
    let whole = len - len % record;
    if whole != len {
        file.set_len(whole)?;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: u32) -> ReapRecord {
        ReapRecord { pid, wait_status: 9, pidfd_inode: 1, start_ticks: 2, real_ns: 3 }
    }

    fn pids(path: &std::path::Path) -> Vec<u32> {
        let bytes = std::fs::read(path).unwrap();
        bytes.chunks(REAP_BYTES).map(|chunk| ReapRecord::decode(chunk.try_into().unwrap()).pid).collect()
    }

    #[test]
    fn the_file_stays_bounded_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exits");
        let log = ExitLog::new(path.clone());
        for pid in 1..=5_000 {
            log.append(&record(pid)).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= EXITS_BYTES_MAX + 2 * 48);
        }
        let pids = pids(&path);
        assert_eq!(pids.last(), Some(&5_000));
        assert!(pids.len() >= 600, "{} left", pids.len());
        assert!(pids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "in order and none missing");
    }

    #[test]
    fn a_torn_record_does_not_shift_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exits");
        std::fs::write(&path, [&record(1).encode()[..], &[7; 5]].concat()).unwrap();
        ExitLog::new(path.clone()).append(&record(2)).unwrap();
        assert_eq!(pids(&path), [1, 2]);
    }
}
