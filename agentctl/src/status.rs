//! `agentctl status`

use std::fmt::Write;

use agentd_protocol::api::{Problem, ServiceState, ServiceStatus, Status, Verdict};
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;
use crate::problem;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this service, with all that is known of why it is not as wanted
    service: Option<String>,
    /// The whole status as one JSON object
    #[arg(long)]
    json: bool,
}

/// Ends with `Degraded` when something is not as the document wants it.
pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let mut status: Status = client.get("/v1/status").await?;
    if let Some(name) = &args.service
        && !narrow(&mut status, name)
    {
        let known: Vec<&str> = status.services.iter().map(|service| service.name.as_str()).collect();
        out.complain(format_args!("agentctl: there is no service `{name}`; there are: {}", known.join(", ")));
        return Ok(Exit::NotFound);
    }
    let text = match args.json {
        true => serde_json::to_string_pretty(&status).expect("a status is plain JSON"),
        false => page(&status, if args.service.is_some() { problem::full } else { problem::short }),
    };
    out.line(text.trim_end());
    Ok(match status.stack.verdict {
        Verdict::Empty | Verdict::Applying | Verdict::Applied => Exit::Ok,
        Verdict::Degraded => Exit::Degraded,
    })
}

/// Leaves what concerns one service, and takes its state for the verdict; `false` when there is none of that name.
fn narrow(status: &mut Status, name: &str) -> bool {
    if status.services.iter().all(|service| service.name.as_str() != name) {
        return false;
    }
    status.services.retain(|service| service.name.as_str() == name);
    status.stack.problems.retain(|problem| problem.service.as_ref().is_some_and(|service| service.as_str() == name));
    let bad = |service: &ServiceStatus| {
        matches!(service.state, ServiceState::Partial | ServiceState::Failing | ServiceState::CrashLoop)
            || service.last_error.is_some()
    };
    if status.stack.verdict == Verdict::Degraded && !status.services.iter().any(bad) {
        status.stack.verdict = Verdict::Applied;
    }
    true
}

fn page(status: &Status, explain: fn(&Problem) -> String) -> String {
    let mut out = String::new();
    let name = status.stack.name.as_ref().map_or("(no stack)", |name| name.as_str());
    let version = status.stack.version.map(|version| format!(" version {version}")).unwrap_or_default();
    line(&mut out, &format!("{name}{version}: {}", word(&status.stack.verdict)));
    if let Some(problem) = &status.stack.file_problem {
        line(&mut out, "  stack file, what was applied last stays in force:");
        for text in problem.lines() {
            line(&mut out, &format!("    {text}"));
        }
    }
    for limitation in &status.limitations {
        line(&mut out, &format!("  note: {limitation}"));
    }
    out.push('\n');
    out.push_str(&table(&status.services));
    for problem in &status.stack.problems {
        out.push_str(&explain(problem));
    }
    out
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a String takes every write");
}

/// The kebab-case word an enum has on the wire.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => String::new(),
    }
}

fn table(services: &[ServiceStatus]) -> String {
    let head = ["SERVICE", "STATE", "RELEASE", "COMMIT", "READY", "RESTARTS", "URL"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    for service in services {
        let release = match (service.release, service.pinned) {
            (Some(release), Some(_)) => format!("{release} (pinned)"),
            (Some(release), None) => release.to_string(),
            (None, _) => "-".to_owned(),
        };
        rows.push(vec![
            service.name.to_string(),
            word(&service.state),
            release,
            service.commit.as_ref().map_or("-", |commit| commit.short()).to_owned(),
            format!("{}/{}", service.ready, service.wanted),
            service.restarts.to_string(),
            service.url.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let mut out = columns(&rows);
    for service in services {
        for warning in &service.warnings {
            line(&mut out, &format!("  {}: {warning}", service.name));
        }
    }
    out
}

/// Left-aligned columns, two spaces apart, no trailing blanks.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        line(&mut out, cells.join("  ").trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let rows = [vec!["A".into(), "LONG".into()], vec!["abc".into(), "x".into()]];
        assert_eq!(columns(&rows), "A    LONG\nabc  x\n");
    }
}
