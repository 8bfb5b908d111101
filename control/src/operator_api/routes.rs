//! The table of paths.

use axum::Router;
use axum::extract::State;
use axum::{Json, middleware};
use http::{HeaderValue, StatusCode, header};

use super::bodies::{BackupTo, Query};
use super::{drafts, events, hosts, stacks};
use crate::body::Read;
use crate::core::{Actor, Control, Error};
use crate::model::{AuditPage, BackupMade};
use crate::routes::{Entry, Table};

/// Where its paths stand.
const PREFIX: &str = "/api/v1";

/// Paths are below [`PREFIX`].
fn table() -> Table<Control> {
    Table::new()
        .get("/stacks", stacks::list)
        .post("/stacks", stacks::create)
        .get("/stacks/{stack}", stacks::one)
        .patch("/stacks/{stack}", stacks::edit)
        .get("/stacks/{stack}/draft", drafts::get)
        .put("/stacks/{stack}/draft", drafts::put)
        .get("/stacks/{stack}/diff", drafts::diff)
        .get("/stacks/{stack}/preview", drafts::preview)
        .get("/stacks/{stack}/versions", drafts::versions)
        .post("/stacks/{stack}/versions", drafts::publish)
        .get("/stacks/{stack}/versions/{version}", drafts::version)
        .post("/stacks/{stack}/versions/{version}/rollback", drafts::rollback)
        .post("/stacks/{stack}/hold", stacks::hold)
        .post("/stacks/{stack}/resume", stacks::resume)
        .get("/stacks/{stack}/tokens", stacks::tokens)
        .post("/stacks/{stack}/tokens", stacks::create_token)
        .get("/stacks/{stack}/services/{service}", stacks::service)
        .post("/tokens/{token}/revoke", stacks::revoke_token)
        .get("/hosts", hosts::list)
        .get("/hosts/{host}", hosts::one)
        .patch("/hosts/{host}", hosts::edit)
        .post("/hosts/{host}/approve", hosts::approve)
        .post("/hosts/{host}/clear-conflict", hosts::clear_conflict)
        .post("/hosts/{host}/revoke", hosts::revoke)
        .get("/events", events::page)
        .get("/events/stream", events::stream)
        .get("/audit", audit)
        .get("/notices", notices)
        .post("/backup", backup)
}

/// What there is to call, below `/api/v1`.
pub fn entries() -> Vec<Entry> {
    table().entries()
}

/// Whoever merges it puts a [`Actor`] into each request's extensions, or the answer is 401.
pub fn router(control: Control) -> Router {
    let api = table()
        .router()
        .fallback(nothing)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::map_response(no_store))
        .with_state(control);
    Router::new().nest(PREFIX, api)
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
