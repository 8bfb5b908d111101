//! How a program ended, for a shim that is not its parent.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use agentd_protocol::shim::event::{REAP_BYTES, ReapRecord};
use agentd_protocol::shim::state::{Exit, Identity};
use agentd_protocol::shim::{EXITS_FILE, KEEPER_DIR};
use agentd_sys::process::{self, PidFd};

/// How much of the end of the keeper's record is searched.
const EXITS_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) exit: Exit,
    /// When it was reaped, where that is known.
    pub(crate) at_real_ns: Option<u64>,
}

/// `<run>/keeper/exits` of the instance directory `<run>/instances/<id>`.
pub(crate) fn exits_path(instance_dir: &Path) -> PathBuf {
    instance_dir.join("../..").join(KEEPER_DIR).join(EXITS_FILE)
}

/// `None` as long as nobody knows; worth asking again while somebody may be about to reap.
pub(crate) fn learn(pidfd: Option<&PidFd>, program: &Identity, exits_path: &Path) -> Option<Ending> {
    if let Some(exit) = pidfd.and_then(PidFd::exit_info) {
        return Some(Ending { exit, at_real_ns: None });
    }
    if let Some(record) = reaped_by_keeper(program, exits_path) {
        return Some(Ending { exit: Exit::from_wait_status(record.wait_status), at_real_ns: Some(record.real_ns) });
    }
    let stat = process::stat(program.pid)?;
    let ours = stat.start_ticks == program.start_ticks && stat.state == 'Z';
    ours.then(|| Ending { exit: Exit::from_wait_status(stat.exit_code), at_real_ns: None })
}

/// The newest record of this very process.
fn reaped_by_keeper(program: &Identity, exits_path: &Path) -> Option<ReapRecord> {
    let mut file = File::open(exits_path).ok()?;
    let records = file.metadata().ok()?.len() / u64::try_from(REAP_BYTES).ok()?;
    let skipped = records.saturating_sub(EXITS_BYTES_MAX / u64::try_from(REAP_BYTES).ok()?);
    file.seek(SeekFrom::Start(skipped * u64::try_from(REAP_BYTES).ok()?)).ok()?;
    let mut bytes = Vec::new();
    file.take(EXITS_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let (records, _torn) = bytes.as_chunks::<REAP_BYTES>();
    records.iter().rev().map(ReapRecord::decode).find(|record| is_of(record, program))
}

fn is_of(record: &ReapRecord, program: &Identity) -> bool {
    let inodes_known = record.pidfd_inode != 0 && program.pidfd_inode != 0;
    record.pid == program.pid
        && record.start_ticks == program.start_ticks
        && (!inodes_known || record.pidfd_inode == program.pidfd_inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keepers_record_is_found_by_identity_and_torn_tails_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exits");
        let program = Identity { boot_id: "b".into(), pid: u32::MAX, pidfd_inode: 5, start_ticks: 6 };
        let record = |wait_status, pidfd_inode, start_ticks| {
            ReapRecord { pid: program.pid, wait_status, pidfd_inode, start_ticks, real_ns: 9 }.encode()
        };
        assert_eq!(learn(None, &program, &path), None);
        let mut bytes = [record(0x100, 4, 6), record(0x200, 5, 7), record(0x300, 5, 6), record(0x400, 0, 7)].concat();
        bytes.extend_from_slice(&[1; 7]);
        std::fs::write(&path, bytes).unwrap();
        let ending = Ending { exit: Exit::Code(3), at_real_ns: Some(9) };
        assert_eq!(learn(None, &program, &path), Some(ending));
        let old_kernel = Identity { pidfd_inode: 0, start_ticks: 7, ..program };
        assert_eq!(learn(None, &old_kernel, &path).unwrap().exit, Exit::Code(4));
    }
}
