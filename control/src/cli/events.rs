//! `controld events` and `controld audit`.

use agentd_protocol::exit_code::Exit;
use reqwest::Method;

use super::Error;
use super::client::Client;
use super::options::{Audit, Events, SeverityWord};
use super::out::{Out, time};
use crate::model::{AuditPage, EventPage};

pub(super) async fn events(client: &Client, options: Events, out: &mut Out) -> Result<Exit, Error> {
    let mut query: Vec<(&str, String)> = vec![("limit", options.limit.to_string())];
    if let Some(stack) = &options.stack {
        query.push(("stack", client.stack_id(stack).await?.to_string()));
    }
    if let Some(host) = &options.host {
        query.push(("host", client.host_id(host).await?.to_string()));
    }
    let severity = options.severity.map(|severity| match severity {
        SeverityWord::Info => "info",
        SeverityWord::Warn => "warn",
        SeverityWord::Error => "error",
    });
    query.extend(options.service.map(|service| ("service", service)));
    query.extend(severity.map(|severity| ("severity", severity.to_owned())));
    query.extend(options.kind.map(|kind| ("kind", kind)));
    let query: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
    let request = client.request(Method::GET, &format!("/events?{}", query.join("&")));
    let page: EventPage = client.send(request).await?;
    if out.json(&page) {
        return Ok(Exit::Ok);
    }
    let row = |row: &crate::model::EventRow| {
        let service = row.event.service.as_ref().map(ToString::to_string).unwrap_or_default();
        let (when, kind) = (time(row.event.at_unix_ms), row.event.kind.clone());
        vec![when, row.host_name.clone(), service, kind, row.event.text.clone()]
    };
    // Oldest first, as a log is read.
    let rows: Vec<Vec<String>> = page.events.iter().rev().map(row).collect();
    out.table(&["WHEN", "HOST", "SERVICE", "KIND", "WHAT"], &rows);
    Ok(Exit::Ok)
}

/// For a query: what is no letter, digit or one of `-._` as `%XX` (RFC 3986 §2.1).
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

pub(super) async fn audit(client: &Client, options: Audit, out: &mut Out) -> Result<Exit, Error> {
    let page: AuditPage = client.get(&format!("/audit?limit={}", options.limit)).await?;
    if out.json(&page) {
        return Ok(Exit::Ok);
    }
    let row = |row: &crate::model::AuditRow| {
        let alarm = if row.alarm { "ALARM" } else { "" }.to_owned();
        let (when, detail) = (time(row.at_unix_ms), row.detail.to_string());
        vec![when, alarm, row.actor.clone(), row.action.clone(), row.target.clone(), detail]
    };
    let rows: Vec<Vec<String>> = page.rows.iter().map(row).collect();
    out.table(&["WHEN", "", "BY", "ACTION", "OF", "DETAIL"], &rows);
    Ok(Exit::Ok)
}
