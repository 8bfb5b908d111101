//! What is kept of a service.

use agentd_protocol::api::Releases;
use axum::Json;
use axum::extract::{Path, State};

use super::routes::{Answer, Api, failed, service};

pub(super) async fn releases(State(api): State<Api>, Path(name): Path<String>) -> Answer<Releases> {
    let name = service(name)?;
    api.reconcile.releases(&name).await.map(Json).map_err(|error| failed(&error))
}
