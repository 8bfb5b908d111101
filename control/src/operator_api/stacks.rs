//! Stacks, their flow, and tokens.

use axum::Json;
use axum::extract::{Path, State};
use http::{HeaderMap, StatusCode};

use super::bodies::{idempotency_key, named};
use crate::body::Read;
use crate::core::{Actor, Control, Error};
use crate::model::*;

pub(super) async fn list(State(control): State<Control>, _actor: Actor) -> Result<Json<Vec<StackOverview>>, Error> {
    Ok(Json(control.stacks().await?))
}

pub(super) async fn create(
    State(control): State<Control>,
    actor: Actor,
    Read(new): Read<NewStack>,
) -> Result<(StatusCode, Json<StackOverview>), Error> {
    Ok((StatusCode::CREATED, Json(control.create_stack(&actor, new).await?)))
}

pub(super) async fn one(
    State(control): State<Control>,
    _actor: Actor,
    Path(stack): Path<String>,
) -> Result<Json<StackDetail>, Error> {
    Ok(Json(control.stack(&named(&stack)?).await?))
}

pub(super) async fn edit(
    State(control): State<Control>,
    actor: Actor,
    Path(stack): Path<String>,
    Read(edit): Read<StackEdit>,
) -> Result<Json<StackOverview>, Error> {
    Ok(Json(control.edit_stack(&actor, &named(&stack)?, edit).await?))
}

pub(super) async fn hold(
    State(control): State<Control>,
    actor: Actor,
    Path(stack): Path<String>,
    Read(Reason { reason }): Read<Reason>,
) -> Result<Json<StackOverview>, Error> {
    Ok(Json(control.hold(&actor, &named(&stack)?, &reason).await?))
}

pub(super) async fn resume(
    State(control): State<Control>,
    actor: Actor,
    Path(stack): Path<String>,
    Read(Reason { reason }): Read<Reason>,
) -> Result<Json<StackOverview>, Error> {
    Ok(Json(control.resume(&actor, &named(&stack)?, &reason).await?))
}

pub(super) async fn service(
    State(control): State<Control>,
    _actor: Actor,
    Path((stack, service)): Path<(String, String)>,
) -> Result<Json<ServiceDetail>, Error> {
    Ok(Json(control.service(&named(&stack)?, &named(&service)?).await?))
}

pub(super) async fn tokens(
    State(control): State<Control>,
    _actor: Actor,
    Path(stack): Path<String>,
) -> Result<Json<Vec<TokenRow>>, Error> {
    Ok(Json(control.tokens(&named(&stack)?).await?))
}

pub(super) async fn create_token(
    State(control): State<Control>,
    actor: Actor,
    Path(stack): Path<String>,
    headers: HeaderMap,
    Read(new): Read<NewToken>,
) -> Result<(StatusCode, Json<TokenMade>), Error> {
    let key = idempotency_key(&headers);
    let made = control.create_token(&actor, &named(&stack)?, new, key.as_deref()).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub(super) async fn revoke_token(
    State(control): State<Control>,
    actor: Actor,
    Path(token): Path<String>,
) -> Result<Json<TokenRow>, Error> {
    Ok(Json(control.revoke_token(&actor, &named(&token)?).await?))
}
