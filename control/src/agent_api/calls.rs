//! The calls, each a few lines over core's handle.

use std::net::SocketAddr;
use std::time::Duration;

use agentd_protocol::control::enroll::Enroll;
use agentd_protocol::control::ids::{StackId, TokenId};
use agentd_protocol::control::report::Report;
use agentd_protocol::control::request::{BadSignature, HOST_LABEL, NEW_HOST_KEYID, TOKEN_LABEL};
use agentd_protocol::control::{ENROLL_BYTES_MAX, REPORT_BYTES_MAX};
use agentd_protocol::digest::Digest;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderName, HeaderValue, Request, StatusCode, header};

use super::limits::Enrolments;
use super::signed::{self, Claimed};
use crate::clock;
use crate::core::{Control, Error, File, Welcome};

/// Files that are named by their digest or number never change.
const FOREVER: &str = "private, max-age=31536000, immutable";
const PREFER: &str = "prefer";
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

#[derive(Debug, Clone)]
struct Calls {
    control: Control,
    enrolments: Enrolments,
}

/// To be merged with the other routers; needs `ConnectInfo<SocketAddr>` in a request's extensions for its limits.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/v1/enroll", post(enroll))
        .route("/v1/report", post(report))
        .route("/s/{stack}/head.json", get(head))
        .route("/s/{stack}/root/{file}", get(root))
        .route("/s/{stack}/obj/{sha256}", get(object))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Calls { control, enrolments: Enrolments::new() })
}

async fn method_not_allowed() -> Error {
    Error::MethodNotAllowed
}

async fn enroll(State(calls): State<Calls>, request: Request<Body>) -> Result<Response, Error> {
    let source = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    calls.enrolments.check(source, clock::now_unix_ms())?;
    let claimed = Claimed::read(request)?;
    let host = claimed.claim(HOST_LABEL)?.clone();
    let token = match claimed.claim(TOKEN_LABEL) {
        Ok(claim) => {
            let id = TokenId::new(&claim.keyid).map_err(|_| Error::TokenInvalid)?;
            let key = calls.control.token_key(&id).await?;
            claimed.check(claim, &key)?;
            // Only now: who does not have the token takes nothing from who has it.
            calls.enrolments.check_token(&id, clock::now_unix_ms())?;
            if host.keyid != NEW_HOST_KEYID {
                return Err(Error::Signature(BadSignature::Profile));
            }
            Some(id)
        }
        // With a receipt: the host's own signature alone.
        Err(_) if claimed.labels() == 1 => None,
        Err(error) => return Err(error),
    };
    let proof = claimed.proof();
    let body = claimed.body(ENROLL_BYTES_MAX).await?;
    let wish: Enroll = serde_json::from_slice(&body).map_err(|_| Error::BadRequest("not an enrolment".to_owned()))?;
    let key = wish.key;
    proof.check(&host, &key)?;
    let welcome = match (token, wish.receipt.clone()) {
        (Some(token), _) => calls.control.enroll(&token, wish).await?,
        (None, Some(receipt)) => calls.control.readopt(&receipt, wish).await?,
        (None, None) => return Err(Error::Signature(BadSignature::Header)),
    };
    if let Welcome::Pending(_) = &welcome {
        calls.enrolments.give_back(source, &key, clock::now_unix_ms());
    }
    let mut response = match welcome {
        Welcome::New(enrolled) => (StatusCode::CREATED, Json(enrolled)).into_response(),
        Welcome::Again(enrolled) => Json(enrolled).into_response(),
        Welcome::Pending(pending) => (StatusCode::ACCEPTED, Json(pending)).into_response(),
    };
    no_store(&mut response);
    Ok(response)
}

async fn report(State(calls): State<Calls>, request: Request<Body>) -> Result<Response, Error> {
    let claimed = Claimed::read(request)?;
    let host = signed::host(&calls.control, &claimed)?;
    let wait = claimed.header(PREFER).and_then(wait_of);
    let body = claimed.body(REPORT_BYTES_MAX).await?;
    let report: Report = serde_json::from_slice(&body).map_err(|_| Error::BadRequest("not a report".to_owned()))?;
    calls.control.admit_report(&host, report.events.len(), body.len())?;
    drop(body);
    let reported = calls.control.report(&host, report, wait).await?;
    let mut response = Json(reported).into_response();
    no_store(&mut response);
    if let Some(wait) = wait
        && let Ok(applied) = HeaderValue::from_str(&format!("wait={}", wait.as_secs()))
    {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

/// `wait=N` of RFC 7240 §4.3; other preferences are not ours.
fn wait_of(prefer: &str) -> Option<Duration> {
    let seconds = prefer.split([',', ';']).find_map(|part| part.trim().strip_prefix("wait="))?;
    seconds.trim_matches('"').parse().ok().map(Duration::from_secs)
}

async fn head(
    State(calls): State<Calls>,
    Path(stack): Path<String>,
    request: Request<Body>,
) -> Result<Response, Error> {
    let claimed = Claimed::read(request)?;
    let host = signed::host(&calls.control, &claimed)?;
    let seen = claimed.header(header::IF_NONE_MATCH.as_str()).map(str::to_owned);
    claimed.body(0).await?;
    let file = calls.control.head_file(&host, &stack_of(&stack)?)?;
    Ok(answer(file, seen.as_deref(), "application/json", "private, no-cache"))
}

async fn root(
    State(calls): State<Calls>,
    Path((stack, file)): Path<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Error> {
    let claimed = Claimed::read(request)?;
    let host = signed::host(&calls.control, &claimed)?;
    let seen = claimed.header(header::IF_NONE_MATCH.as_str()).map(str::to_owned);
    claimed.body(0).await?;
    let number = file.strip_suffix(".json").and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| Error::not_found("the file"))?;
    let file = calls.control.root_file(&host, &stack_of(&stack)?, number).await?;
    Ok(answer(file, seen.as_deref(), "application/json", FOREVER))
}

async fn object(
    State(calls): State<Calls>,
    Path((stack, sha256)): Path<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Error> {
    let claimed = Claimed::read(request)?;
    let host = signed::host(&calls.control, &claimed)?;
    let seen = claimed.header(header::IF_NONE_MATCH.as_str()).map(str::to_owned);
    claimed.body(0).await?;
    let sha256: Digest = sha256.parse().map_err(|_| Error::not_found("the object"))?;
    let file = calls.control.object_file(&host, &stack_of(&stack)?, &sha256).await?;
    // It may hold secrets: no cache keeps it.
    Ok(answer(file, seen.as_deref(), "application/json", "no-store"))
}

fn stack_of(text: &str) -> Result<StackId, Error> {
    StackId::new(text).map_err(|_| Error::not_found("the stack"))
}

fn answer(file: File, seen: Option<&str>, content_type: &'static str, caching: &'static str) -> Response {
    let is_same = seen.is_some_and(|seen| seen.split(',').any(|tag| tag.trim() == file.etag));
    let mut response = match is_same {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Body::from(file.body).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    if let Ok(etag) = HeaderValue::from_str(&file.etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

fn no_store(response: &mut Response) {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_read_as_written() {
        assert_eq!(wait_of("wait=50"), Some(Duration::from_secs(50)));
        assert_eq!(wait_of("respond-async, wait=\"7\""), Some(Duration::from_secs(7)));
        assert_eq!((wait_of("wait=-1"), wait_of("wait"), wait_of("")), (None, None, None));
    }
}
