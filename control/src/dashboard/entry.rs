//! Coming in and going out, and one's own account.

use axum::extract::{Form, Path, Query, Request, State};
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;

use super::answer::{Answer, Refused, notice, ok, page, see};
use super::frame::{Frame, Section};
use super::looks::frame;
use super::pages::{account, entry};
use super::routes::Face;
use crate::auth::{self, Entered, NewApiToken, Scope, Viewer, Visitor};
use crate::clock::now_unix_ms;

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Next {
    next: Option<String>,
}

/// Who knocks: taken from the request before its form is read.
impl<S: Sync> axum::extract::FromRequestParts<S> for Visitor {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut http::request::Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let replaces = parts.extensions.get::<Viewer>().map(|viewer| viewer.session);
        Ok(Self { address: auth::peer(&parts.extensions), agent: agent.to_owned(), replaces })
    }
}

fn outside(title: &str) -> Frame {
    Frame::new(title, Section::Outside, "", now_unix_ms())
}

pub(crate) async fn login_page(State(face): State<Face>, Query(query): Query<Next>, request: Request) -> Answer {
    let next = entry::own_path(query.next.as_deref());
    if request.extensions().get::<Viewer>().is_some() {
        return see(&next, "");
    }
    let failed = face
        .accounts
        .is_new()
        .await?
        .then(|| "this server has no owner yet: open the link it printed when it started".to_owned());
    ok(&entry::Login { frame: outside("Log in"), name: String::new(), next, failed })
}

#[derive(Deserialize)]
pub(crate) struct LoginForm {
    name: String,
    password: String,
    #[serde(default)]
    next: String,
}

pub(crate) async fn login(State(face): State<Face>, visitor: Visitor, Form(form): Form<LoginForm>) -> Answer {
    let next = entry::own_path(Some(&form.next));
    match face.accounts.login(&form.name, form.password, visitor).await {
        Ok(entered) => Ok(come_in(&face, &entered, see(&next, "")?)),
        Err(error) => {
            let (status, retry) = told(&error);
            let shown = entry::Login { frame: outside("Log in"), name: form.name, next, failed: Some(error.said()) };
            Ok(with_retry(page(status, &shown), retry))
        }
    }
}

fn told(error: &auth::Error) -> (StatusCode, Option<u64>) {
    let status = StatusCode::from_u16(error.slug().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, error.retry_after_s())
}

fn with_retry(mut response: Response, retry_s: Option<u64>) -> Response {
    if let Some(seconds) = retry_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn come_in(face: &Face, entered: &Entered, response: Response) -> Response {
    set_cookie(response, &face.transport.begin(&entered.secret))
}

fn set_cookie(mut response: Response, cookie: &str) -> Response {
    let value = HeaderValue::from_str(cookie).expect("base64url and our own words");
    response.headers_mut().append(header::SET_COOKIE, value);
    response
}

pub(crate) async fn logout(State(face): State<Face>, viewer: Viewer) -> Answer {
    face.accounts.logout(&viewer.user, viewer.session).await?;
    Ok(set_cookie(see("/login", "")?, &face.transport.end()))
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct LinkQuery {
    #[serde(default)]
    link: String,
}

pub(crate) async fn set_up_page(State(face): State<Face>, visitor: Visitor, Query(query): Query<LinkQuery>) -> Answer {
    let known = face.accounts.look_at_link(&query.link, &visitor).await?;
    ok(&set_up_view(query.link, known, String::new(), Vec::new()))
}

fn set_up_view(secret: String, known: Option<String>, typed: String, faults: Vec<String>) -> entry::SetUp {
    let (again, name) = (known.is_some(), known.unwrap_or(typed));
    let title = if again { "Set a new password" } else { "Set up" };
    entry::SetUp { frame: outside(title), secret, name, again, faults, chars_min: auth::PASSWORD_CHARS_MIN }
}

#[derive(Deserialize)]
pub(crate) struct SetUpForm {
    link: String,
    name: String,
    password: String,
}

pub(crate) async fn set_up(State(face): State<Face>, visitor: Visitor, Form(form): Form<SetUpForm>) -> Answer {
    let known = face.accounts.users().await?.into_iter().next().map(|user| user.name);
    let name = known.clone().unwrap_or(form.name);
    match face.accounts.enter_by_link(&form.link, &name, form.password, visitor).await {
        Ok(entered) => Ok(come_in(&face, &entered, see("/", "welcome")?)),
        Err(auth::Error::Weak(faults)) => {
            Ok(page(StatusCode::UNPROCESSABLE_ENTITY, &set_up_view(form.link, known, name, faults)))
        }
        Err(error @ auth::Error::Name) => {
            let faults = vec![error.to_string()];
            Ok(page(StatusCode::UNPROCESSABLE_ENTITY, &set_up_view(form.link, known, name, faults)))
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Did {
    did: Option<String>,
}

pub(crate) async fn account(State(face): State<Face>, viewer: Viewer, Query(did): Query<Did>) -> Answer {
    let mut shown = account_view(&face, &viewer).await?;
    shown.frame = shown.frame.noted(notice(did.did.as_deref()));
    ok(&shown)
}

async fn account_view(face: &Face, viewer: &Viewer) -> Result<account::Page, Refused> {
    let sessions = face.accounts.sessions(&viewer.user, viewer.session).await?;
    let tokens = face.accounts.api_tokens().await?;
    Ok(account::Page::of(frame("Account", Section::Account, viewer), &sessions, &tokens))
}

#[derive(Deserialize)]
pub(crate) struct PasswordForm {
    old: String,
    password: String,
}

pub(crate) async fn change_password(
    State(face): State<Face>,
    viewer: Viewer,
    Form(form): Form<PasswordForm>,
) -> Answer {
    let error = match face.accounts.change_password(&viewer.user, form.old, form.password, viewer.session).await {
        Ok(()) => return see("/account", "password"),
        Err(error) => error,
    };
    let (status, retry) = told(&error);
    let mut shown = account_view(&face, &viewer).await?;
    match error {
        auth::Error::Weak(faults) => shown.password_faults = faults,
        auth::Error::Wrong => shown.password_faults = vec!["the password of now is another".to_owned()],
        other => shown.failed = Some(other.said()),
    }
    Ok(with_retry(page(status, &shown), retry))
}

pub(crate) async fn logout_all(State(face): State<Face>, viewer: Viewer) -> Answer {
    face.accounts.logout_all(&viewer.actor()).await?;
    Ok(set_cookie(see("/login", "")?, &face.transport.end()))
}

#[derive(Debug, Deserialize)]
pub(crate) struct ApiTokenForm {
    name: String,
    scope: Scope,
    days: u64,
}

pub(crate) async fn create_api_token(
    State(face): State<Face>,
    viewer: Viewer,
    Form(form): Form<ApiTokenForm>,
) -> Answer {
    let new = NewApiToken { name: form.name, scope: form.scope, days: form.days };
    match face.accounts.create_api_token(&viewer.actor(), new).await {
        Ok(made) => {
            let mut shown = account_view(&face, &viewer).await?;
            shown.made = Some(account::Made { name: super::text::word(&made.row.name), token: made.token });
            ok(&shown)
        }
        Err(error) => {
            let (status, retry) = told(&error);
            let mut shown = account_view(&face, &viewer).await?;
            shown.failed = Some(error.said());
            Ok(with_retry(page(status, &shown), retry))
        }
    }
}

pub(crate) async fn revoke_api_token(State(face): State<Face>, viewer: Viewer, Path(token): Path<String>) -> Answer {
    face.accounts.revoke_api_token(&viewer.actor(), &token).await?;
    see("/account", "revoked")
}
