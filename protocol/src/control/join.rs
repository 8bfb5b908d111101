//! The join string: what a person carries from the control server to a new host. It holds a secret.
//!
//! `agj1_<base64url of JSON>_<CRC-32 of the JSON, 8 hexadecimal digits>`. The prefix lets secret scanners find it, the
//! checksum tells a mangled copy from a refused token.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::ids::{StackId, TokenId};
use super::key::{SEED_BYTES, SecretKey};
use super::time::Time;
use crate::digest::Digest;

pub const PREFIX: &str = "agj1_";
pub const BYTES_MAX: usize = 1_024;
/// How long a token holds unless somebody says otherwise.
pub const TTL_SECS_DEFAULT: u64 = 3_600;

#[derive(Debug, Clone)]
pub struct JoinString {
    /// Base URL of the control server, without a slash at its end.
    pub url: String,
    pub stack: StackId,
    pub token: TokenId,
    /// The server keeps its public half alone.
    pub key: SecretKey,
    /// SHA-256 of the payload of root 1: no other server, authority or proxy can put its own in the place.
    pub root: Digest,
    pub expires: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadJoin {
    /// It does not begin as one.
    NotOne,
    /// Its checksum is another: a part is missing, or a character was changed.
    Mangled,
    /// Whole, and yet not readable: from a later version.
    Unknown,
}

impl fmt::Display for BadJoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOne => {
                "this is no join string: it starts with `agj1_`; the control server shows it once, when it is made"
            }
            Self::Mangled => "the join string was changed on its way: copy it again, whole and on one line",
            Self::Unknown => {
                "the join string is of a kind this agentd does not know: it is older than the control server"
            }
        })
    }
}

impl std::error::Error for BadJoin {}

#[derive(Serialize, Deserialize)]
struct Content {
    u: String,
    s: StackId,
    t: TokenId,
    k: String,
    r: Digest,
    x: i64,
}

impl JoinString {
    pub fn read(text: &str) -> Result<Self, BadJoin> {
        let text = text.trim();
        let rest = text.strip_prefix(PREFIX).ok_or(BadJoin::NotOne)?;
        if text.len() > BYTES_MAX {
            return Err(BadJoin::NotOne);
        }
        let (encoded, checksum) = rest.rsplit_once('_').ok_or(BadJoin::Mangled)?;
        let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| BadJoin::Mangled)?);
        if format!("{:08x}", crc32fast::hash(&json)) != checksum {
            return Err(BadJoin::Mangled);
        }
        let Content { u, s, t, k, r, x } = serde_json::from_slice(&json).map_err(|_| BadJoin::Unknown)?;
        let k = Zeroizing::new(k);
        let seed = Zeroizing::new(URL_SAFE_NO_PAD.decode(k.as_bytes()).map_err(|_| BadJoin::Unknown)?);
        let seed: &[u8; SEED_BYTES] = seed.as_slice().try_into().map_err(|_| BadJoin::Unknown)?;
        let url = u.trim_end_matches('/').to_owned();
        let expires = Time::from_unix_secs(x);
        Ok(Self { url, stack: s, token: t, key: SecretKey::from_seed(seed), root: r, expires })
    }

    /// The secret text.
    pub fn reveal(&self) -> Zeroizing<String> {
        let content = Content {
            u: self.url.clone(),
            s: self.stack.clone(),
            t: self.token.clone(),
            k: URL_SAFE_NO_PAD.encode(self.key.seed().as_slice()),
            r: self.root,
            x: self.expires.unix_secs(),
        };
        let json = Zeroizing::new(serde_json::to_vec(&content).expect("texts and numbers are JSON"));
        let checksum = crc32fast::hash(&json);
        Zeroizing::new(format!("{PREFIX}{}_{checksum:08x}", URL_SAFE_NO_PAD.encode(&json)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> JoinString {
        JoinString {
            url: "https://control.example.com".into(),
            stack: StackId::of(&[1; 16]),
            token: TokenId::new("adt_k7f3q2").unwrap(),
            key: SecretKey::from_seed(&[9; 32]),
            root: Digest::of(b"root"),
            expires: Time::from_unix_secs(1_788_267_600),
        }
    }

    #[test]
    fn it_comes_back_whole() {
        let text = one().reveal();
        assert!(text.len() <= 512, "{}", text.len());
        let read = JoinString::read(&format!("  {}\n", text.as_str())).unwrap();
        assert_eq!((read.url.as_str(), &read.stack, &read.token), (one().url.as_str(), &one().stack, &one().token));
        assert_eq!((read.key.public(), read.root, read.expires), (one().key.public(), one().root, one().expires));
        assert!(!format!("{read:?}").contains(&URL_SAFE_NO_PAD.encode([9; 32])));
    }

    #[test]
    fn a_mangled_copy_is_told_from_a_stranger() {
        let text = one().reveal();
        assert_eq!(JoinString::read("hello").unwrap_err(), BadJoin::NotOne);
        for at in [5, 40, 100, text.len() - 1] {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(JoinString::read(std::str::from_utf8(&bytes).unwrap()).unwrap_err(), BadJoin::Mangled, "{at}");
        }
        assert_eq!(JoinString::read(&text[..text.len() - 9]).unwrap_err(), BadJoin::Mangled);
        let later = URL_SAFE_NO_PAD.encode("{}");
        let later = format!("{PREFIX}{later}_{:08x}", crc32fast::hash(b"{}"));
        assert_eq!(JoinString::read(&later).unwrap_err(), BadJoin::Unknown);
    }
}
