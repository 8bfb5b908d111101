//! How a page becomes an answer, and what is said when there is none.

use agentd_protocol::control::problem::Slug;
use askama::Template;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Redirect, Response};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};

use super::frame::{Frame, Notice, Section};
use super::pages::{entry, failure};
use super::status::Tone;
use crate::auth::{self, Viewer};
use crate::clock::now_unix_ms;
use crate::core;

/// A request that has no page for an answer.
#[derive(Debug)]
pub enum Refused {
    Core(core::Error),
    Auth(auth::Error),
    /// Nobody is logged in: off to the login, and back to this page.
    Login {
        next: String,
    },
}

impl From<core::Error> for Refused {
    fn from(error: core::Error) -> Self {
        Self::Core(error)
    }
}

impl From<auth::Error> for Refused {
    fn from(error: auth::Error) -> Self {
        Self::Auth(error)
    }
}

pub(crate) type Answer = Result<Response, Refused>;

pub(crate) fn page(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

pub(crate) fn ok(template: &impl Template) -> Answer {
    Ok(page(StatusCode::OK, template))
}

/// To a page of ours, by GET; `did`: what that page is to say first, a word of [`notice`].
pub(crate) fn see(path: &str, did: &str) -> Answer {
    let sign = if path.contains('?') { '&' } else { '?' };
    let to = if did.is_empty() { path.to_owned() } else { format!("{path}{sign}did={did}") };
    Ok(Redirect::to(&to).into_response())
}

/// Fixed words alone: an address that somebody prepared cannot put words into our mouth.
pub(crate) fn notice(did: Option<&str>) -> Option<Notice> {
    let good = |text: &str| Some(Notice { tone: Tone::Good, text: text.to_owned() });
    match did? {
        "created" => good("The stack is made."),
        "saved" => good("Saved."),
        "published" => good("Published. Hosts are told now."),
        "rolled-back" => good("Published with the older content. Hosts are told now."),
        "held" => good("On hold: hosts stay at what they run."),
        "resumed" => good("Resumed: hosts take the newest version."),
        "approved" => good("Let in. The host gets its versions now."),
        "renamed" => good("Renamed."),
        "labelled" => good("Labels saved."),
        "cleared" => good("Cleared. Should two machines still use its key, it shows again."),
        "revoked" => good("Revoked."),
        "password" => good("The password is changed; every other session has ended."),
        "welcome" => good("Welcome. Make a stack first; then a token for its first host."),
        _ => None,
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (slug, detail, retry) = match &self {
            Self::Login { next } => {
                let coded = askama::filters::urlencode_strict(next.as_str()).map(|coded| coded.to_string());
                let Ok(coded) = coded;
                return Redirect::to(&format!("/login?next={coded}")).into_response();
            }
            Self::Core(error) => {
                if matches!(error, core::Error::Store(_) | core::Error::Seal(_)) {
                    tracing::error!(error = agentd_sys::causes::chain(error), "a page could not be shown");
                }
                (error.slug(), error.problem().detail, error.retry_after_s())
            }
            Self::Auth(error) => (error.slug(), error.said(), error.retry_after_s()),
        };
        failed(slug, detail, retry)
    }
}

pub(crate) fn failed(slug: Slug, detail: String, retry_after_s: Option<u64>) -> Response {
    let status = StatusCode::from_u16(slug.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let frame = Frame::new(slug.title(), Section::Outside, "", now_unix_ms());
    let template =
        failure::Page { frame, status: slug.status(), title: slug.title(), detail: super::text::sentence(&detail) };
    let mut response = page(status, &template);
    if let Some(seconds) = retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

impl<S: Sync> FromRequestParts<S> for Viewer {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refused> {
        let here = parts.uri.path_and_query().map(|path| path.as_str());
        // A form that was sent after the session's end cannot be sent again by a redirect.
        let next = entry::own_path(here.filter(|_| parts.method == Method::GET));
        parts.extensions.get::<Self>().cloned().ok_or(Refused::Login { next })
    }
}
