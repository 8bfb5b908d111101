//! `controld token`.

use std::collections::BTreeMap;

use agentd_protocol::exit_code::Exit;

use super::Error;
use super::client::Client;
use super::options::TokenVerb;
use super::out::{Out, time};
use crate::model::{Approval, NewToken, TokenMade, TokenRow, TokenState};

pub(super) async fn token(client: &Client, verb: TokenVerb, out: &mut Out) -> Result<Exit, Error> {
    match verb {
        TokenVerb::Create { stack, note, ttl, approval, label } => {
            let id = client.stack_id(&stack).await?;
            let pair = |text: &String| match text.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => (text.clone(), String::new()),
            };
            let labels: BTreeMap<String, String> = label.iter().map(pair).collect();
            let approval = if approval { Approval::Person } else { Approval::None };
            let new = NewToken { note, labels, approval, ttl_s: ttl };
            let made: TokenMade = client.post(&format!("/stacks/{id}/tokens"), &new).await?;
            if !out.json(&made) {
                show(&made, out);
            }
        }
        TokenVerb::List { stack } => {
            let id = client.stack_id(&stack).await?;
            let tokens: Vec<TokenRow> = client.get(&format!("/stacks/{id}/tokens")).await?;
            if !out.json(&tokens) {
                let rows: Vec<Vec<String>> = tokens.iter().map(row).collect();
                out.table(&["TOKEN", "STATE", "EXPIRES", "BY", "NOTE"], &rows);
            }
        }
        TokenVerb::Revoke { token } => {
            let row: TokenRow = client.post(&format!("/tokens/{token}/revoke"), &serde_json::json!({})).await?;
            if !out.json(&row) {
                out.line(format!("{} is revoked", row.id));
            }
        }
    }
    Ok(Exit::Ok)
}

/// A pipe gets the join string and nothing else.
fn show(made: &TokenMade, out: &mut Out) {
    if !Out::is_terminal() {
        out.line(&made.join);
        return;
    }
    out.line("On the host, once, and not later than ".to_owned() + &time(made.token.expires_unix_ms) + ":");
    out.line("");
    out.line(format!("  {}", made.command));
    out.line("");
    let allow = if made.warning.is_some() { " --allow-plain-http" } else { "" };
    out.line(format!("or, where agentd is installed: `sudo agentd join -{allow}`, and paste"));
    out.line("");
    out.line(format!("  {}", made.join));
    out.line("");
    out.line("It is a secret, and is not shown again.");
    if let Some(warning) = &made.warning {
        out.line(warning);
    }
}

fn row(token: &TokenRow) -> Vec<String> {
    let state = match &token.state {
        TokenState::Open => "open".to_owned(),
        TokenState::Used { by, at_unix_ms } => format!("used by {by} {}", time(*at_unix_ms)),
        TokenState::Expired => "expired".to_owned(),
        TokenState::Revoked { .. } => "revoked".to_owned(),
    };
    vec![token.id.to_string(), state, time(token.expires_unix_ms), token.by.clone(), token.note.clone()]
}
