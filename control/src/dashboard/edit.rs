//! What the hosts of a stack should run: saving a draft, publishing it, going back.

use agentd_protocol::control::ids::StackId;
use agentd_protocol::ids::Version;
use axum::extract::{Form, Path, Query, State};
use http::StatusCode;
use serde::Deserialize;

use super::acts::of_the_form;
use super::answer::{Answer, notice, ok, page, see};
use super::frame::{Notice, Section};
use super::looks::{frame, fresh_key, named};
use super::pages::{draft::Page, draft::Typed, draft::seen, versions::Rollback};
use super::routes::Face;
use crate::auth::Viewer;
use crate::core::Error;
use crate::model::{DraftFormat, Publish, Side};

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Did {
    did: Option<String>,
}

pub(crate) async fn draft(
    State(face): State<Face>,
    viewer: Viewer,
    Path(stack): Path<String>,
    Query(did): Query<Did>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    ok(&draft_page(&face, &viewer, &id, Typed::default(), notice(did.did.as_deref())).await?)
}

async fn draft_page(
    face: &Face,
    viewer: &Viewer,
    id: &StackId,
    typed: Typed,
    notice: Option<Notice>,
) -> Result<Page, Error> {
    let (overview, draft) = (face.control.stack(id).await?.overview, face.control.draft(id).await?);
    let preview = if draft.problems.is_empty() { face.control.preview(id).await? } else { None };
    let title = format!("Edit {}", super::text::word(&overview.name));
    let frame = frame(title, Section::Stacks, viewer).noted(notice);
    Ok(Page::of(frame, &overview, (&draft, preview.as_ref()), typed, fresh_key()))
}

#[derive(Deserialize)]
pub(crate) struct DraftForm {
    revision: u64,
    format: DraftFormat,
    text: String,
}

pub(crate) async fn save_draft(
    State(face): State<Face>,
    viewer: Viewer,
    Path(stack): Path<String>,
    Form(form): Form<DraftForm>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    // Forms send CRLF (HTML, "multi-line text"); documents have LF.
    let text = form.text.replace("\r\n", "\n");
    match face.control.save_draft(&viewer.actor(), &id, form.revision, form.format, text.clone()).await {
        Ok(_) => see(&format!("/stacks/{id}/draft"), "saved"),
        Err(error) => {
            let (status, typed) = refused(error, text)?;
            Ok(page(status, &draft_page(&face, &viewer, &id, typed, None).await?))
        }
    }
}

/// Nothing that was typed is lost.
fn refused(error: Error, text: String) -> Result<(StatusCode, Typed), Error> {
    let said = error.to_string();
    match error {
        Error::Revision { found } => {
            let said = format!(
                "somebody else saved revision {found} meanwhile; what you typed stands below and is not saved. Saving again replaces theirs"
            );
            let typed = Typed { text: Some(text), failed: Some(said), ..Typed::default() };
            Ok((StatusCode::CONFLICT, typed))
        }
        Error::Document(problems) => {
            let typed = Typed {
                text: Some(text),
                failed: Some(format!("not saved: {said}")),
                problems: Some(problems),
                ..Typed::default()
            };
            Ok((StatusCode::UNPROCESSABLE_ENTITY, typed))
        }
        other => {
            let (status, said) = of_the_form(other)?;
            Ok((status, Typed { text: Some(text), failed: Some(said), ..Typed::default() }))
        }
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct PublishForm {
    revision: u64,
    reason: String,
    #[serde(default)]
    key: String,
    /// What the branches pointed at when the difference was shown.
    #[serde(default)]
    saw: String,
}

pub(crate) async fn publish(
    State(face): State<Face>,
    viewer: Viewer,
    Path(stack): Path<String>,
    Form(form): Form<PublishForm>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    let key = Some(form.key.as_str()).filter(|key| !key.is_empty());
    let expect =
        seen(&form.saw).ok_or_else(|| Error::BadRequest("load the page again: its form is not ours".to_owned()))?;
    let asked = Publish { reason: form.reason.trim().to_owned(), expect };
    let error = match face.control.publish(&viewer.actor(), &id, form.revision, &asked, key).await {
        Ok(row) => return see(&format!("/stacks/{id}/versions/{}", row.number), "published"),
        Err(error) => error,
    };
    let mut unresolved = None;
    let (status, failed) = match error {
        Error::Revision { .. } => (
            StatusCode::CONFLICT,
            "the draft was saved again meanwhile: look at what would be published now, then publish".to_owned(),
        ),
        Error::Document(_) => (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        Error::Moved(_) => (StatusCode::CONFLICT, format!("{error}. Below is what publishing changes now")),
        Error::Unresolved(problems) => {
            unresolved = Some(problems);
            (
                StatusCode::BAD_GATEWAY,
                "a branch or tag could not be resolved to a commit; each problem says why".to_owned(),
            )
        }
        other => of_the_form(other)?,
    };
    let typed = Typed { reason: form.reason, failed: None, ..Typed::default() };
    let mut shown = draft_page(&face, &viewer, &id, typed, None).await?;
    // The form stays: after a repository that could not be asked, one tries again.
    shown.failed = Some(format!("not published: {failed}"));
    if let Some(problems) = unresolved {
        shown.blame(&problems);
    }
    Ok(page(status, &shown))
}

pub(crate) async fn rollback_page(
    State(face): State<Face>,
    viewer: Viewer,
    Path((stack, version)): Path<(String, String)>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    let to = Version(named(&version, "this version")?);
    ok(&rollback_view(&face, &viewer, &id, to).await?)
}

async fn rollback_view(face: &Face, viewer: &Viewer, id: &StackId, to: Version) -> Result<Rollback, Error> {
    let overview = face.control.stack(id).await?.overview;
    let detail = face.control.version(id, to).await?;
    let diff = face.control.diff(id, Side::Version(overview.version), Side::Version(to)).await?;
    let title = format!("Roll back {} to {to}", super::text::word(&overview.name));
    let frame = frame(title, Section::Stacks, viewer);
    Ok(Rollback::of(frame, &overview, &detail.row, &diff, fresh_key()))
}

#[derive(Debug, Deserialize)]
pub(crate) struct RollbackForm {
    /// The newest version when the difference was shown.
    from: u64,
    reason: String,
    #[serde(default)]
    key: String,
}

pub(crate) async fn rollback(
    State(face): State<Face>,
    viewer: Viewer,
    Path((stack, version)): Path<(String, String)>,
    Form(form): Form<RollbackForm>,
) -> Answer {
    let id: StackId = named(&stack, "this stack")?;
    let to = Version(named(&version, "this version")?);
    let key = Some(form.key.as_str()).filter(|key| !key.is_empty());
    let (newest, reason) = (Some(Version(form.from)), form.reason.trim());
    let (status, failed) = match face.control.rollback(&viewer.actor(), &id, to, newest, reason, key).await {
        Ok(row) => return see(&format!("/stacks/{id}/versions/{}", row.number), "rolled-back"),
        Err(error) => of_the_form(error)?,
    };
    let shown = rollback_view(&face, &viewer, &id, to).await?;
    Ok(page(status, &Rollback { failed: Some(failed), reason: form.reason, ..shown }))
}
