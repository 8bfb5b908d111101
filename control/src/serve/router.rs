//! The one place where the routers of all rooms come together.

use axum::Router;

use super::packages;
use crate::auth::{self, Accounts, Gate, Listener};
use crate::core::{Control, Error};
use crate::dashboard::{self, Face};
use crate::{agent_api, operator_api};

/// For the network: hosts, and people who have logged in.
pub(super) fn public(control: &Control, accounts: &Accounts, listener: Listener) -> Router {
    let face = Face::new(control.clone(), accounts.clone(), listener.transport);
    let guarded = operator_api::router(control.clone())
        .merge(auth::api(accounts.clone(), &control.settings().public_url))
        .merge(dashboard::routes(face));
    // Hosts sign what they send, and packages are for everybody: neither has a browser's credentials.
    Gate::new(accounts.clone(), listener)
        .guard(guarded)
        .merge(agent_api::router(control.clone()))
        .merge(packages::router(&control.settings().packages_dir, &control.settings().public_url))
}

/// For the Unix socket, where the caller is known already.
pub(super) fn local(control: &Control, accounts: &Accounts) -> Router {
    operator_api::router(control.clone())
        .merge(auth::api(accounts.clone(), &control.settings().public_url))
        .fallback(nothing)
}

async fn nothing() -> Error {
    Error::not_found("that path")
}
