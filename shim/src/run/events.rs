//! The `events` file: what happened, in order, until the manager has it. Sequence numbers in it have no gap.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use agentd_protocol::shim::event::{EVENT_BYTES, Event};
use agentd_sys::files::{self, Durability};

/// Past this an acknowledged front is cut off, bytes.
const TRIM_BYTES: u64 = 64 * 1024;
/// Past this the older half is given up, acknowledged or not: some 16,000 events nobody asked for, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct EventLog {
    path: PathBuf,
    file: File,
    /// Sequence number of the first record in the file; where the file is empty, of the next one.
    first_seq: u64,
    records: u64,
}

impl EventLog {
    /// Drops a torn tail. `seq_min` is the least number the next record may follow.
    pub(crate) fn open(path: &Path, seq_min: u64) -> io::Result<Self> {
        let file = open_file(path)?;
        let len = file.metadata()?.len();
        let records = len / record_bytes();
        if len != records * record_bytes() {
            file.set_len(records * record_bytes())?;
        }
        let mut log = Self { path: path.to_owned(), file, first_seq: seq_min + 1, records };
        if records > 0 {
            log.first_seq = log.seq_at(0)?;
        }
        Ok(log)
    }

    /// 0 before the first event.
    pub(crate) fn last_seq(&self) -> u64 {
        (self.first_seq + self.records).saturating_sub(1)
    }

    /// Appends with one write. A number is used up only by a record that stands in the file.
    pub(crate) fn append(&mut self, event: Event) -> io::Result<()> {
        let written = self.file.write(&event.encode())?;
        if written != EVENT_BYTES {
            self.file.set_len(self.records * record_bytes())?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.records += 1;
        if self.records * record_bytes() > FILE_BYTES_MAX {
            self.forget(self.first_seq + self.records / 2)?;
        }
        Ok(())
    }

    /// The first record after `seq`, as its sequence number and, where this version knows the kind, the event.
    pub(crate) fn after(&self, seq: u64) -> io::Result<Option<(u64, Option<Event>)>> {
        let wanted = (seq.saturating_add(1)).max(self.first_seq);
        if wanted > self.last_seq() {
            return Ok(None);
        }
        let mut bytes = [0; EVENT_BYTES];
        self.file.read_exact_at(&mut bytes, (wanted - self.first_seq) * record_bytes())?;
        Ok(Some((wanted, Event::decode(&bytes))))
    }

    /// The manager has everything up to `seq`.
    pub(crate) fn acknowledge(&mut self, seq: u64) -> io::Result<()> {
        if self.records * record_bytes() > TRIM_BYTES { self.forget(seq) } else { Ok(()) }
    }

    /// Rewrites the file without the records up to `seq`; the last one stays and carries the count on.
    fn forget(&mut self, seq: u64) -> io::Result<()> {
        let keep_from = seq.saturating_add(1).min(self.last_seq()).max(self.first_seq);
        if keep_from == self.first_seq {
            return Ok(());
        }
        let dropped = keep_from - self.first_seq;
        let mut kept = Vec::new();
        let mut reader = File::open(&self.path)?;
        io::Seek::seek(&mut reader, io::SeekFrom::Start(dropped * record_bytes()))?;
        reader.take(FILE_BYTES_MAX + record_bytes()).read_to_end(&mut kept)?;
        files::write_atomic(&self.path, &kept, 0o600, Durability::Crash)?;
        self.file = open_file(&self.path)?;
        self.records -= dropped;
        self.first_seq = keep_from;
        Ok(())
    }

    fn seq_at(&self, record: u64) -> io::Result<u64> {
        let mut seq = [0; 8];
        self.file.read_exact_at(&mut seq, record * record_bytes())?;
        Ok(u64::from_le_bytes(seq))
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn record_bytes() -> u64 {
    u64::try_from(EVENT_BYTES).expect("64 fits")
}

#[cfg(test)]
mod tests {
    use agentd_protocol::shim::event::EventKind;

    use super::*;

    fn event(seq: u64) -> Event {
        Event { seq, real_ns: 1, boot_ms: 2, incarnation: 1, pid: 3, kind: EventKind::Started }
    }

    #[test]
    fn numbers_go_on_after_a_torn_tail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = EventLog::open(&path, 0).unwrap();
        assert_eq!((log.last_seq(), log.after(0).unwrap()), (0, None));
        log.append(event(1)).unwrap();
        log.append(event(2)).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&[7; 13]).unwrap();
        let mut log = EventLog::open(&path, 0).unwrap();
        assert_eq!(log.last_seq(), 2);
        log.append(event(3)).unwrap();
        assert_eq!(log.after(1).unwrap(), Some((2, Some(event(2)))));
        assert_eq!(log.after(2).unwrap(), Some((3, Some(event(3)))));
        assert_eq!(log.after(3).unwrap(), None);
        assert_eq!(EventLog::open(&dir.path().join("none"), 41).unwrap().last_seq(), 41);
    }

    #[test]
    fn what_is_acknowledged_is_cut_off_and_the_file_never_outgrows_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = EventLog::open(&path, 0).unwrap();
        for seq in 1..=1_100 {
            log.append(event(seq)).unwrap();
        }
        log.acknowledge(1_090).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 10 * 64);
        assert_eq!(log.after(0).unwrap().unwrap().0, 1_091);
        log.append(event(1_101)).unwrap();
        assert_eq!(EventLog::open(&path, 0).unwrap().last_seq(), 1_101);
        for seq in 1_102..=20_000 {
            log.append(event(seq)).unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= FILE_BYTES_MAX);
        assert_eq!(log.after(19_999).unwrap(), Some((20_000, Some(event(20_000)))));
    }
}
