//! Drafts, versions and what differs.

use agentd_protocol::ids::Version;
use agentd_protocol::stack::DOCUMENT_BYTES_MAX;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Request, StatusCode, header};
use serde::Deserialize;

use super::bodies::{Query, idempotency_key, named, revision};
use crate::body::{Read, read};
use crate::core::{Actor, Control, Error};
use crate::model::*;

const VERSIONS_DEFAULT: u32 = 50;
const MEDIA: &str = "application/toml or application/json";

fn with_etag(draft: Draft) -> Response {
    let etag = HeaderValue::from_str(&format!("\"{}\"", draft.revision)).expect("digits and quotes");
    ([(header::ETAG, etag)], Json(draft)).into_response()
}

pub(super) async fn get(
    State(control): State<Control>,
    _actor: Actor,
    Path(stack): Path<String>,
) -> Result<Response, Error> {
    Ok(with_etag(control.draft(&named(&stack)?).await?))
}

pub(super) async fn put(
    State(control): State<Control>,
    actor: Actor,
    Path(stack): Path<String>,
    request: Request<Body>,
) -> Result<Response, Error> {
    let revision = revision(request.headers())?;
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = match media.split(';').next().unwrap_or_default().trim() {
        "application/toml" => DraftFormat::Toml,
        "application/json" => DraftFormat::Json,
        _ => return Err(Error::UnsupportedMedia(MEDIA)),
    };
    let bytes = read(request.into_body(), DOCUMENT_BYTES_MAX).await?;
    let text =
        String::from_utf8(bytes.to_vec()).map_err(|_| Error::BadRequest("the document is not UTF-8".to_owned()))?;
    Ok(with_etag(control.save_draft(&actor, &named(&stack)?, revision, format, text).await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct Sides {
    from: String,
    to: String,
}

fn side(text: &str) -> Result<Side, Error> {
    if text == "draft" {
        return Ok(Side::Draft);
    }
    let number = text.parse().map_err(|_| Error::BadRequest("from and to are numbers, or `draft`".to_owned()))?;
    Ok(Side::Version(Version(number)))
}

pub(super) async fn diff(
    State(control): State<Control>,
    _actor: Actor,
    Path(stack): Path<String>,
    Query(Sides { from, to }): Query<Sides>,
) -> Result<Json<Diff>, Error> {
    Ok(Json(control.diff(&named(&stack)?, side(&from)?, side(&to)?).await?))
}

pub(super) async fn preview(
    State(control): State<Control>,
    _actor: Actor,
    Path(stack): Path<String>,
) -> Result<Json<Preview>, Error> {
    let preview = control.preview(&named(&stack)?).await?;
    preview.map(Json).ok_or_else(|| Error::not_found("a draft"))
}

#[derive(Debug, Deserialize)]
pub(super) struct Page {
    before: Option<u64>,
    limit: Option<u32>,
}

pub(super) async fn versions(
    State(control): State<Control>,
    _actor: Actor,
    Path(stack): Path<String>,
    Query(Page { before, limit }): Query<Page>,
) -> Result<Json<Vec<VersionRow>>, Error> {
    let limit = limit.unwrap_or(VERSIONS_DEFAULT);
    Ok(Json(control.versions(&named(&stack)?, before.map(Version), limit).await?))
}

pub(super) async fn version(
    State(control): State<Control>,
    _actor: Actor,
    Path((stack, version)): Path<(String, u64)>,
) -> Result<Json<VersionDetail>, Error> {
    Ok(Json(control.version(&named(&stack)?, Version(version)).await?))
}

pub(super) async fn publish(
    State(control): State<Control>,
    actor: Actor,
    Path(stack): Path<String>,
    headers: http::HeaderMap,
    Read(asked): Read<Publish>,
) -> Result<(StatusCode, Json<VersionRow>), Error> {
    let (revision, key) = (revision(&headers)?, idempotency_key(&headers));
    let row = control.publish(&actor, &named(&stack)?, revision, &asked, key.as_deref()).await?;
    Ok((StatusCode::CREATED, Json(row)))
}

pub(super) async fn rollback(
    State(control): State<Control>,
    actor: Actor,
    Path((stack, version)): Path<(String, u64)>,
    headers: http::HeaderMap,
    Read(Reason { reason }): Read<Reason>,
) -> Result<(StatusCode, Json<VersionRow>), Error> {
    let key = idempotency_key(&headers);
    let row = control.rollback(&actor, &named(&stack)?, Version(version), None, &reason, key.as_deref()).await?;
    Ok((StatusCode::CREATED, Json(row)))
}
