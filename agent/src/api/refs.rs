//! What branches and tags point at now.

use std::sync::Arc;

use agentd_protocol::api::{REFS_MAX, RefAnswers, RefQuestions};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::future::BoxFuture;

use super::routes::{Answer, Api, Refused};

/// The app's way to the repositories.
pub type ResolveRefs = Arc<dyn Fn(RefQuestions) -> BoxFuture<'static, RefAnswers> + Send + Sync>;

pub(super) async fn refs(State(api): State<Api>, Json(asked): Json<RefQuestions>) -> Answer<RefAnswers> {
    let count = asked.questions.len();
    if count > REFS_MAX {
        return Err(Refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("{count} refs asked for, at most {REFS_MAX} at once"),
        ));
    }
    Ok(Json((api.resolve_refs)(asked).await))
}
