//! How a host signs what it sends: one fixed profile of HTTP Message Signatures (RFC 9421) with a digest of the body
//! (RFC 9530). Nothing else is accepted: no other component, order, tag or algorithm.
//!
//! The authority is left out, since reverse proxies rewrite it; key ids are unique everywhere, so a request that was meant
//! for one server is of no use at another.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::CLOCK_WINDOW_SECS;
use super::key::{PublicKey, SecretKey};
use crate::digest::Digest;

pub const CONTENT_DIGEST_HEADER: &str = "content-digest";
pub const SIGNATURE_INPUT_HEADER: &str = "signature-input";
pub const SIGNATURE_HEADER: &str = "signature";
/// Label of a host's signature.
pub const HOST_LABEL: &str = "host";
/// Label of the signature by a token's key.
pub const TOKEN_LABEL: &str = "tok";
/// `keyid` of a host that has no id yet.
pub const NEW_HOST_KEYID: &str = "new";
const COMPONENTS: &str = r#"("@method" "@path" "@query" "content-digest")"#;
const TAG: &str = "agentd/1";
/// Of one header, bytes: two signatures and some room.
const HEADER_BYTES_MAX: usize = 1_024;
const KEYID_BYTES_MAX: usize = 64;

/// What of a request is signed.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Upper case.
    pub method: &'a str,
    /// As sent, percent-encoded.
    pub path: &'a str,
    /// Without the question mark; empty for none.
    pub query: &'a str,
    /// The header's value.
    pub content_digest: &'a str,
}

/// Values of the two headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    pub signature_input: String,
    pub signature: String,
}

/// One signature to make.
#[derive(Debug, Clone, Copy)]
pub struct Signer<'a> {
    pub label: &'a str,
    pub keyid: &'a str,
    pub key: &'a SecretKey,
}

/// What a signature says of itself. Nothing of it is true before [`Claim::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub label: String,
    pub keyid: String,
    /// Unix seconds.
    pub created: u64,
    signature: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadSignature {
    /// A header is missing, repeated or too long.
    Header,
    /// Not of the one profile.
    Profile,
    /// Made too long ago, or in the future.
    Clock,
    /// The body is not the one that was signed.
    Digest,
    /// By another key, or over something else.
    Wrong,
}

impl fmt::Display for BadSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "a signature header is missing, repeated or too long",
            Self::Profile => "the signature is not of the profile `agentd/1`",
            Self::Clock => "the signature was made too long ago, or in the future",
            Self::Digest => "the body is not the one that was signed",
            Self::Wrong => "the signature does not fit the request and the key",
        })
    }
}

impl std::error::Error for BadSignature {}

/// Value of the header `Content-Digest`.
pub fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Digest::of(body).as_bytes()))
}

/// Whether the header's value is that of a body with this digest.
pub fn check_digest(header: &str, body: &Digest) -> Result<(), BadSignature> {
    let signed =
        header.strip_prefix("sha-256=:").and_then(|rest| rest.strip_suffix(':')).ok_or(BadSignature::Digest)?;
    let signed = STANDARD.decode(signed).map_err(|_| BadSignature::Digest)?;
    if signed == body.as_bytes() { Ok(()) } else { Err(BadSignature::Digest) }
}

/// `created`: Unix seconds.
pub fn sign(parts: Parts<'_>, created: u64, signers: &[Signer<'_>]) -> Headers {
    let (mut inputs, mut signatures) = (Vec::new(), Vec::new());
    for Signer { label, keyid, key } in signers {
        let params = params(created, keyid);
        let signature = STANDARD.encode(key.sign(base(parts, &params).as_bytes()));
        inputs.push(format!("{label}={params}"));
        signatures.push(format!("{label}=:{signature}:"));
    }
    Headers { signature_input: inputs.join(", "), signature: signatures.join(", ") }
}

/// Reads the headers; at most two signatures, in any order, each label once.
pub fn read(signature_input: &str, signature: &str) -> Result<Vec<Claim>, BadSignature> {
    if signature_input.len() > HEADER_BYTES_MAX || signature.len() > HEADER_BYTES_MAX {
        return Err(BadSignature::Header);
    }
    let signatures: Vec<(&str, Vec<u8>)> =
        signature.split(", ").map(read_signature).collect::<Option<_>>().ok_or(BadSignature::Profile)?;
    let mut claims: Vec<Claim> = Vec::new();
    for input in signature_input.split(", ") {
        let (label, keyid, created) = read_input(input).ok_or(BadSignature::Profile)?;
        let mut of_label = signatures.iter().filter(|(other, _)| *other == label);
        let (Some((_, signature)), None) = (of_label.next(), of_label.next()) else { return Err(BadSignature::Header) };
        if claims.iter().any(|claim| claim.label == label) {
            return Err(BadSignature::Header);
        }
        claims.push(Claim { label: label.to_owned(), keyid: keyid.to_owned(), created, signature: signature.clone() });
    }
    if claims.len() != signatures.len() || claims.len() > 2 { Err(BadSignature::Header) } else { Ok(claims) }
}

impl Claim {
    /// Whether `key` has signed these parts. The body's digest is checked apart, once the body is there.
    pub fn check(&self, parts: Parts<'_>, key: &PublicKey) -> Result<(), BadSignature> {
        let message = base(parts, &params(self.created, &self.keyid));
        if key.verifies(message.as_bytes(), &self.signature) { Ok(()) } else { Err(BadSignature::Wrong) }
    }

