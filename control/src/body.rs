//! Bodies of requests, read within limits, their failures told as problems.

use axum::body::{Body, to_bytes};
use axum::extract::FromRequest;
use bytes::Bytes;
use http::Request;
use serde::de::DeserializeOwned;

use crate::core::Error;

/// Of a body that is no document.
const JSON_BYTES_MAX: usize = 64 * 1024;

/// A body in JSON. No body at all is the default of the type's fields.
pub(crate) struct Read<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Read<T> {
    type Rejection = Error;

    async fn from_request(request: Request<Body>, _state: &S) -> Result<Self, Error> {
        let bytes = read(request.into_body(), JSON_BYTES_MAX).await?;
        let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
        serde_json::from_slice(&bytes).map(Self).map_err(|error| Error::BadRequest(fault(&error)))
    }
}

/// serde_json's words quote a value whose type is wrong, and it may be a secret that stands in the wrong place: of those
/// only the place is told. Where it names a key, it names nothing else.
fn fault(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let names_a_key =
        ["unknown field `", "missing field `", "duplicate field `"].iter().any(|begin| text.starts_with(begin));
    match error.classify() {
        serde_json::error::Category::Data if names_a_key => format!("the body: {text}"),
        serde_json::error::Category::Data => {
            format!("the body: the value that ends at line {line}, column {column} is not of the type it should be")
        }
        _ => format!("the body is no JSON from line {line}, column {column} on"),
    }
}

pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Error> {
    to_bytes(body, bytes_max).await.map_err(|_| Error::BodyTooLarge { bytes_max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator_api::HostEdit;

    #[test]
    fn a_wrong_body_is_told_without_its_values() {
        let said = |text: &str| fault(&serde_json::from_str::<HostEdit>(text).unwrap_err());
        for text in [
            r#"{"labels": "hunter2"}"#,
            r#"{"labels": {"a": 20202}}"#,
            r#"{"name": ["hunter2"]}"#,
            r#""hunter2""#,
            r#"{"name": hunter2}"#,
        ] {
            assert!(!said(text).contains("hunter2") && !said(text).contains("20202"), "{text}: {}", said(text));
        }
        assert!(
            said(r#"{"nam": "hunter2"}"#).starts_with("the body: unknown field `nam`, expected `name` or `labels`")
        );
    }
}
