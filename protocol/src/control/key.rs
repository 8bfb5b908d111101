//! Ed25519 keys (RFC 8032). A secret one never shows itself, and is overwritten when it is dropped.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::digest::Digest;

/// In text, what a public key starts with.
const ALGORITHM: &str = "ed25519:";

pub const SEED_BYTES: usize = 32;
pub const SIGNATURE_BYTES: usize = 64;

/// A private key. No `Debug` of its bytes, no serde: who stores it does so knowingly.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    pub fn from_seed(seed: &[u8; SEED_BYTES]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    pub fn seed(&self) -> Zeroizing<[u8; SEED_BYTES]> {
        Zeroizing::new(self.0.to_bytes())
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public().id())
    }
}

/// In text `ed25519:` and base64.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(VerifyingKey);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadKey;

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an Ed25519 public key: `ed25519:` and 32 bytes in base64, a point that is not weak")
    }
}

impl std::error::Error for BadKey {}

impl PublicKey {
    /// Weak keys, under which one signature fits many messages, are refused.
    pub fn from_bytes(bytes: &[u8; SEED_BYTES]) -> Result<Self, BadKey> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| BadKey)?;
        if key.is_weak() { Err(BadKey) } else { Ok(Self(key)) }
    }

    pub fn as_bytes(&self) -> &[u8; SEED_BYTES] {
        self.0.as_bytes()
    }

    /// First 16 hexadecimal digits of the key's SHA-256: a hint for people, never for decisions.
    pub fn id(&self) -> String {
        let mut id = Digest::of(self.as_bytes()).to_string();
        id.truncate(16);
        id
    }

    /// Strictly: only one signature fits a key and a message (RFC 8032 §5.1.7, without small-order points).
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        self.0.verify_strict(message, &signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{}", STANDARD.encode(self.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let encoded = text.strip_prefix(ALGORITHM).ok_or(BadKey)?;
        let bytes: [u8; SEED_BYTES] = STANDARD.decode(encoded).map_err(|_| BadKey)?.try_into().map_err(|_| BadKey)?;
        Self::from_bytes(&bytes)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = BadKey;
    fn try_from(text: String) -> Result<Self, BadKey> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sign_and_tell_nothing() {
        let secret = SecretKey::from_seed(&[3; 32]);
        let public = secret.public();
        let hex: String = public.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1");
        let signature = secret.sign(b"message");
        assert!(public.verifies(b"message", &signature));
        assert!(!public.verifies(b"massage", &signature) && !public.verifies(b"message", &signature[..63]));
        assert_eq!(public.to_string().parse(), Ok(public));
        assert!(!format!("{secret:?}").contains("3, 3"));
    }

    #[test]
    fn weak_and_broken_keys_are_refused() {
        // The neutral element: every message has the same signature under it.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert_eq!(PublicKey::from_bytes(&neutral), Err(BadKey));
        for bad in ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA", "ed25519:****"] {
            assert_eq!(bad.parse::<PublicKey>(), Err(BadKey), "{bad}");
        }
    }
}
