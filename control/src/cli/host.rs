//! `controld host`.

use agentd_protocol::exit_code::Exit;
use reqwest::Method;

use super::Error;
use super::client::Client;
use super::options::HostVerb;
use super::out::{Out, time};
use crate::model::{HostDetail, HostRow, Presence, Reason, Rollout, Standing};
use crate::operator_api::{Approve, HostEdit};

pub(super) async fn host(client: &Client, verb: HostVerb, out: &mut Out) -> Result<Exit, Error> {
    let changed: HostRow = match verb {
        HostVerb::List { stack } => {
            let path = match stack {
                None => "/hosts".to_owned(),
                Some(stack) => format!("/hosts?stack={}", client.stack_id(&stack).await?),
            };
            let hosts: Vec<HostRow> = client.get(&path).await?;
            if !out.json(&hosts) {
                let rows: Vec<Vec<String>> = hosts.iter().map(row).collect();
                out.table(&HEAD, &rows);
            }
            return Ok(Exit::Ok);
        }
        HostVerb::Show { host } => {
            let id = client.host_id(&host).await?;
            let detail: HostDetail = client.get(&format!("/hosts/{id}")).await?;
            if !out.json(&detail) {
                show(&detail, out);
            }
            return Ok(Exit::Ok);
        }
        HostVerb::Approve { host, code } => {
            let id = client.host_id(&host).await?;
            client.post(&format!("/hosts/{id}/approve"), &Approve { code }).await?
        }
        HostVerb::Rename { host, name } => {
            let id = client.host_id(&host).await?;
            let edit = HostEdit { name: Some(name), labels: None };
            client.send(client.request(Method::PATCH, &format!("/hosts/{id}")).json(&edit)).await?
        }
        HostVerb::ClearConflict { host } => {
            let id = client.host_id(&host).await?;
            client.post(&format!("/hosts/{id}/clear-conflict"), &serde_json::json!({})).await?
        }
        HostVerb::Revoke { host, reason } => {
            let id = client.host_id(&host).await?;
            client.post(&format!("/hosts/{id}/revoke"), &Reason { reason }).await?
        }
    };
    if !out.json(&changed) {
        out.table(&HEAD, &[row(&changed)]);
    }
    Ok(Exit::Ok)
}

pub(super) const HEAD: [&str; 7] = ["HOST", "ID", "STATE", "ROLLOUT", "APPLIED", "READY", "PROBLEM"];

pub(super) fn row(host: &HostRow) -> Vec<String> {
    let state = match (&host.standing, host.presence) {
        (Standing::Pending { code }, _) => format!("waits for approval, {code}"),
        (Standing::Revoked { .. }, _) => "revoked".to_owned(),
        (Standing::Active, Presence::NeverReported) => "never reported".to_owned(),
        (Standing::Active, Presence::Reporting { .. }) => "reports".to_owned(),
        (Standing::Active, Presence::Silent { since_unix_ms }) => format!("silent since {}", time(since_unix_ms)),
    };
    let rollout = match &host.rollout {
        Rollout::NothingPublished => "nothing published",
        Rollout::Applied => "applied",
        Rollout::Behind => "behind",
        Rollout::Held => "held",
        Rollout::Ahead => "ahead",
        Rollout::Refused { .. } => "refused",
    };
    vec![
        host.name.clone(),
        host.id.to_string(),
        state,
        rollout.to_owned(),
        host.applied.to_string(),
        format!("{}/{}", host.services_ready, host.services),
        host.problem.clone().unwrap_or_default(),
    ]
}

fn show(detail: &HostDetail, out: &mut Out) {
    out.table(&HEAD, &[row(&detail.row)]);
    out.line(format!("stack {}, {} {}, agent {}", detail.row.stack_name, detail.os, detail.arch, detail.row.agent));
    out.line(format!("enrolled {}, key {}", time(detail.enrolled_unix_ms), detail.key_id));
    let Some(snapshot) = &detail.snapshot else { return };
    let service = |service: &agentd_protocol::control::report::ServiceReport| {
        vec![
            service.name.to_string(),
            format!("{:?}", service.state).to_lowercase(),
            service.commit.as_ref().map_or("-", |commit| commit.short()).to_owned(),
            format!("{}/{}", service.ready, service.wanted),
            service.restarts.to_string(),
            service.last_error.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = snapshot.services.iter().map(service).collect();
    out.table(&["SERVICE", "STATE", "COMMIT", "READY", "RESTARTS", "LAST ERROR"], &rows);
}
