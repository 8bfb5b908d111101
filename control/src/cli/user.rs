//! `controld user`.

use std::io::{BufRead, IsTerminal};

use agentd_protocol::exit_code::Exit;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::Error;
use super::client::Client;
use super::options::{ApiTokenVerb, UserVerb};
use super::out::{Out, time};
use crate::auth::{ApiTokenMade, ApiTokenRow, EntryLink, NewApiToken, Scope, User};

pub(super) async fn user(client: &Client, verb: UserVerb, out: &mut Out) -> Result<Exit, Error> {
    match verb {
        UserVerb::CreateLink => {
            let link: EntryLink = client.post("/users/link", &json!({})).await?;
            if !out.json(&link) {
                out.line(&link.url);
                out.hint(format!("It works once, until {}; earlier links lead nowhere.", time(link.expires_unix_ms)));
            }
        }
        UserVerb::List => {
            let users: Vec<User> = client.get("/users").await?;
            if !out.json(&users) {
                let rows: Vec<Vec<String>> = users.into_iter().map(|user| vec![user.name, user.id]).collect();
                out.table(&["NAME", "ID"], &rows);
            }
        }
        UserVerb::Passwd { name } => {
            let password = read_password(out)?;
            let done: Value =
                client.post(&format!("/users/{name}/password"), &json!({"password": password.as_str()})).await?;
            if !out.json(&done) {
                out.line(format!("the password of {name} is set, and every session has ended"));
            }
        }
        UserVerb::LogoutAll => {
            let done: Value = client.post("/users/logout-all", &json!({})).await?;
            if !out.json(&done) {
                out.line(format!("{} sessions ended", done["ended"]));
            }
        }
        UserVerb::Token(verb) => token(client, verb, out).await?,
    }
    Ok(Exit::Ok)
}

async fn token(client: &Client, verb: ApiTokenVerb, out: &mut Out) -> Result<(), Error> {
    match verb {
        ApiTokenVerb::Create { name, write, days } => {
            let new = NewApiToken { name, scope: if write { Scope::Write } else { Scope::Read }, days };
            let made: ApiTokenMade = client.post("/api-tokens", &new).await?;
            if !out.json(&made) {
                out.line(&made.token);
                out.hint(format!(
                    "{} lasts until {}. It is a secret, and is not shown again.",
                    made.row.id,
                    time(made.row.expires_unix_ms)
                ));
            }
        }
        ApiTokenVerb::List => {
            let rows: Vec<ApiTokenRow> = client.get("/api-tokens").await?;
            if !out.json(&rows) {
                let row = |row: &ApiTokenRow| {
                    let over = row.over(crate::clock::now_unix_ms()).unwrap_or("open").to_owned();
                    let seen = row.seen_unix_ms.map_or_else(|| "never".to_owned(), time);
                    vec![
                        row.id.clone(),
                        row.name.clone(),
                        row.scope.word().to_owned(),
                        over,
                        time(row.expires_unix_ms),
                        seen,
                    ]
                };
                let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
                out.table(&["TOKEN", "NAME", "MAY", "STATE", "EXPIRES", "LAST USED"], &rows);
            }
        }
        ApiTokenVerb::Revoke { id } => {
            let done: Value = client.post(&format!("/api-tokens/{id}/revoke"), &json!({})).await?;
            if !out.json(&done) {
                out.line(format!("{id} is revoked"));
            }
        }
    }
    Ok(())
}

/// One line; a terminal does not show it.
fn read_password(out: &mut Out) -> Result<Zeroizing<String>, Error> {
    let stdin = std::io::stdin();
    let shown = if stdin.is_terminal() { tcgetattr(&stdin).ok() } else { None };
    if let Some(shown) = &shown {
        out.complain("New password:");
        let mut hidden = shown.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSANOW, &hidden).map_err(|error| Error::Output(error.into()))?;
    }
    let mut line = Zeroizing::new(String::new());
    let read = stdin.lock().read_line(&mut line);
    if let Some(shown) = &shown {
        tcsetattr(&stdin, SetArg::TCSANOW, shown).map_err(|error| Error::Output(error.into()))?;
    }
    read.map_err(|source| Error::Read { path: "standard input".into(), source })?;
    Ok(Zeroizing::new(line.trim_end_matches(['\n', '\r']).to_owned()))
}
