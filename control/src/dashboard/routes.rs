//! Which address is which page.

use std::sync::Arc;

use agentd_protocol::control::problem::Slug;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use super::{acts, answer, assets, edit, entry, live, looks};
use crate::auth::{Accounts, Transport};
use crate::core::Control;

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
    pub(crate) streams: Arc<Semaphore>,
}

impl Face {
    pub fn new(control: Control, accounts: Accounts, transport: Transport) -> Self {
        Self { control, accounts, transport, streams: Arc::new(Semaphore::new(live::STREAMS_MAX)) }
    }
}

/// To be put behind [`crate::auth::Gate::guard`].
pub fn routes(face: Face) -> Router {
    let draft = get(edit::draft).post(edit::save_draft).layer(DefaultBodyLimit::max(DRAFT_FORM_BYTES_MAX));
    let stack = Router::new()
        .route("/", get(looks::stack))
        .route("/services/{service}", get(looks::service))
        .route("/publish", post(edit::publish))
        .route("/hold", post(acts::hold))
        .route("/resume", post(acts::resume))
        .route("/versions", get(looks::versions))
        .route("/versions/{version}", get(looks::version))
        .route("/versions/{version}/rollback", get(edit::rollback_page).post(edit::rollback))
        .route("/join", get(looks::join))
        .route("/tokens", post(acts::create_token))
        .route("/tokens/{token}/revoke", post(acts::revoke_token));
    let host = Router::new()
        .route("/", get(looks::host))
        .route("/approve", post(acts::approve))
        .route("/name", post(acts::rename))
        .route("/labels", post(acts::label))
        .route("/revoke", post(acts::revoke));
    Router::new()
        .route("/", get(looks::stacks))
        .route("/stacks", post(acts::create_stack))
        .nest("/stacks/{stack}", stack)
        .route("/hosts", get(looks::hosts))
        .nest("/hosts/{host}", host)
        .route("/events", get(looks::events))
        .route("/audit", get(looks::audit))
        .route("/live", get(live::stream))
        .route("/login", get(entry::login_page).post(entry::login))
        .route("/logout", post(entry::logout))
        .route("/setup", get(entry::set_up_page).post(entry::set_up))
        .route("/account", get(entry::account))
        .route("/account/password", post(entry::change_password))
        .route("/account/logout-all", post(entry::logout_all))
        .route("/account/tokens", post(entry::create_api_token))
        .route("/account/tokens/{token}/revoke", post(entry::revoke_api_token))
        .route("/assets/{name}", get(assets::file))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .route("/stacks/{stack}/draft", draft)
        .fallback(|| async { answer::failed(Slug::NotFound, "there is no such page".to_owned(), None) })
        .with_state(face)
}
