//! Idempotency keys: the same call again, because its answer was lost, is answered as the first time.

use agentd_protocol::digest::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Actor, Control, Error};
use crate::clock;
use crate::seal::Key;
use crate::store::Remembered;

const KEY_BYTES_MAX: usize = 128;

/// What is known of a call's key.
#[derive(Debug)]
pub(super) enum Memory {
    /// The caller sent none.
    NoKey,
    New {
        key: String,
        request: Digest,
        seal: Key,
    },
    Known {
        sealed: Vec<u8>,
        purpose: String,
        seal: Key,
    },
}

impl Control {
    /// `request`: all that the call asks for. Keys of one caller are no other's.
    pub(super) async fn recall(&self, actor: &Actor, key: Option<&str>, request: &Value) -> Result<Memory, Error> {
        let Some(key) = key else { return Ok(Memory::NoKey) };
        let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if key.len() > KEY_BYTES_MAX || !is_plain(key) {
            return Err(Error::BadRequest(format!("Idempotency-Key is 1 to {KEY_BYTES_MAX} printable letters")));
        }
        let key = Digest::of(format!("{actor}\n{key}").as_bytes()).to_string();
        let request = Digest::of(request.to_string().as_bytes());
        let seal = self.inner.key.clone();
        match self.inner.store.remembered(&key).await? {
            None => Ok(Memory::New { key, request, seal }),
            Some((asked, _)) if asked != request => Err(Error::IdempotencyMismatch),
            Some((_, sealed)) => Ok(Memory::Known { sealed, purpose: purpose(&key), seal }),
        }
    }
}

fn purpose(key: &str) -> String {
    format!("answer {key}")
}

impl Memory {
    pub(super) fn answer<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        let Self::Known { sealed, purpose, seal } = self else { return Ok(None) };
        let json = seal.open(purpose, sealed)?;
        serde_json::from_slice(&json).map(Some).map_err(|_| crate::seal::Error::Sealed.into())
    }

    pub(super) fn to_remember(&self, answer: &impl Serialize) -> Result<Option<Remembered>, Error> {
        let Self::New { key, request, seal } = self else { return Ok(None) };
        let json = zeroize::Zeroizing::new(serde_json::to_vec(answer).expect("texts and numbers are JSON"));
        let sealed = seal.seal(&purpose(key), &json)?;
        Ok(Some(Remembered { key: key.clone(), request: *request, sealed, at_unix_ms: clock::now_unix_ms() }))
    }
}
