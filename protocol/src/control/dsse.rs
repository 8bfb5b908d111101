//! DSSE envelopes (secure-systems-lab/dsse, protocol.md): a signature over exact bytes, checked before they are parsed.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};

use super::key::{PublicKey, SecretKey};

pub const SIGNATURES_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// Base64.
    pub payload: String,
    pub signatures: Vec<Signature>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// A hint; no decision rests on it.
    #[serde(default)]
    pub keyid: String,
    /// Base64.
    pub sig: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unverified {
    /// Of another type than was asked for.
    OtherType,
    /// Not base64, or too many signatures.
    Malformed,
    /// Fewer keys than needed have signed it.
    TooFewSignatures { found: usize, needed: usize },
}

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherType => f.write_str("it is signed as something else"),
            Self::Malformed => f.write_str("its envelope is malformed"),
            Self::TooFewSignatures { found, needed } => {
                write!(f, "{found} of the keys trusted for it have signed, {needed} must")
            }
        }
    }
}

impl std::error::Error for Unverified {}

impl Envelope {
    pub fn sign(payload_type: &str, payload: &[u8], keys: &[&SecretKey]) -> Self {
        let message = pae(payload_type, payload);
        let signature =
            |key: &&SecretKey| Signature { keyid: key.public().id(), sig: STANDARD.encode(key.sign(&message)) };
        Self {
            payload_type: payload_type.to_owned(),
            payload: STANDARD.encode(payload),
            signatures: keys.iter().map(signature).collect(),
        }
    }

    /// The payload, once at least `threshold` of `keys` have signed it; each counts once, whatever it is called.
    pub fn open(&self, payload_type: &str, keys: &[PublicKey], threshold: usize) -> Result<Vec<u8>, Unverified> {
        if self.payload_type != payload_type {
            return Err(Unverified::OtherType);
        }
        if self.signatures.len() > SIGNATURES_MAX {
            return Err(Unverified::Malformed);
        }
        let payload = decode(&self.payload)?;
        let message = pae(payload_type, &payload);
        let signatures: Vec<Vec<u8>> = self.signatures.iter().map(|one| decode(&one.sig)).collect::<Result<_, _>>()?;
        let mut signers: Vec<&PublicKey> = Vec::new();
        for key in keys {
            let is_new = !signers.contains(&key);
            if is_new && signatures.iter().any(|signature| key.verifies(&message, signature)) {
                signers.push(key);
            }
        }
        // A threshold of none would let anything pass.
        let needed = threshold.max(1);
        if signers.len() < needed {
            return Err(Unverified::TooFewSignatures { found: signers.len(), needed });
        }
        Ok(payload)
    }
}

/// Either alphabet, as DSSE demands of verifiers.
fn decode(text: &str) -> Result<Vec<u8>, Unverified> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|_| Unverified::Malformed)
}

/// Pre-authentication encoding: unambiguous, so that no payload passes for another type.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretKey {
        SecretKey::from_seed(&[byte; 32])
    }

    #[test]
    fn pre_authentication_encoding_is_that_of_the_specification() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn only_enough_trusted_keys_open_it() {
        let (one, two) = (key(1), key(2));
        let envelope = Envelope::sign("t", b"payload", &[&one, &one]);
        let open = |keys: &[PublicKey], threshold| envelope.open("t", keys, threshold);
        assert_eq!(open(&[one.public()], 1).unwrap(), b"payload");
        // Signed twice by one key, listed twice: still one.
        let twice = [one.public(), one.public(), two.public()];
        assert_eq!(open(&twice, 2), Err(Unverified::TooFewSignatures { found: 1, needed: 2 }));
        assert_eq!(open(&[two.public()], 1), Err(Unverified::TooFewSignatures { found: 0, needed: 1 }));
        assert_eq!(open(&[], 0), Err(Unverified::TooFewSignatures { found: 0, needed: 1 }));
        assert_eq!(envelope.open("u", &[one.public()], 1), Err(Unverified::OtherType));
        let mut lying = envelope.clone();
        lying.signatures[0].keyid = two.public().id();
        assert_eq!(lying.open("t", &[one.public()], 1).unwrap(), b"payload");
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let one = key(1);
        let mut envelope = Envelope::sign("t", b"payload", &[&one]);
        envelope.signatures = vec![envelope.signatures[0].clone(); SIGNATURES_MAX + 1];
        assert_eq!(envelope.open("t", &[one.public()], 1), Err(Unverified::Malformed));
        envelope.signatures.truncate(1);
        envelope.payload.push('*');
        assert_eq!(envelope.open("t", &[one.public()], 1), Err(Unverified::Malformed));
    }
}
