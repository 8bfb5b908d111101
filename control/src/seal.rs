//! Encryption at rest: private keys and values of env variables stand in the database as ciphertext, under a key that
//! lies in a file of its own and in no backup.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentd_sys::files::{Durability, write_atomic};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// First word of the file: what it is, for whoever finds it.
const FILE_PREFIX: &str = "controld-key-1 ";
const FILE_MODE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the key file {path}; without it no secret in the database can be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot write the key file {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the key file {path} is missing, and the database or backup was sealed with it: put it back from its copy")]
    Missing { path: PathBuf },
    #[error("the key file {path} is not one: it holds `controld-key-1` and 32 bytes in base64")]
    Malformed { path: PathBuf },
    #[error("the key file {path} can be read by others: `chmod 600 {path}`")]
    Open { path: PathBuf },
    #[error("a sealed value does not open: the key file is another one, or the database was damaged")]
    Sealed,
    #[error("the kernel gives no random bytes")]
    Random,
}

/// No `Debug` of its bytes.
#[derive(Clone)]
pub struct Key(Arc<XChaCha20Poly1305>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    pub fn read(path: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::PermissionsExt;
        let failed = |source: std::io::Error| match source.kind() {
            ErrorKind::NotFound => Error::Missing { path: path.to_owned() },
            _ => Error::Read { path: path.to_owned(), source },
        };
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
        if std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(Error::Open { path: path.to_owned() });
        }
        let malformed = || Error::Malformed { path: path.to_owned() };
        let encoded = text.trim().strip_prefix(FILE_PREFIX).ok_or_else(malformed)?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| malformed())?);
        Self::from_bytes(&bytes).ok_or_else(malformed)
    }

    /// A new one, in a new file.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let bytes = random::<KEY_BYTES>()?;
        let text = Zeroizing::new(format!("{FILE_PREFIX}{}\n", STANDARD.encode(bytes.as_slice())));
        write_atomic(path, text.as_bytes(), FILE_MODE, Durability::PowerCut)
            .map_err(|source| Error::Write { path: path.to_owned(), source })?;
        Self::from_bytes(bytes.as_slice()).ok_or(Error::Random)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        XChaCha20Poly1305::new_from_slice(bytes).ok().map(|cipher| Self(Arc::new(cipher)))
    }

    /// `purpose` says what it is and where it stands: a value moved to another place does not open there.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let nonce = random::<NONCE_BYTES>()?;
        let payload = Payload { msg: plain, aad: purpose.as_bytes() };
        let sealed = self.0.encrypt(&XNonce::from(*nonce), payload).map_err(|_| Error::Sealed)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Error::Sealed)?;
        let payload = Payload { msg: sealed, aad: purpose.as_bytes() };
        self.0.decrypt(&XNonce::from(*nonce), payload).map(Zeroizing::new).map_err(|_| Error::Sealed)
    }
}

/// From the kernel.
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|_| Error::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_in_its_place_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("controld.key");
        assert!(matches!(Key::read(&path), Err(Error::Missing { .. })));
        let key = Key::create(&path).unwrap();
        let sealed = key.seal("env a", b"hunter2").unwrap();
        assert_ne!(sealed, key.seal("env a", b"hunter2").unwrap());
        let again = Key::read(&path).unwrap();
        assert_eq!(again.open("env a", &sealed).unwrap().as_slice(), b"hunter2");
        assert!(again.open("env b", &sealed).is_err());
        let mut flipped = sealed.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(again.open("env a", &flipped).is_err() && again.open("env a", &sealed[..20]).is_err());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("controld.key");
        Key::create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Key::read(&path), Err(Error::Open { .. })));
    }
}
