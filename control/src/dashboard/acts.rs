//! Forms that do something to a stack, a token or a host, and then lead to the page that shows it.

use std::collections::BTreeMap;

use agentd_protocol::control::ids::{HostId, StackId, TokenId};
use axum::extract::{Form, Path, State};
use http::StatusCode;
use serde::Deserialize;

use super::answer::{Answer, page, see};
use super::frame::Section;
use super::looks::{frame, host_page, join_page, named};
use super::pages;
use super::routes::Face;
use crate::auth::Viewer;
use crate::core::Error;
use crate::model::{Approval, NewStack, NewToken};

/// Longest life of a token that a form asks for, seconds.
const TTL_SECS_MAX: u64 = 7 * 86_400;
const NOT_LABELS: &str = "labels are key=value, separated by commas";

/// What a form is told that could not be done as it stands; other failures have a page of their own.
pub(crate) fn of_the_form(error: Error) -> Result<(StatusCode, String), Error> {
    match error {
        Error::BadRequest(_) | Error::Conflict(_) | Error::RateLimited { .. } | Error::Overloaded => {
            let status = StatusCode::from_u16(error.slug().status()).unwrap_or(StatusCode::BAD_REQUEST);
            Ok((status, super::text::sentence(&error.to_string())))
        }
        other => Err(other),
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct StackForm {
    name: String,
    #[serde(default)]
    environment: String,
}

pub(crate) async fn create_stack(State(face): State<Face>, viewer: Viewer, Form(form): Form<StackForm>) -> Answer {
    let new = NewStack { name: form.name.trim().to_owned(), environment: form.environment.trim().to_owned() };
    match face.control.create_stack(&viewer.actor(), new).await {
        Ok(stack) => see(&format!("/stacks/{}/draft", stack.id), "created"),
        Err(error) => {
            let (status, said) = of_the_form(error)?;
            let frame = frame("Stacks", Section::Stacks, &viewer).live("/");
            Ok(page(status, &pages::stacks::Page::of(frame, face.control.stacks().await?, Some(said))))
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReasonForm {
    reason: String,
}

pub(crate) async fn hold(
    State(face): State<Face>,
    viewer: Viewer,
    Path(stack): Path<String>,
    Form(form): Form<ReasonForm>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    face.control.hold(&viewer.actor(), &id, form.reason.trim()).await?;
    see(&format!("/stacks/{id}"), "held")
}

pub(crate) async fn resume(
    State(face): State<Face>,
    viewer: Viewer,
    Path(stack): Path<String>,
    Form(form): Form<ReasonForm>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    face.control.resume(&viewer.actor(), &id, form.reason.trim()).await?;
    see(&format!("/stacks/{id}"), "resumed")
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenForm {
    note: String,
    labels: String,
    ttl_s: Option<u64>,
    approval: String,
    key: String,
}

/// The one answer of a POST that is no redirect: what it shows is kept nowhere.
pub(crate) async fn create_token(
    State(face): State<Face>,
    viewer: Viewer,
    Path(stack): Path<String>,
    Form(form): Form<TokenForm>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    let Some(labels) = read_labels(&form.labels) else {
        let shown = join_page(&face, &viewer, &id, None).await?;
        let failed = Some(NOT_LABELS.to_owned());
        return Ok(page(StatusCode::BAD_REQUEST, &pages::join::Page { failed, ..shown }));
    };
    let new = NewToken {
        note: form.note.trim().to_owned(),
        labels,
        approval: if form.approval == "person" { Approval::Person } else { Approval::None },
        ttl_s: form.ttl_s.map(|ttl_s| ttl_s.min(TTL_SECS_MAX)),
    };
    let key = Some(form.key.as_str()).filter(|key| !key.is_empty());
    match face.control.create_token(&viewer.actor(), &id, new, key).await {
        Ok(made) => Ok(page(StatusCode::OK, &join_page(&face, &viewer, &id, Some(&made)).await?)),
        Err(error) => {
            let (status, said) = of_the_form(error)?;
            let shown = join_page(&face, &viewer, &id, None).await?;
            Ok(page(status, &pages::join::Page { failed: Some(said), ..shown }))
        }
    }
}

pub(crate) async fn revoke_token(
    State(face): State<Face>,
    viewer: Viewer,
    Path((stack, token)): Path<(String, String)>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    let token: TokenId = named(&token, "this token")?;
    face.control.revoke_token(&viewer.actor(), &token).await?;
    see(&format!("/stacks/{id}/join"), "revoked")
}

#[derive(Debug, Deserialize)]
pub(crate) struct ApproveForm {
    code: String,
    /// The stack whose page the form stood on; anything else: the host's own.
    #[serde(default)]
    back: String,
}

pub(crate) async fn approve(
    State(face): State<Face>,
    viewer: Viewer,
    Path(host): Path<String>,
    Form(form): Form<ApproveForm>,
) -> Answer {
    let id: HostId = named(&host, "this host")?;
    let back =
        form.back.parse::<StackId>().map_or_else(|_| format!("/hosts/{id}"), |stack| format!("/stacks/{stack}/join"));
    match face.control.approve_host(&viewer.actor(), &id, &form.code.trim().to_uppercase()).await {
        Ok(_) => see(&back, "approved"),
        Err(error) => refused_host(&face, &viewer, &id, error).await,
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct NameForm {
    name: String,
}

pub(crate) async fn rename(
    State(face): State<Face>,
    viewer: Viewer,
    Path(host): Path<String>,
    Form(form): Form<NameForm>,
) -> Answer {
    let id: HostId = named(&host, "this host")?;
    match face.control.rename_host(&viewer.actor(), &id, form.name.trim()).await {
        Ok(_) => see(&format!("/hosts/{id}"), "renamed"),
        Err(error) => refused_host(&face, &viewer, &id, error).await,
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct LabelsForm {
    labels: String,
}

pub(crate) async fn label(
    State(face): State<Face>,
    viewer: Viewer,
    Path(host): Path<String>,
    Form(form): Form<LabelsForm>,
) -> Answer {
    let id: HostId = named(&host, "this host")?;
    let done = match read_labels(&form.labels) {
        Some(labels) => face.control.label_host(&viewer.actor(), &id, labels).await,
        None => Err(Error::BadRequest(NOT_LABELS.to_owned())),
    };
    match done {
        Ok(_) => see(&format!("/hosts/{id}"), "labelled"),
        Err(error) => refused_host(&face, &viewer, &id, error).await,
    }
}

fn read_labels(text: &str) -> Option<BTreeMap<String, String>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| pair.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
    pairs.map(pair).collect()
}

pub(crate) async fn clear_conflict(State(face): State<Face>, viewer: Viewer, Path(host): Path<String>) -> Answer {
    let id: HostId = named(&host, "this host")?;
    match face.control.clear_conflict(&viewer.actor(), &id).await {
        Ok(_) => see(&format!("/hosts/{id}"), "cleared"),
        Err(error) => refused_host(&face, &viewer, &id, error).await,
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct RevokeForm {
    reason: String,
    /// Typed by a person who means this host.
    name: String,
}

pub(crate) async fn revoke(
    State(face): State<Face>,
    viewer: Viewer,
    Path(host): Path<String>,
    Form(form): Form<RevokeForm>,
) -> Answer {
    let id: HostId = named(&host, "this host")?;
    let known = face.control.host(&id).await?.row.name;
    // As the page showed it: a host may have named itself with what no keyboard has.
    if form.name.trim() != super::text::word(&known).trim() {
        let error = Error::BadRequest("the name is not this host's; nothing was done".to_owned());
        return refused_host(&face, &viewer, &id, error).await;
    }
    face.control.revoke_host(&viewer.actor(), &id, form.reason.trim()).await?;
    see(&format!("/hosts/{id}"), "revoked")
}

async fn refused_host(face: &Face, viewer: &Viewer, id: &HostId, error: Error) -> Answer {
    let (status, said) = of_the_form(error)?;
    Ok(page(status, &host_page(face, viewer, id, None, Some(said)).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs() {
        let labels = read_labels(" role=web, zone = a ,").unwrap();
        assert_eq!((labels["role"].as_str(), labels["zone"].as_str(), labels.len()), ("web", "a", 2));
        assert_eq!(read_labels("role"), None);
        assert_eq!(read_labels(""), Some(BTreeMap::new()));
    }
}
