//! What bodies, queries and headers hold, their failures told as problems.

use std::collections::BTreeMap;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::core::Error;

/// What is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostEdit {
    pub name: Option<String>,
    pub labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// As the host shows it.
    pub code: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupTo {
    /// A new file, by its whole path on the server.
    pub file: String,
}

/// A query, with problems told as ours.
pub(super) struct Query<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Error> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        query.map(|query| Self(query.0)).map_err(|error| Error::BadRequest(error.to_string()))
    }
}

/// A part of the path that has a type of its own: what is not of the type is not there.
pub(super) fn named<T: std::str::FromStr>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::not_found("that path"))
}

/// The revision of `If-Match`, quoted or not.
pub(super) fn revision(headers: &HeaderMap) -> Result<u64, Error> {
    let value = headers.get(header::IF_MATCH).ok_or(Error::RevisionMissing)?;
    let text = value.to_str().unwrap_or_default().trim().trim_start_matches("W/").trim_matches('"');
    text.parse().map_err(|_| Error::BadRequest("If-Match is a revision: a number in quotes".to_owned()))
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Option<String> {
    headers.get("idempotency-key").map(|value| value.to_str().unwrap_or_default().to_owned())
}
