//! Accounts for the command line and for programs: a part of `/api/v1`.

use axum::extract::{Path, State};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::Error;
use super::accounts::{Accounts, ApiTokenMade, ApiTokenRow, EntryLink, NewApiToken, User};
use crate::body::Read;
use crate::core::Actor;
use crate::routes::{Entry, Table};

#[derive(Debug, Clone)]
struct Served {
    accounts: Accounts,
    public_url: String,
}

fn table() -> Table<Served> {
    Table::new()
        .get("/api/v1/users", users)
        .post("/api/v1/users/link", create_link)
        .post("/api/v1/users/logout-all", logout_all)
        .post("/api/v1/users/{name}/password", set_password)
        .get("/api/v1/api-tokens", api_tokens)
        .post("/api/v1/api-tokens", create_api_token)
        .post("/api/v1/api-tokens/{id}/revoke", revoke_api_token)
}

/// What there is to call.
pub fn entries() -> Vec<Entry> {
    table().entries()
}

/// To be put behind whatever says who asks. No API token makes another, nor a password: who steals one gets no more.
pub fn api(accounts: Accounts, public_url: &str) -> Router {
    table().router().with_state(Served { accounts, public_url: public_url.to_owned() })
}

fn only_local(actor: &Actor) -> Result<(), Error> {
    match actor {
        Actor::Local { .. } => Ok(()),
        Actor::User { .. } | Actor::ApiToken { .. } | Actor::Server => Err(Error::OnlyHere),
    }
}

fn only_people(actor: &Actor) -> Result<(), Error> {
    match actor {
        Actor::Local { .. } | Actor::User { .. } => Ok(()),
        Actor::ApiToken { .. } | Actor::Server => Err(Error::OnlyPeople),
    }
}

async fn users(State(served): State<Served>, _actor: Actor) -> Result<Json<Vec<User>>, Error> {
    Ok(Json(served.accounts.users().await?))
}

async fn create_link(State(served): State<Served>, actor: Actor) -> Result<Json<EntryLink>, Error> {
    only_local(&actor)?;
    let link = served.accounts.create_link(&actor).await?;
    Ok(Json(EntryLink { url: format!("{}{}", served.public_url, link.path), ..link }))
}

async fn logout_all(State(served): State<Served>, actor: Actor) -> Result<Json<Value>, Error> {
    only_people(&actor)?;
    Ok(Json(json!({ "ended": served.accounts.logout_all(&actor).await? })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    password: String,
}

async fn set_password(
    State(served): State<Served>,
    actor: Actor,
    Path(name): Path<String>,
    Read(new): Read<NewPassword>,
) -> Result<Json<Value>, Error> {
    only_local(&actor)?;
    let password = Zeroizing::new(new.password);
    served.accounts.set_password(&actor, &name, password.to_string()).await?;
    Ok(Json(json!({})))
}

async fn api_tokens(State(served): State<Served>, _actor: Actor) -> Result<Json<Vec<ApiTokenRow>>, Error> {
    Ok(Json(served.accounts.api_tokens().await?))
}

async fn create_api_token(
    State(served): State<Served>,
    actor: Actor,
    Read(new): Read<NewApiToken>,
) -> Result<Json<ApiTokenMade>, Error> {
    only_people(&actor)?;
    Ok(Json(served.accounts.create_api_token(&actor, new).await?))
}

async fn revoke_api_token(
    State(served): State<Served>,
    actor: Actor,
    Path(id): Path<String>,
) -> Result<Json<Value>, Error> {
    only_people(&actor)?;
    served.accounts.revoke_api_token(&actor, &id).await?;
    Ok(Json(json!({})))
}
