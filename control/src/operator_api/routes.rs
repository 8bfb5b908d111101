//! The table of paths.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, middleware};
use http::{HeaderValue, StatusCode, header};

use super::bodies::{BackupTo, Query, Read};
use super::{drafts, events, hosts, stacks};
use crate::core::{Actor, Control, Error};
use crate::model::{AuditPage, BackupMade};

/// Whoever merges it puts a [`Actor`] into each request's extensions, or the answer is 401.
pub fn router(control: Control) -> Router {
    let api = Router::new()
        .route("/stacks", get(stacks::list).post(stacks::create))
        .route("/stacks/{stack}", get(stacks::one).patch(stacks::edit))
        .route("/stacks/{stack}/draft", get(drafts::get).put(drafts::put))
        .route("/stacks/{stack}/diff", get(drafts::diff))
        .route("/stacks/{stack}/versions", get(drafts::versions).post(drafts::publish))
        .route("/stacks/{stack}/versions/{version}", get(drafts::version))
        .route("/stacks/{stack}/versions/{version}/rollback", post(drafts::rollback))
        .route("/stacks/{stack}/hold", post(stacks::hold))
        .route("/stacks/{stack}/resume", post(stacks::resume))
        .route("/stacks/{stack}/tokens", get(stacks::tokens).post(stacks::create_token))
        .route("/stacks/{stack}/services/{service}", get(stacks::service))
        .route("/tokens/{token}/revoke", post(stacks::revoke_token))
        .route("/hosts", get(hosts::list))
        .route("/hosts/{host}", get(hosts::one).patch(hosts::edit))
        .route("/hosts/{host}/approve", post(hosts::approve))
        .route("/hosts/{host}/revoke", post(hosts::revoke))
        .route("/events", get(events::page))
        .route("/events/stream", get(events::stream))
        .route("/audit", get(audit))
        .route("/notices", get(notices))
        .route("/backup", post(backup))
        .fallback(nothing)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::map_response(no_store))
        .with_state(control);
    Router::new().nest("/api/v1", api)
}

async fn nothing() -> Error {
    Error::not_found("that path")
}

async fn method_not_allowed() -> Error {
    Error::MethodNotAllowed
}

async fn no_store(mut response: axum::response::Response) -> axum::response::Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[derive(Debug, serde::Deserialize)]
struct AuditQuery {
    before: Option<u64>,
    limit: Option<u32>,
}

const AUDIT_DEFAULT: u32 = 100;

async fn audit(
    State(control): State<Control>,
    _actor: Actor,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditPage>, Error> {
    Ok(Json(control.audit(query.before, query.limit.unwrap_or(AUDIT_DEFAULT)).await?))
}

async fn notices(State(control): State<Control>, _actor: Actor) -> Json<Vec<String>> {
    Json(control.notices())
}

async fn backup(
    State(control): State<Control>,
    actor: Actor,
    Read(to): Read<BackupTo>,
) -> Result<(StatusCode, Json<BackupMade>), Error> {
    // A path on the server is for who is on the server.
    if !matches!(actor, Actor::Local { .. }) {
        return Err(Error::Forbidden("backups are made on the machine of the server: `controld backup FILE`"));
    }
    Ok((StatusCode::CREATED, Json(control.backup(&actor, std::path::Path::new(&to.file)).await?)))
}
