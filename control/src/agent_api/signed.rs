//! A signed request: believed by its headers, then read within its limit, then compared with the digest that was signed.

use std::time::Duration;

use agentd_protocol::control::ids::HostId;
use agentd_protocol::control::key::PublicKey;
use agentd_protocol::control::request::{
    self, BadSignature, CONTENT_DIGEST_HEADER, Claim, HOST_LABEL, Parts, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER,
};
use agentd_protocol::digest::Digest;
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Uri, header};

use crate::clock;
use crate::core::{Control, Error};

/// A body that comes more slowly than that is let go.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// Of a body that is too large.
const DISCARDED_BYTES_MAX: usize = 16 * 1024 * 1024;
const DISCARD_DEADLINE: Duration = Duration::from_secs(5);

/// What the headers say. Nothing of it is true before it is checked.
pub(super) struct Claimed {
    headers: HeaderMap,
    body: Body,
    claims: Vec<Claim>,
    signed: Signed,
}

/// What was signed, for a key that stands in the body.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    method: Method,
    uri: Uri,
    content_digest: String,
}

impl Signed {
    pub(super) fn check(&self, claim: &Claim, key: &PublicKey) -> Result<(), Error> {
        let parts = Parts {
            method: self.method.as_str(),
            path: self.uri.path(),
            query: self.uri.query().unwrap_or_default(),
            content_digest: &self.content_digest,
        };
        claim.check(parts, key).map_err(Error::Signature)?;
        let now = clock::now();
        let secs = u64::try_from(now.unix_secs()).unwrap_or(0);
        claim.check_clock(secs).map_err(|_| Error::ClockSkew { server: now })
    }
}

impl Claimed {
    pub(super) fn read(request: Request<Body>) -> Result<Self, Error> {
        let (parts, body) = request.into_parts();
        let content_digest = single(&parts.headers, CONTENT_DIGEST_HEADER)?.to_owned();
        let input = single(&parts.headers, SIGNATURE_INPUT_HEADER)?;
        let signature = single(&parts.headers, SIGNATURE_HEADER)?;
        let claims = request::read(input, signature).map_err(Error::Signature)?;
        let signed = Signed { method: parts.method, uri: parts.uri, content_digest };
        Ok(Self { headers: parts.headers, body, claims, signed })
    }

    pub(super) fn claim(&self, label: &str) -> Result<&Claim, Error> {
        self.claims.iter().find(|claim| claim.label == label).ok_or(Error::Signature(BadSignature::Header))
    }

    pub(super) fn labels(&self) -> usize {
        self.claims.len()
    }

    pub(super) fn check(&self, claim: &Claim, key: &PublicKey) -> Result<(), Error> {
        self.signed.check(claim, key)
    }

    pub(super) fn proof(&self) -> Signed {
        self.signed.clone()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Only for who has been believed.
    pub(super) async fn body(self, bytes_max: usize) -> Result<Bytes, Error> {
        let too_large = || Error::BodyTooLarge { bytes_max };
        let announced = self.header(header::CONTENT_LENGTH.as_str()).and_then(|length| length.parse::<usize>().ok());
        if announced.is_some_and(|length| length > bytes_max) {
            discard(self.body).await;
            return Err(too_large());
        }
        if self.headers.contains_key(header::CONTENT_ENCODING) {
            return Err(Error::UnsupportedMedia("the body as it is, without Content-Encoding"));
        }
        let reading = tokio::time::timeout(BODY_DEADLINE, to_bytes(self.body, bytes_max)).await;
        let bytes = reading.map_err(|_| Error::BadRequest("the body came too slowly".to_owned()))?;
        let bytes = bytes.map_err(|_| too_large())?;
        request::check_digest(&self.signed.content_digest, &Digest::of(&bytes)).map_err(Error::Signature)?;
        Ok(bytes)
    }
}

/// Who is cut off while he sends may never read the answer that says why.
async fn discard(body: Body) {
    let reading = async {
        let (mut left, mut chunks) = (DISCARDED_BYTES_MAX, body.into_data_stream());
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
            }
        }
    };
    // Too slow or too much: then he is cut off.
    let _ = tokio::time::timeout(DISCARD_DEADLINE, reading).await;
}

/// The host that has signed, if one has.
pub(super) fn host(control: &Control, claimed: &Claimed) -> Result<HostId, Error> {
    let claim = claimed.claim(HOST_LABEL)?;
    let id = HostId::new(&claim.keyid).map_err(|_| Error::HostUnknown)?;
    claimed.check(claim, &control.host_key(&id)?)?;
    control.admit_call(&id)?;
    Ok(id)
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Error> {
    let mut all = headers.get_all(name).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return Err(Error::Signature(BadSignature::Header)) };
    value.to_str().map_err(|_| Error::Signature(BadSignature::Header))
}
