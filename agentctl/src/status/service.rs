//! One service in detail (pure).

use agentd_protocol::api::{InstanceStatus, ServiceStatus, Status};

use super::page::style;
use super::word;
use crate::problem;
use crate::screen::{Line, Screen, Style};
use crate::table::{Cell, Narrow, table};
use crate::words::{ago, bytes, compact, harmless, percent, span};

const HEAD: [&str; 11] =
    ["INSTANCE", "RELEASE", "PHASE", "READY", "PID", "PORT", "RESTARTS", "UP", "CPU", "MEM", "LAST EXIT"];
/// LAST EXIT is cut; RELEASE, PHASE and RESTARTS may go.
const NARROW: Narrow = Narrow { cut: 1, dropped: &[1, 2, 6] };

pub(super) fn page(status: &Status, service: &ServiceStatus, screen: Screen) -> Vec<Line> {
    let now = status.at_unix_ms;
    let held = span(now.saturating_sub(service.since_unix_ms));
    let ready = format!(" for {held}, {} of {} ready", service.ready, service.wanted);
    let mut lines = vec![
        Line::new(Style::Strong, format!("{}: ", service.name))
            .with(style(service), word(&service.state))
            .with(Style::Plain, ready),
    ];
    lines.extend(
        facts(service, now)
            .into_iter()
            .map(|(name, text)| Line::new(Style::Dim, format!("  {name:<11} ")).with(Style::Plain, text)),
    );
    if !service.instances.is_empty() {
        lines.push(Line::default());
        lines.extend(table(HEAD, service.instances.iter().map(|one| row(one, now)).collect(), NARROW, screen));
        lines.extend(service.instances.iter().map(|one| Line::from(format!("  {} logs to {}", one.id, one.log_dir))));
    }
    if !service.warnings.is_empty() {
        lines.push(Line::default());
        lines.extend(service.warnings.iter().map(|text| Line::new(Style::Busy, format!("warning: {text}"))));
    }
    for problem in status.stack.problems.iter().filter(|problem| problem.service.as_ref() == Some(&service.name)) {
        lines.push(Line::default());
        lines.extend(problem::full(problem, now));
    }
    lines
}

fn facts(service: &ServiceStatus, now: u64) -> Vec<(&'static str, String)> {
    let release = service.release.map(|release| {
        let commit = service.commit.as_ref().map(|commit| format!(" at commit {commit}")).unwrap_or_default();
        format!("{release}{commit}")
    });
    let pinned = service.pinned.map(|release| {
        format!("to release {release} by a rollback; `agentctl unpin {}` follows the stack file again", service.name)
    });
    let error = service.last_error.as_ref().map(|error| match service.last_error_unix_ms {
        Some(at) => format!("{} ({})", harmless(error), ago(now, at)),
        None => harmless(error),
    });
    let facts = [
        ("release", release),
        ("pinned", pinned),
        ("url", service.url.clone()),
        ("by name", service.internal_url.clone()),
        ("restarts", Some(format!("{} that nobody asked for", service.restarts))),
        ("cpu", service.cpu_millicores.map(|used| format!("{} of one CPU", percent(used)))),
        ("memory", service.memory_bytes.map(bytes)),
        ("error", error),
    ];
    facts.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
}

fn row(instance: &InstanceStatus, now: u64) -> [Cell; 11] {
    let exit = instance.last_exit.as_ref().map(|exit| match instance.last_exit_unix_ms {
        Some(at) => format!("{exit}, {}", ago(now, at)),
        None => exit.clone(),
    });
    let (ready, style) = if instance.ready { ("yes", Style::Good) } else { ("no", Style::Bad) };
    [
        instance.id.as_str().into(),
        instance.release.to_string().into(),
        instance.phase.as_str().into(),
        Cell::new(style, ready),
        instance.pid.map(|pid| pid.to_string()).unwrap_or_default().into(),
        instance.port.map(|port| port.to_string()).unwrap_or_default().into(),
        instance.restarts.to_string().into(),
        instance.started_unix_ms.map(|at| compact(now.saturating_sub(at))).unwrap_or_default().into(),
        instance.cpu_millicores.map(percent).unwrap_or_default().into(),
        instance.memory_bytes.map(bytes).unwrap_or_default().into(),
        exit.unwrap_or_default().into(),
    ]
}
