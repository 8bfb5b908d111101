//! What we had UFW do, so that it can be taken back after any crash. An entry is on disk before its effect.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use agentd_sys::files::{Durability, write_atomic};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::plan::Allow;
use super::{Error, plan, tuples};

/// Read of a rules file, bytes; 10,000 rules take 1.5 MiB.
const RULES_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// The files before the first change.
    pub(super) start: Vec<Snapshot>,
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) allow: Allow,
    pub(super) tool: PathBuf,
    pub(super) argv: Vec<String>,
    pub(super) inverse: Vec<String>,
    /// The owner let it in before us: nothing was done, nothing is undone.
    pub(super) pre_existing: bool,
    pub(super) before: Vec<FileHash>,
    /// None while nobody knows whether the order was carried out.
    pub(super) after: Option<Vec<FileHash>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileHash {
    pub(super) path: PathBuf,
    /// None where there is no such file.
    pub(super) sha256: Option<String>,
}

/// A rules file as it was: its hash, and its tuples to name a difference by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    #[serde(flatten)]
    pub(super) file: FileHash,
    pub(super) tuples: Vec<String>,
}

/// What came of taking everything back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Undone {
    /// Taken out of UFW.
    pub removed: Vec<Allow>,
    /// Rules the owner has made theirs since, by comment or action: not touched.
    pub left: Vec<Allow>,
    pub files: Vec<RestoredFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredFile {
    pub path: PathBuf,
    pub restored: Restored,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// Byte for byte as before our first change.
    Exactly,
    /// The rules are, other text is not.
    SameRules,
    /// Somebody else changed rules since: theirs are kept.
    Differs { added: Vec<String>, missing: Vec<String> },
}

impl Journal {
    /// `None` when there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Error> {
        match std::fs::read(path) {
            Ok(bytes) => {
                let journal = serde_json::from_slice(&bytes);
                journal.map(Some).map_err(|source| Error::Journal { path: path.to_owned(), source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::ReadJournal { path: path.to_owned(), source }),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::WriteJournal { path: path.to_owned(), source };
        let bytes = serde_json::to_vec_pretty(self).expect("paths of ours are text");
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        write_atomic(path, &bytes, 0o600, Durability::PowerCut).map_err(failed)
    }

    pub(super) fn remove(path: &Path) -> Result<(), Error> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::WriteJournal { path: path.to_owned(), source: error })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn entry(&mut self, allow: Allow) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.allow == allow)
    }

    /// The files now, beside what they were; rules of ours count on neither side.
    pub(super) fn compare(&self, now: &[Snapshot]) -> Vec<RestoredFile> {
        let others = |snapshot: &Snapshot| -> Vec<String> {
            snapshot.tuples.iter().filter(|line| !self.is_ours(line)).cloned().collect()
        };
        let restored = |was: &Snapshot, now: &Snapshot| {
            if was.file == now.file {
                return Restored::Exactly;
            }
            let (was, now) = (others(was), others(now));
            if was == now {
                return Restored::SameRules;
            }
            let without = |these: &[String], those: &[String]| -> Vec<String> {
                these.iter().filter(|line| !those.contains(line)).cloned().collect()
            };
            Restored::Differs { added: without(&now, &was), missing: without(&was, &now) }
        };
        let pairs =
            self.start.iter().filter_map(|was| Some((was, now.iter().find(|now| now.file.path == was.file.path)?)));
        pairs.map(|(was, now)| RestoredFile { path: was.file.path.clone(), restored: restored(was, now) }).collect()
    }

    fn is_ours(&self, line: &str) -> bool {
        let parsed = tuples::parse(line);
        self.entries.iter().any(|entry| parsed.iter().any(|tuple| plan::is_ours(tuple, entry.allow)))
    }
}

/// A rules file now. One that does not exist has no rules.
pub(super) fn snapshot(path: &Path) -> Result<(Snapshot, Vec<tuples::Tuple>), Error> {
    let Some(bytes) = read_rules(path)? else {
        let file = FileHash { path: path.to_owned(), sha256: None };
        return Ok((Snapshot { file, tuples: Vec::new() }, Vec::new()));
    };
    let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().filter(|line| line.starts_with("### tuple ###")).map(str::to_owned).collect();
    let file = FileHash { path: path.to_owned(), sha256: Some(sha256) };
    Ok((Snapshot { file, tuples: lines }, tuples::parse(&text)))
}

fn read_rules(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::Rules { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mut bytes = Vec::new();
    let length = file.take(RULES_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(length).unwrap_or(u64::MAX) > RULES_BYTES_MAX {
        return Err(Error::RulesTooLarge { path: path.to_owned(), limit: RULES_BYTES_MAX });
    }
    Ok(Some(bytes))
}