    /// `now`: Unix seconds.
    pub fn check_clock(&self, now: u64) -> Result<(), BadSignature> {
        if self.created.abs_diff(now) <= CLOCK_WINDOW_SECS { Ok(()) } else { Err(BadSignature::Clock) }
    }
}

fn params(created: u64, keyid: &str) -> String {
    format!(r#"{COMPONENTS};created={created};keyid="{keyid}";tag="{TAG}""#)
}

fn base(parts: Parts<'_>, params: &str) -> String {
    let Parts { method, path, query, content_digest } = parts;
    format!(
        "\"@method\": {method}\n\"@path\": {path}\n\"@query\": ?{query}\n\"content-digest\": {content_digest}\n\
         \"@signature-params\": {params}"
    )
}

fn read_signature(part: &str) -> Option<(&str, Vec<u8>)> {
    let (label, value) = part.split_once("=:")?;
    Some((label, STANDARD.decode(value.strip_suffix(':')?).ok()?))
}

fn read_input(part: &str) -> Option<(&str, &str, u64)> {
    let (label, params) = part.split_once('=')?;
    let rest = params.strip_prefix(COMPONENTS)?.strip_prefix(";created=")?;
    let (created, rest) = rest.split_once(";keyid=\"")?;
    let keyid = rest.strip_suffix(&format!("\";tag=\"{TAG}\""))?;
    let is_plain =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_number = !created.starts_with('0') && created.len() <= 12;
    let fits = is_plain(label) && is_plain(keyid) && keyid.len() <= KEYID_BYTES_MAX && is_number;
    fits.then_some((label, keyid, created.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &[u8] = br#"{"seq":1}"#;

    fn parts(content_digest: &str) -> Parts<'_> {
        Parts { method: "POST", path: "/v1/report", query: "", content_digest }
    }

    #[test]
    fn the_vector_of_the_protocol_holds() {
        let key = SecretKey::from_seed(&[3; 32]);
        let digest = content_digest(BODY);
        assert_eq!(digest, "sha-256=:tB6VxD84jVYbFGMm2E46a54xxO8yq5fAR3TDGq2jJGo=:");
        let headers =
            sign(parts(&digest), 1_788_264_000, &[Signer { label: HOST_LABEL, keyid: "ins_TEST", key: &key }]);
        let signature = "yPI3hmpO2EI9EG8oGv8fxtyIaaodHmCKP26YBYGzjqcHe2OrRyKhD4ZhBUjhO/Psd7UVIqlcGdunpBNJCSJOCw==";
        assert_eq!(headers.signature, format!("host=:{signature}:"));
        let claims = read(&headers.signature_input, &headers.signature).unwrap();
        assert_eq!((claims.len(), claims[0].keyid.as_str(), claims[0].created), (1, "ins_TEST", 1_788_264_000));
        assert_eq!(claims[0].check(parts(&digest), &key.public()), Ok(()));
        assert_eq!(check_digest(&digest, &Digest::of(BODY)), Ok(()));
        assert_eq!(check_digest(&digest, &Digest::of(b"other")), Err(BadSignature::Digest));
    }

    #[test]
    fn two_keys_sign_an_enrolment() {
        let (token, host) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let digest = content_digest(b"");
        let signers = [
            Signer { label: TOKEN_LABEL, keyid: "adt_k7f3", key: &token },
            Signer { label: HOST_LABEL, keyid: NEW_HOST_KEYID, key: &host },
        ];
        let headers = sign(parts(&digest), 7, &signers);
        let claims = read(&headers.signature_input, &headers.signature).unwrap();
        assert_eq!(claims[0].check(parts(&digest), &token.public()), Ok(()));
        assert_eq!(claims[1].check(parts(&digest), &host.public()), Ok(()));
        assert_eq!(claims[1].check(parts(&digest), &token.public()), Err(BadSignature::Wrong));
        let twice = format!("{}, {}", headers.signature_input, headers.signature_input);
        assert_eq!(read(&twice, &headers.signature), Err(BadSignature::Header));
    }

    #[test]
    fn anything_changed_is_seen() {
        let key = SecretKey::from_seed(&[3; 32]);
        let digest = content_digest(BODY);
        let headers = sign(parts(&digest), 1_000, &[Signer { label: HOST_LABEL, keyid: "hst_TEST", key: &key }]);
        let claim = &read(&headers.signature_input, &headers.signature).unwrap()[0];
        let other = content_digest(b"other");
        for changed in [
            Parts { method: "GET", ..parts(&digest) },
            Parts { path: "/v1/enroll", ..parts(&digest) },
            Parts { query: "a=1", ..parts(&digest) },
            parts(&other),
        ] {
            assert_eq!(claim.check(changed, &key.public()), Err(BadSignature::Wrong));
        }
        assert_eq!((claim.check_clock(1_300), claim.check_clock(700)), (Ok(()), Ok(())));
        assert_eq!(
            (claim.check_clock(1_301), claim.check_clock(699)),
            (Err(BadSignature::Clock), Err(BadSignature::Clock))
        );
        for (from, to) in [
            ("\"@query\" ", ""),
            ("agentd/1", "agentd/2"),
            ("created=1000", "created=01000"),
            ("hst_TEST", "hst TEST"),
            (";tag", ";alg=\"hmac-sha256\";tag"),
        ] {
            let input = headers.signature_input.replace(from, to);
            assert_eq!(read(&input, &headers.signature), Err(BadSignature::Profile), "{input}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_the_reader_panic(input in ".{0,200}", signature in ".{0,200}") {
            prop_assert!(read(&input, &signature).is_err());
        }
    }
}
