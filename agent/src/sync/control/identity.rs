//! Who this host is to its control server: one file, readable by its owner alone, replaced whole.

use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::enroll::Enrolled;
use agentd_protocol::control::ids::{HostId, StackId};
use agentd_protocol::control::join::JoinString;
use agentd_protocol::control::key::{SEED_BYTES, SecretKey};
use agentd_protocol::control::trust::{Refused, TrustRecord};
use agentd_protocol::digest::Digest;
use agentd_sys::files::{Durability, write_atomic};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::client::{ClientError, Reach};
use super::random_hex;

pub const IDENTITY_FILE: &str = "identity";
/// The key of a joining that has not succeeded yet: tried again, it is the same host.
const PENDING_FILE: &str = "identity.pending";
const MODE: u32 = 0o600;
/// Roots and authorities are the large parts.
const BYTES_MAX: u64 = 8 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{path} cannot be read; look at its owner and mode")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} cannot be written; look at the folder's owner and the free space")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} may be read by others than its owner; `chmod 600 {path}`, and join anew if it was copied")]
    Open { path: PathBuf },
    #[error("{path} is no identity that this agentd knows; `agentd leave`, then join anew")]
    Malformed { path: PathBuf },
    #[error("what was pinned when this host joined does not fit; `agentd leave`, then join anew")]
    Root(#[from] Refused),
    #[error(transparent)]
    Client(#[from] ClientError),
}

#[derive(Debug, Clone)]
pub struct Identity {
    /// Random: tells one joining from the next.
    pub joining: String,
    pub reach: Reach,
    pub stack: StackId,
    pub stack_name: String,
    pub host: HostId,
    pub name: String,
    pub key: SecretKey,
    /// SHA-256 of the payload of root 1.
    pub root: Digest,
    pub roots: Vec<Envelope>,
    pub receipt: Envelope,
}

/// The file's form.
#[derive(Serialize, Deserialize)]
struct Stored {
    v: u32,
    joining: String,
    reach: Reach,
    stack: StackId,
    stack_name: String,
    host: HostId,
    name: String,
    key: String,
    root: Digest,
    roots: Vec<Envelope>,
    receipt: Envelope,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    stack: StackId,
    key: String,
}

const FORM: u32 = 1;

impl Identity {
    pub fn new(joined: &JoinString, reach: Reach, key: SecretKey, enrolled: Enrolled) -> Self {
        Self {
            joining: random_hex(),
            reach,
            stack: joined.stack.clone(),
            stack_name: enrolled.stack_name,
            host: enrolled.host,
            name: enrolled.name,
            key,
            root: joined.root,
            roots: enrolled.roots,
            receipt: enrolled.receipt,
        }
    }

    /// What a host believes that has just joined.
    pub fn trust(&self) -> Result<TrustRecord, IdentityError> {
        Ok(TrustRecord::begin(&self.stack, &self.root, &self.roots)?)
    }

    /// The machine as this stack's server knows it: another one with a copy of the file is seen to be another.
    pub fn machine(&self) -> Digest {
        machine_of(&self.stack)
    }

    pub fn store(&self, state_dir: &Path) -> Result<(), IdentityError> {
        let stored = Stored {
            v: FORM,
            joining: self.joining.clone(),
            reach: self.reach.clone(),
            stack: self.stack.clone(),
            stack_name: self.stack_name.clone(),
            host: self.host.clone(),
            name: self.name.clone(),
            key: STANDARD.encode(self.key.seed().as_slice()),
            root: self.root,
            roots: self.roots.clone(),
            receipt: self.receipt.clone(),
        };
        let bytes = Zeroizing::new(serde_json::to_vec_pretty(&stored).expect("an identity is plain JSON"));
        write(&state_dir.join(IDENTITY_FILE), &bytes)
    }

    /// `None`: the host is not joined.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = state_dir.join(IDENTITY_FILE);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let malformed = || IdentityError::Malformed { path: path.clone() };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|_| malformed())?;
        if stored.v != FORM {
            return Err(malformed());
        }
        let key = secret(&stored.key).ok_or_else(malformed)?;
        let Stored { v: _, joining, reach, stack, stack_name, host, name, key: _, root, roots, receipt } = stored;
        Ok(Some(Self { joining, reach, stack, stack_name, host, name, key, root, roots, receipt }))
    }
}

/// Whether there was one.
pub fn forget(state_dir: &Path) -> Result<bool, IdentityError> {
    let mut was_there = false;
    for name in [IDENTITY_FILE, PENDING_FILE] {
        let path = state_dir.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => was_there |= name == IDENTITY_FILE,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(IdentityError::Write { path, source }),
        }
    }
    let synced = std::fs::File::open(state_dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| IdentityError::Write { path: state_dir.to_owned(), source })?;
    Ok(was_there)
}

/// The key to join this stack with: that of a joining which was interrupted, or a new one, on disk before it is used.
pub fn pending_key(state_dir: &Path, stack: &StackId) -> Result<SecretKey, IdentityError> {
    let path = state_dir.join(PENDING_FILE);
    let kept = read(&path)?.and_then(|bytes| serde_json::from_slice::<StoredKey>(&bytes).ok());
    if let Some(key) = kept.filter(|kept| kept.stack == *stack).and_then(|kept| secret(&kept.key)) {
        return Ok(key);
    }
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    getrandom::fill(seed.as_mut_slice()).expect("the kernel has random bytes once it has started");
    let stored = StoredKey { stack: stack.clone(), key: STANDARD.encode(seed.as_slice()) };
    let bytes = Zeroizing::new(serde_json::to_vec(&stored).expect("a key is plain JSON"));
    write(&path, &bytes)?;
    Ok(SecretKey::from_seed(&seed))
}

/// Once the identity is on disk.
pub fn drop_pending(state_dir: &Path) {
    // One that stays is the key of the identity beside it, and used for nothing else.
    let _ = std::fs::remove_file(state_dir.join(PENDING_FILE));
}

pub(super) fn machine_of(stack: &StackId) -> Digest {
    // Without the file (machine-id(5)) all such hosts look like one machine, as far as this goes.
    let id = std::fs::read("/etc/machine-id").unwrap_or_default();
    Digest::of(&[stack.as_str().as_bytes(), b"\0", id.trim_ascii()].concat())
}

fn secret(text: &str) -> Option<SecretKey> {
    let seed = Zeroizing::new(STANDARD.decode(text).ok()?);
    Some(SecretKey::from_seed(seed.as_slice().try_into().ok()?))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let written = write_atomic(path, bytes, MODE, Durability::PowerCut);
    written.map_err(|source| IdentityError::Write { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    let failed = |source| IdentityError::Read { path: path.to_owned(), source };
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
        return Err(IdentityError::Open { path: path.to_owned() });
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.by_ref().take(BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_kept_until_the_host_has_joined() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (StackId::of(&[1; 16]), StackId::of(&[2; 16]));
        let key = pending_key(dir.path(), &one).unwrap().public();
        assert_eq!(pending_key(dir.path(), &one).unwrap().public(), key);
        assert_ne!(pending_key(dir.path(), &two).unwrap().public(), key);
        let mode = std::fs::metadata(dir.path().join(PENDING_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop_pending(dir.path());
        assert_ne!(pending_key(dir.path(), &one).unwrap().public(), key);
    }

    #[test]
    fn an_identity_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(IDENTITY_FILE);
        assert!(Identity::load(dir.path()).unwrap().is_none());
        std::fs::write(&path, "{}").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Open { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Malformed { .. })));
        assert!(forget(dir.path()).unwrap() && !forget(dir.path()).unwrap());
    }
}
