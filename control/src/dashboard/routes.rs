//! Which address is which page.

use agentd_protocol::control::problem::Slug;
use axum::Router;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};

use super::{acts, answer, assets, edit, entry, live, looks};
use crate::auth::{Accounts, Transport};
use crate::core::Control;
use crate::routes::{Entry, Table};

/// Of a form, bytes.
const FORM_BYTES_MAX: usize = 64 * 1024;
/// Of the form with a document, bytes: three for each of the document's, as forms are encoded, and some room.
const DRAFT_FORM_BYTES_MAX: usize = 3 * agentd_protocol::stack::DOCUMENT_BYTES_MAX + FORM_BYTES_MAX;

/// What the pages ask.
#[derive(Debug, Clone)]
pub struct Face {
    pub(crate) control: Control,
    pub(crate) accounts: Accounts,
    pub(crate) transport: Transport,
}

impl Face {
    pub fn new(control: Control, accounts: Accounts, transport: Transport) -> Self {
        Self { control, accounts, transport }
    }
}

fn table() -> Table<Face> {
    let pages = Table::new()
        .get("/", looks::stacks)
        .post("/stacks", acts::create_stack)
        .get("/stacks/{stack}", looks::stack)
        .get("/stacks/{stack}/services/{service}", looks::service)
        .post("/stacks/{stack}/publish", edit::publish)
        .post("/stacks/{stack}/hold", acts::hold)
        .post("/stacks/{stack}/resume", acts::resume)
        .get("/stacks/{stack}/versions", looks::versions)
        .get("/stacks/{stack}/versions/{version}", looks::version)
        .get("/stacks/{stack}/versions/{version}/rollback", edit::rollback_page)
        .post("/stacks/{stack}/versions/{version}/rollback", edit::rollback)
        .get("/stacks/{stack}/join", looks::join)
        .post("/stacks/{stack}/tokens", acts::create_token)
        .post("/stacks/{stack}/tokens/{token}/revoke", acts::revoke_token)
        .get("/hosts", looks::hosts)
        .get("/hosts/{host}", looks::host)
        .post("/hosts/{host}/approve", acts::approve)
        .post("/hosts/{host}/name", acts::rename)
        .post("/hosts/{host}/labels", acts::label)
        .post("/hosts/{host}/clear-conflict", acts::clear_conflict)
        .post("/hosts/{host}/revoke", acts::revoke)
        .get("/events", looks::events)
        .get("/audit", looks::audit)
        .get("/live", live::stream)
        .get("/login", entry::login_page)
        .post("/login", entry::login)
        .post("/logout", entry::logout)
        .get("/setup", entry::set_up_page)
        .post("/setup", entry::set_up)
        .get("/account", entry::account)
        .post("/account/password", entry::change_password)
        .post("/account/logout-all", entry::logout_all)
        .post("/account/tokens", entry::create_api_token)
        .post("/account/tokens/{token}/revoke", entry::revoke_api_token)
        .get("/assets/{name}", assets::file)
        .limited(FORM_BYTES_MAX);
    let draft = Table::new()
        .get("/stacks/{stack}/draft", edit::draft)
        .post("/stacks/{stack}/draft", edit::save_draft)
        .limited(DRAFT_FORM_BYTES_MAX);
    pages.merge(draft)
}

/// Every page, every form's address, and what they load.
pub fn entries() -> Vec<Entry> {
    table().entries()
}

/// To be put behind [`crate::auth::Gate::guard`].
pub fn routes(face: Face) -> Router {
    table().router().fallback(nothing).with_state(face)
}

/// People get a page, programs a problem.
async fn nothing(headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") {
        answer::failed(Slug::NotFound, "there is no such page".to_owned(), None)
    } else {
        crate::core::Error::not_found("that path").into_response()
    }
}
