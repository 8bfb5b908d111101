//! `controld stack`.

use std::io::Read;
use std::path::Path;

use agentd_protocol::control::ids::StackId;
use agentd_protocol::exit_code::Exit;
use agentd_protocol::stack::DOCUMENT_BYTES_MAX;
use http::header;
use reqwest::Method;

use super::Error;
use super::client::Client;
use super::options::StackVerb;
use super::out::{Out, time};
use crate::model::*;

/// Read of a file; a document may have half of it.
const READ_BYTES_MAX: u64 = 8 * 1024 * 1024;

pub(super) async fn stack(client: &Client, verb: StackVerb, out: &mut Out) -> Result<Exit, Error> {
    match verb {
        StackVerb::Create { name, environment } => {
            let made: StackOverview = client.post("/stacks", &NewStack { name, environment }).await?;
            if !out.json(&made) {
                out.line(&made.id);
                out.hint(format!("next: controld stack draft {} stack.toml", made.name));
            }
        }
        StackVerb::List => {
            list(client, out).await?;
            let notices: Vec<String> = client.get("/notices").await?;
            notices.into_iter().for_each(|notice| out.complain(notice));
        }
        StackVerb::Show { stack } => show(client, &stack, out).await?,
        StackVerb::Draft { stack, file: None } => {
            let draft: Draft = client.get(&path(client, &stack, "draft").await?).await?;
            if !out.json(&draft) {
                out.text(&draft.text);
                return Ok(told(&draft, out));
            }
        }
        StackVerb::Draft { stack, file: Some(file) } => return save(client, &stack, &file, out).await,
        StackVerb::Diff { stack, from, to } => differences(client, &stack, &from, &to, out).await?,
        StackVerb::Publish { stack, reason } => {
            let id = client.stack_id(&stack).await?;
            let draft: Draft = client.get(&format!("/stacks/{id}/draft")).await?;
            let request = client
                .request(Method::POST, &format!("/stacks/{id}/versions"))
                .header(header::IF_MATCH, format!("\"{}\"", draft.revision))
                .json(&Publish { reason, ..Publish::default() });
            published(&client.send(request).await?, out);
        }
        StackVerb::Versions { stack } => versions(client, &stack, out).await?,
        StackVerb::Rollback { stack, version, reason } => {
            let path = path(client, &stack, &format!("versions/{version}/rollback")).await?;
            published(&client.post(&path, &Reason { reason }).await?, out);
        }
        StackVerb::Hold { stack, reason } => flow(client, &stack, "hold", reason, out).await?,
        StackVerb::Resume { stack, reason } => flow(client, &stack, "resume", reason, out).await?,
    }
    Ok(Exit::Ok)
}

async fn path(client: &Client, stack: &str, rest: &str) -> Result<String, Error> {
    let id: StackId = client.stack_id(stack).await?;
    Ok(format!("/stacks/{id}/{rest}"))
}

