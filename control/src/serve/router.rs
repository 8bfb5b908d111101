//! The one place where the routers of all rooms come together.

use axum::Router;

use super::packages;
use crate::core::{Control, Error};
use crate::{agent_api, operator_api};

/// For the network: hosts, and people who have logged in.
pub(super) fn public(control: &Control) -> Router {
    Router::new()
        .merge(agent_api::router(control.clone()))
        .merge(operator_api::router(control.clone()))
        .merge(packages::router(&control.settings().packages_dir))
        .fallback(nothing)
}

/// For the Unix socket, where the caller is known already.
pub(super) fn local(control: &Control) -> Router {
    operator_api::router(control.clone()).fallback(nothing)
}

async fn nothing() -> Error {
    Error::not_found("that path")
}
