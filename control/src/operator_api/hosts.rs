//! Hosts.

use agentd_protocol::control::ids::{HostId, StackId};
use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;

use super::bodies::{Approve, HostEdit, Query, named};
use crate::body::Read;
use crate::core::{Actor, Control, Error};
use crate::model::{HostDetail, HostRow, Reason};

#[derive(Debug, Deserialize)]
pub(super) struct OfStack {
    stack: Option<StackId>,
}

pub(super) async fn list(
    State(control): State<Control>,
    _actor: Actor,
    Query(OfStack { stack }): Query<OfStack>,
) -> Result<Json<Vec<HostRow>>, Error> {
    Ok(Json(control.hosts(stack.as_ref()).await?))
}

pub(super) async fn one(
    State(control): State<Control>,
    _actor: Actor,
    Path(host): Path<String>,
) -> Result<Json<HostDetail>, Error> {
    Ok(Json(control.host(&named(&host)?).await?))
}

pub(super) async fn edit(
    State(control): State<Control>,
    actor: Actor,
    Path(host): Path<String>,
    Read(HostEdit { name, labels }): Read<HostEdit>,
) -> Result<Json<HostRow>, Error> {
    let id: HostId = named(&host)?;
    if let Some(name) = name {
        control.rename_host(&actor, &id, &name).await?;
    }
    if let Some(labels) = labels {
        control.label_host(&actor, &id, labels).await?;
    }
    Ok(Json(control.host(&id).await?.row))
}

pub(super) async fn approve(
    State(control): State<Control>,
    actor: Actor,
    Path(host): Path<String>,
    Read(Approve { code }): Read<Approve>,
) -> Result<Json<HostRow>, Error> {
    Ok(Json(control.approve_host(&actor, &named(&host)?, &code).await?))
}

pub(super) async fn revoke(
    State(control): State<Control>,
    actor: Actor,
    Path(host): Path<String>,
    Read(Reason { reason }): Read<Reason>,
) -> Result<Json<HostRow>, Error> {
    Ok(Json(control.revoke_host(&actor, &named(&host)?, &reason).await?))
}

pub(super) async fn clear_conflict(
    State(control): State<Control>,
    actor: Actor,
    Path(host): Path<String>,
) -> Result<Json<HostRow>, Error> {
    Ok(Json(control.clear_conflict(&actor, &named(&host)?).await?))
}