async fn flow(client: &Client, stack: &str, verb: &str, reason: String, out: &mut Out) -> Result<(), Error> {
    let overview: StackOverview = client.post(&path(client, stack, verb).await?, &Reason { reason }).await?;
    if !out.json(&overview) {
        out.line(if overview.held { "held: hosts stay at what they run" } else { "hosts take the newest version" });
    }
    Ok(())
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Error> {
    let stacks: Vec<StackOverview> = client.get("/stacks").await?;
    if out.json(&stacks) {
        return Ok(());
    }
    let row = |stack: &StackOverview| {
        vec![
            stack.name.clone(),
            stack.environment.clone(),
            stack.version.to_string(),
            format!("{}/{}", stack.hosts.applied, stack.hosts.active),
            format!("{:?}{}", stack.health, if stack.held { ", held" } else { "" }).to_lowercase(),
            stack.problem.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = stacks.iter().map(row).collect();
    out.table(&["STACK", "ENVIRONMENT", "VERSION", "APPLIED", "HEALTH", "PROBLEM"], &rows);
    Ok(())
}

async fn show(client: &Client, stack: &str, out: &mut Out) -> Result<(), Error> {
    let id = client.stack_id(stack).await?;
    let detail: StackDetail = client.get(&format!("/stacks/{id}")).await?;
    if out.json(&detail) {
        return Ok(());
    }
    let overview = &detail.overview;
    out.line(format!("{}  {}  version {}", overview.name, overview.id, overview.version));
    let hosts: Vec<Vec<String>> = detail.hosts.iter().map(super::host::row).collect();
    out.table(&super::host::HEAD, &hosts);
    let cell = |service: &ServiceRow| {
        // Hosts made these numbers. As many as there are do not fill 64 bits with 32 each.
        let sum = |count: fn(&ServiceCell) -> u32| service.cells.iter().map(|cell| u64::from(count(cell))).sum::<u64>();
        let (ready, wanted) = (sum(|cell| cell.report.ready), sum(|cell| cell.report.wanted));
        let commit = service.published.as_ref().map_or("-", |published| published.commit.short()).to_owned();
        vec![service.name.to_string(), commit, format!("{ready}/{wanted}")]
    };
    let services: Vec<Vec<String>> = detail.services.iter().map(cell).collect();
    out.table(&["SERVICE", "COMMIT", "READY"], &services);
    Ok(())
}

async fn save(client: &Client, stack: &str, file: &Path, out: &mut Out) -> Result<Exit, Error> {
    let failed = |source| Error::Read { path: file.to_owned(), source };
    let mut text = zeroize::Zeroizing::new(String::new());
    if file == Path::new("-") {
        std::io::stdin().take(READ_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    } else {
        let read = |file: std::fs::File| file.take(READ_BYTES_MAX).read_to_string(&mut text);
        std::fs::File::open(file).and_then(read).map_err(failed)?;
    }
    // Here, where it can be said: a server breaks off who sends too much.
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(Error::TooLarge { path: file.to_owned() });
    }
    let is_json = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let media = if is_json { "application/json" } else { "application/toml" };
    let path = path(client, stack, "draft").await?;
    let seen: Draft = client.get(&path).await?;
    let request = client
        .request(Method::PUT, &path)
        .header(header::IF_MATCH, format!("\"{}\"", seen.revision))
        .header(header::CONTENT_TYPE, media)
        .body(text.as_str().to_owned());
    let draft: Draft = client.send(request).await?;
    if out.json(&draft) {
        return Ok(if draft.problems.is_empty() { Exit::Ok } else { Exit::Invalid });
    }
    out.line(format!("saved as revision {}", draft.revision));
    match &draft.diff {
        Some(diff) if diff.is_empty() => {
            out.line("the document is as published; `controld stack diff` asks where branches point now");
        }
        Some(diff) => print_diff(diff, out),
        None => {}
    }
    Ok(told(&draft, out))
}

/// The problems, and what they make of the exit code.
fn told(draft: &Draft, out: &mut Out) -> Exit {
    for problem in &draft.problems {
        out.complain(format!("line {}: {}", problem.line, problem.text));
    }
    if draft.problems.is_empty() { Exit::Ok } else { Exit::Invalid }
}

async fn differences(client: &Client, stack: &str, from: &str, to: &str, out: &mut Out) -> Result<(), Error> {
    let id = client.stack_id(stack).await?;
    if from.is_empty() && to == "draft" {
        return preview(client, &id, out).await;
    }
    let newest = match from {
        "" => client.get::<StackDetail>(&format!("/stacks/{id}")).await?.overview.version.to_string(),
        named => named.to_owned(),
    };
    let diff: Diff = client.get(&format!("/stacks/{id}/diff?from={newest}&to={to}")).await?;
    if !out.json(&diff) {
        print_diff(&diff, out);
    }
    Ok(())
}

/// What publishing now would change, a branch that moved included.
async fn preview(client: &Client, id: &StackId, out: &mut Out) -> Result<(), Error> {
    let preview: Preview = client.get(&format!("/stacks/{id}/preview")).await?;
    let unknown = preview.follows.iter().filter_map(|follows| match &follows.now {
        PointsAt::Commit { .. } => None,
        PointsAt::Unknown { why } => Some((follows, why)),
    });
    let unknown: Vec<String> =
        unknown.map(|(follows, why)| format!("? {} follows {}: {why}", follows.service, follows.reference)).collect();
    if !out.json(&preview.diff) && (unknown.is_empty() || !preview.diff.is_empty()) {
        print_diff(&preview.diff, out);
    }
    for line in unknown {
        out.complain(line);
    }
    Ok(())
}

fn print_diff(diff: &Diff, out: &mut Out) {
    if diff.is_empty() {
        out.line("no difference");
    }
    let side = |text: &Option<String>| text.clone().unwrap_or_else(|| "(none)".to_owned());
    for key in &diff.stack {
        out.line(format!("~ {}: {} -> {}", key.key, side(&key.from), side(&key.to)));
    }
    let sign = |change: Change| match change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Changed => '~',
    };
    for service in &diff.services {
        out.line(format!("{} service {}", sign(service.change), service.name));
        for key in &service.keys {
            out.line(format!("    ~ {}: {} -> {}", key.key, side(&key.from), side(&key.to)));
        }
        for env in &service.env {
            out.line(format!("    {} env {}", sign(env.change), env.name));
        }
    }
}

fn published(row: &VersionRow, out: &mut Out) {
    if !out.json(row) {
        out.line(format!("version {}  sha256 {}", row.number, row.sha256));
        for line in &row.summary {
            out.line(format!("  {line}"));
        }
    }
}

async fn versions(client: &Client, stack: &str, out: &mut Out) -> Result<(), Error> {
    let versions: Vec<VersionRow> = client.get(&path(client, stack, "versions").await?).await?;
    if out.json(&versions) {
        return Ok(());
    }
    let row = |version: &VersionRow| {
        let kind = match version.note {
            VersionKind::Deploy => "deploy".to_owned(),
            VersionKind::Rollback { of } => format!("rollback to {of}"),
        };
        let (when, summary) = (time(version.created_unix_ms), version.summary.join("; "));
        vec![version.number.to_string(), when, kind, version.by.clone(), version.reason.clone(), summary]
    };
    let rows: Vec<Vec<String>> = versions.iter().map(row).collect();
    out.table(&["VERSION", "WHEN", "KIND", "BY", "REASON", "CHANGES"], &rows);
    Ok(())
}
