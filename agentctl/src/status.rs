//! `agentctl status`

use std::fmt::Write;

use agentd_protocol::api::{ProbeOutcome, Problem, ServiceStatus, Status, Verdict};
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The whole status as one JSON object
    #[arg(long)]
    json: bool,
}

/// Ends with `Degraded` when something is not as the document wants it.
pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let status: Status = client.get("/v1/status").await?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&status).expect("a status is plain JSON"),
        false => page(&status),
    };
    out.line(text.trim_end());
    Ok(match status.stack.verdict {
        Verdict::Empty | Verdict::Applying | Verdict::Applied => Exit::Ok,
        Verdict::Degraded => Exit::Degraded,
    })
}

fn page(status: &Status) -> String {
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

fn explain(problem: &Problem) -> String {
    let mut out = String::from("\n");
    let service = problem.service.as_ref().map_or("stack", |name| name.as_str());
    let commit = problem.commit.as_ref().map(|commit| format!(" at {}", commit.short())).unwrap_or_default();
    line(&mut out, &format!("{service}{commit} ({}): {}", word(&problem.phase), problem.cause));
    for probe in &problem.probes {
        line(&mut out, &format!("  probe: {} ({} ms)", outcome(&probe.outcome), probe.latency_ms));
    }
    for text in &problem.log_tail {
        line(&mut out, &format!("  | {text}"));
    }
    out
}

fn outcome(outcome: &ProbeOutcome) -> String {
    match outcome {
        ProbeOutcome::Passed { status: Some(status) } => format!("passed, status {status}"),
        ProbeOutcome::Passed { status: None } => "passed".to_owned(),
        ProbeOutcome::Status { status } => format!("status {status}"),
        ProbeOutcome::Refused => "connection refused".to_owned(),
        ProbeOutcome::TimedOut => "timed out".to_owned(),
        ProbeOutcome::Failed { error } => error.clone(),
    }
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
