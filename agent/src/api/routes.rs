//! Paths to calls of the reconciler, and its errors to statuses.

use std::path::PathBuf;
use std::sync::Arc;

use agentd_protocol::api::{Accepted, Failure, GitKey, Plan, Routes, Status};
use agentd_protocol::ids::{ReleaseNumber, ServiceName};
use agentd_protocol::stack::{DOCUMENT_BYTES_MAX, Stack};
use agentd_sys::causes::chain;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{Callers, Error, ResolveRefs, events, refs, releases, security};
use crate::{firewall, reconcile};

/// The app's way to a new deploy key: the answer is the key, or a sentence for the operator.
pub type MakeGitKey = Arc<dyn Fn(String) -> BoxFuture<'static, Result<(PathBuf, String), String>> + Send + Sync>;

/// What the API calls.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct Api {
    pub reconcile: reconcile::Handle,
    /// Makes a deploy key of that name; the file of its private half and the public one.
    pub new_git_key: MakeGitKey,
    pub resolve_refs: ResolveRefs,
    pub firewall: firewall::Handle,
    /// Cancelled by `POST /v1/down`: the app then takes everything down and ends.
    pub down: CancellationToken,
    /// Cancelled when the manager ends: answers that go on for ever end with it.
    pub ending: CancellationToken,
}

/// Serves until `cancel`, then lets calls under way finish.
pub async fn serve(callers: Callers, api: Api, cancel: CancellationToken) -> Result<(), Error> {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/plan", get(plan).post(plan_of))
        .route("/v1/services/{name}/logs", get(super::logs::logs))
        .route("/v1/services/{name}/stop", post(stop))
        .route("/v1/services/{name}/start", post(start))
        .route("/v1/services/{name}/restart", post(restart))
        .route("/v1/services/{name}/rollback", post(rollback))
        .route("/v1/services/{name}/unpin", post(unpin))
        .route("/v1/services/{name}/prune", post(prune))
        .route("/v1/routes", get(routes))
        .route("/v1/events", get(events::events))
        .route("/v1/services/{name}/releases", get(releases::releases))
        .route("/v1/refs", post(refs::refs))
        .route("/v1/git-keys/{name}", post(git_key))
        .route("/v1/security", get(security::status))
        .route("/v1/security/plan", post(security::plan))
        .route("/v1/security/apply", post(security::apply))
        .route("/v1/security/confirm", post(security::confirm))
        .route("/v1/security/revert", post(security::revert))
        .route("/v1/security/open", post(security::open))
        .route("/v1/security/selftest", post(security::selftest))
        .route("/v1/down", post(down))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(DOCUMENT_BYTES_MAX))
        .with_state(api);
    let router = router.into_make_service_with_connect_info::<security::Caller>();
    axum::serve(callers, router).with_graceful_shutdown(cancel.cancelled_owned()).await.map_err(Error::Serve)
}

pub(super) type Answer<T> = Result<Json<T>, Refused>;

/// A no, with the sentence for the operator.
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(Failure { error: self.1 })).into_response()
    }
}

pub(super) fn failed(error: &reconcile::Error) -> Refused {
    use reconcile::Error as E;
    let status = match error {
        E::Ended | E::GoingDown | E::TooManyReaders => StatusCode::SERVICE_UNAVAILABLE,
        E::NoService(_)
        | E::NoRelease { .. }
        | E::NothingEarlier(_)
        | E::NoLog { .. }
        | E::NoBuildLog { .. }
        | E::NoInstanceLog { .. } => StatusCode::NOT_FOUND,
        E::StillWanted(_) => StatusCode::CONFLICT,
        E::NotDone { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        E::TooSlow { .. } => StatusCode::GATEWAY_TIMEOUT,
        E::Route { .. } | E::Log { .. } | E::Edge(_) | E::Store(_) | E::Source(_) | E::Supervisor(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    Refused(status, chain(error))
}

pub(super) fn service(name: String) -> Result<ServiceName, Refused> {
    ServiceName::new(name).map_err(|bad| Refused(StatusCode::NOT_FOUND, bad.to_string()))
}

fn accepted(outcome: Result<(), reconcile::Error>, message: String) -> Answer<Accepted> {
    outcome.map(|()| Json(Accepted { message })).map_err(|error| failed(&error))
}

async fn status(State(api): State<Api>) -> Answer<Status> {
    let mut status = api.reconcile.status().await.map_err(|error| failed(&error))?;
    status.security = Some(api.firewall.brief());
    status.limitations.extend(api.firewall.limitation());
    Ok(Json(status))
}

async fn routes(State(api): State<Api>) -> Json<Routes> {
    Json(api.reconcile.routes())
}

async fn plan(State(api): State<Api>) -> Answer<Plan> {
    api.reconcile.plan().await.map(Json).map_err(|error| failed(&error))
}

async fn plan_of(State(api): State<Api>, Json(stack): Json<Stack>) -> Answer<Plan> {
    api.reconcile.plan_of(stack).await.map(Json).map_err(|error| failed(&error))
}

async fn stop(State(api): State<Api>, Path(name): Path<String>) -> Answer<Accepted> {
    let name = service(name)?;
    accepted(api.reconcile.stop(&name).await, format!("{name} is stopped; `agentctl start {name}` starts it"))
}

async fn start(State(api): State<Api>, Path(name): Path<String>) -> Answer<Accepted> {
    let name = service(name)?;
    accepted(api.reconcile.start(&name).await, format!("{name} runs"))
}

async fn restart(State(api): State<Api>, Path(name): Path<String>) -> Answer<Accepted> {
    let name = service(name)?;
    accepted(api.reconcile.restart(&name).await, format!("{name} runs in new instances"))
}

#[derive(Debug, Deserialize)]
struct RollbackQuery {
    release: Option<u64>,
}

async fn rollback(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<RollbackQuery>,
) -> Answer<Accepted> {
    let name = service(name)?;
    let outcome = api.reconcile.rollback(&name, query.release.map(ReleaseNumber)).await.map_err(|error| match error {
        reconcile::Error::NotDone { service, cause } => {
            let cause = format!("{cause}; what ran before runs on, `agentctl unpin {service}` ends the pin");
            reconcile::Error::NotDone { service, cause }
        }
        other => other,
    });
    accepted(outcome, format!("{name} is rolled back and pinned; `agentctl unpin {name}` follows the document again"))
}

async fn unpin(State(api): State<Api>, Path(name): Path<String>) -> Answer<Accepted> {
    let name = service(name)?;
    accepted(api.reconcile.unpin(&name).await, format!("{name} follows the document"))
}

async fn prune(State(api): State<Api>, Path(name): Path<String>) -> Answer<Accepted> {
    let name = service(name)?;
    accepted(api.reconcile.prune(&name).await, format!("the releases, data and logs of {name} are removed"))
}

async fn git_key(State(api): State<Api>, Path(name): Path<String>) -> Answer<GitKey> {
    match (api.new_git_key)(name).await {
        Ok((private, public)) => Ok(Json(GitKey { public, private_file: private.display().to_string() })),
        Err(text) => Err(Refused(StatusCode::CONFLICT, text)),
    }
}

/// Answers before everything is down, since this process ends with it: the caller watches the socket go away.
async fn down(State(api): State<Api>) -> Json<Accepted> {
    api.down.cancel();
    Json(Accepted { message: "going down".to_owned() })
}

async fn unknown() -> Refused {
    Refused(StatusCode::NOT_FOUND, "no such call; agentctl and agentd may be of different versions".to_owned())
}
