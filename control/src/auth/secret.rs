//! Random words that open something: 256 bits, told once, and known afterwards by their SHA-256 alone.
//!
//! A plain hash is enough: nobody guesses 256 random bits, so there is nothing to slow down.

use agentd_protocol::digest::Digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

const SECRET_BYTES: usize = 32;
/// Before an API token, so that scanners of leaked secrets find it.
pub(crate) const API_TOKEN_PREFIX: &str = "agp_";

/// No `Debug`: who prints it has leaked it.
pub(crate) struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

impl Secret {
    pub(crate) fn draw() -> Self {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(bytes.as_mut_slice()).expect("the kernel has random bytes once the system is up");
        Self(bytes)
    }

    /// `None`: not what [`Secret::text`] writes.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        Some(Self(Zeroizing::new(bytes.as_slice().try_into().ok()?)))
    }

    /// 43 letters, digits, `-` and `_`.
    pub(crate) fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.as_slice())
    }

    /// All that is kept.
    pub(crate) fn hash(&self) -> Digest {
        Digest::of(self.0.as_slice())
    }

    pub(crate) fn read_api_token(text: &str) -> Option<Self> {
        Self::read(text.strip_prefix(API_TOKEN_PREFIX)?)
    }

    pub(crate) fn api_token_text(&self) -> String {
        format!("{API_TOKEN_PREFIX}{}", self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_back_from_its_text() {
        let secret = Secret::draw();
        assert_eq!(secret.text().len(), 43);
        assert_eq!(Secret::read(&secret.text()).unwrap().hash(), secret.hash());
        assert_eq!(Secret::read_api_token(&secret.api_token_text()).unwrap().hash(), secret.hash());
        assert_ne!(Secret::draw().hash(), secret.hash());
        for bad in ["", "a", &secret.text()[1..], &format!("{}A", secret.text()), &"é".repeat(43)] {
            assert!(Secret::read(bad).is_none(), "{bad}");
        }
        assert!(Secret::read_api_token(&secret.text()).is_none());
    }
}
