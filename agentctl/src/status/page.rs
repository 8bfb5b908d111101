//! The whole stack on a page (pure): the verdict in a sentence, a line for each service, and what explains the rest.

use agentd_protocol::api::{Host, SecurityBrief, ServiceState, ServiceStatus, Status, Verdict};

use super::{is_troubled, word};
use crate::problem::{self, subject};
use crate::screen::{Line, Screen, Style};
use crate::table::{Cell, Narrow, table};
use crate::words::{ago, bytes, compact, harmless, many, percent, span};

const HEAD: [&str; 11] =
    ["SERVICE", "STATE", "RELEASE", "COMMIT", "READY", "RESTARTS", "SINCE", "CPU", "MEM", "URL", "LAST ERROR"];
/// URL and LAST ERROR are cut; LAST ERROR (told below, too), COMMIT, SINCE and RELEASE may go.
const NARROW: Narrow = Narrow { cut: 2, dropped: &[10, 3, 6, 2] };

pub(super) fn page(status: &Status, screen: Screen) -> Vec<Line> {
    let mut lines = vec![verdict(status)];
    if let Some(problem) = &status.stack.file_problem {
        lines.push("  stack file, what was applied last stays in force:".into());
        lines.extend(problem.lines().map(|text| Line::from(format!("    {}", harmless(text)))));
    }
    if !status.services.is_empty() {
        lines.push(Line::default());
        let rows = status.services.iter().map(|service| row(service, status.at_unix_ms)).collect();
        lines.extend(table(HEAD, rows, NARROW, screen));
    }
    for service in &status.services {
        lines.extend(service.warnings.iter().map(|text| Line::from(format!("  {}: {text}", service.name))));
    }
    lines.extend(troubles(status));
    for problem in &status.stack.problems {
        lines.push(Line::default());
        lines.extend(problem::short(problem, status.at_unix_ms));
    }
    if let Some(control) = &status.control {
        lines.push(Line::default());
        lines.extend(super::control::lines(control, status.at_unix_ms));
    }
    if let Some(tunnel) = &status.tunnel {
        lines.push(Line::default());
        lines.extend(super::tunnel::lines(tunnel, status.at_unix_ms));
    }
    lines.push(Line::default());
    lines.extend(status.security.as_ref().map(security));
    lines.extend(status.limitations.iter().map(|text| Line::new(Style::Dim, format!("note: {text}"))));
    lines.extend(status.host.as_ref().map(|host| Line::new(Style::Dim, host_line(host))));
    lines
}

fn security(security: &SecurityBrief) -> Line {
    let said = format!("security: {}, exposure {} ({})", security.mode, security.exposure, security.enforcement);
    match &security.notice {
        None => Line::new(Style::Dim, said),
        Some(notice) => Line::from(said).with(Style::Busy, format!("; {}", harmless(notice))),
    }
}

fn verdict(status: &Status) -> Line {
    let stack = &status.stack;
    let name = stack.name.as_ref().map_or("(no stack)", |name| name.as_str());
    let version = stack.version.map(|version| format!(" version {version}")).unwrap_or_default();
    let held = stack.since_unix_ms.map(|since| span(status.at_unix_ms.saturating_sub(since)));
    let (style, said) = match stack.verdict {
        Verdict::Empty if status.control.is_some() => {
            (Style::Plain, "; the control server has published nothing that was applied yet".to_owned())
        }
        Verdict::Empty => (Style::Plain, "; no stack file has been applied yet".to_owned()),
        Verdict::Applying => {
            let held = held.map(|held| format!(" for {held}")).unwrap_or_default();
            (Style::Busy, format!("{held}: {}", doing(&status.services)))
        }
        Verdict::Applied => {
            let held = held.map(|held| format!(", for {held}")).unwrap_or_default();
            (Style::Good, format!(", {}{held}", as_wanted(&status.services)))
        }
        Verdict::Degraded => {
            let held = held.map(|held| format!(" for {held}")).unwrap_or_default();
            (Style::Bad, format!("{held}: {}", wrong(status)))
        }
    };
    Line::new(Style::Strong, format!("{name}{version}: ")).with(style, word(&stack.verdict)).with(Style::Plain, said)
}

fn doing(services: &[ServiceStatus]) -> String {
    let busy = |service: &&ServiceStatus| style(service) == Style::Busy;
    let said: Vec<String> =
        services.iter().filter(busy).map(|service| format!("{} is {}", service.name, word(&service.state))).collect();
    if said.is_empty() { "the stack file is being looked at".to_owned() } else { said.join(", ") }
}

fn as_wanted(services: &[ServiceStatus]) -> String {
    let count = |state| services.iter().filter(|service| service.state == state).count();
    let stopped = match count(ServiceState::Stopped) {
        0 => String::new(),
        stopped => format!(", {stopped} stopped by hand"),
    };
    match count(ServiceState::Ready) {
        0 => format!("nothing is to run{stopped}"),
        1 => format!("1 service runs as wanted{stopped}"),
        ready => format!("{} run as wanted{stopped}", many(ready, "service")),
    }
}

/// The first trouble, and how many more there are.
fn wrong(status: &Status) -> String {
    if status.stack.file_problem.is_some() {
        return "the stack file cannot be used".to_owned();
    }
    if let Some(refused) = status.control.as_ref().and_then(|control| control.refused.as_ref()) {
        let version =
            refused.version.map(|version| format!("version {version}")).unwrap_or_else(|| "a version".to_owned());
        return format!("{version} of the control server is not taken; what was applied stays in force");
    }
    let troubled: Vec<&ServiceStatus> = status.services.iter().filter(|service| is_troubled(service)).collect();
    let more = match troubled.len() {
        0 | 1 => String::new(),
        count => format!("; and {}", many(count - 1, "more service")),
    };
    if let Some(service) = troubled.first() {
        let cause = service.last_error.as_deref().unwrap_or("not all of its instances are ready");
        let serving = match service.release {
            Some(release) if service.ready > 0 => format!("; release {release} serves on"),
            Some(_) | None => String::new(),
        };
        return format!("{}: {}{serving}{more}", service.name, harmless(cause));
    }
    match (status.stack.problems.first(), status.edge.pid) {
        // A service that is in no version yet has no line of its own.
        (Some(problem), _) => format!("{}: {}", subject(problem), harmless(&problem.cause)),
        (None, None) => "the proxy does not answer; it is being started again".to_owned(),
        (None, Some(_)) => "it is being looked at".to_owned(),
    }
}

/// What is wrong with services that nothing was tried with: problems are told with more than a line.
fn troubles(status: &Status) -> Vec<Line> {
    let explained = |service: &&ServiceStatus| {
        status.stack.problems.iter().any(|problem| problem.service.as_ref() == Some(&service.name))
    };
    let line = |service: &ServiceStatus| {
        let error = service.last_error.as_deref()?;
        let when = service.last_error_unix_ms.map(|at| format!(" ({})", ago(status.at_unix_ms, at)));
        let head = format!("{}{}: ", service.name, when.unwrap_or_default());
        Some(Line::new(Style::Strong, head).with(Style::Plain, harmless(error)))
    };
    let lines = status.services.iter().filter(|service| !explained(service)).filter_map(line);
    let lines: Vec<Line> = lines.collect();
    if lines.is_empty() { lines } else { std::iter::once(Line::default()).chain(lines).collect() }
}

pub(super) fn style(service: &ServiceStatus) -> Style {
    match service.state {
        ServiceState::Ready => Style::Good,
        ServiceState::Partial | ServiceState::Failing | ServiceState::CrashLoop => Style::Bad,
        ServiceState::Pending
        | ServiceState::Fetching
        | ServiceState::Building
        | ServiceState::Starting
        | ServiceState::Stopping => Style::Busy,
        ServiceState::Stopped | ServiceState::Removed => Style::Dim,
    }
}

fn row(service: &ServiceStatus, now: u64) -> [Cell; 11] {
    let release = match (service.release, service.pinned) {
        (Some(release), Some(_)) => format!("{release}(pinned)"),
        (Some(release), None) => release.to_string(),
        (None, _) => String::new(),
    };
    let error = service.last_error.as_ref().map(|error| match service.last_error_unix_ms {
        Some(at) => format!("{}: {}", ago(now, at), harmless(error)),
        None => harmless(error),
    });
    [
        service.name.as_str().into(),
        Cell::new(style(service), word(&service.state)),
        release.into(),
        service.commit.as_ref().map_or("", |commit| commit.short()).into(),
        format!("{}/{}", service.ready, service.wanted).into(),
        service.restarts.to_string().into(),
        compact(now.saturating_sub(service.since_unix_ms)).into(),
        service.cpu_millicores.map(percent).unwrap_or_default().into(),
        service.memory_bytes.map(bytes).unwrap_or_default().into(),
        match (&service.url, &service.internal_url) {
            (Some(url), _) => url.as_str().into(),
            (None, Some(inside)) => Cell::new(Style::Dim, format!("({inside})")),
            (None, None) => "".into(),
        },
        Cell::new(Style::Bad, error.unwrap_or_default()),
    ]
}

fn host_line(host: &Host) -> String {
    let load = format!("{}.{:02}", host.load_1m_milli / 1_000, host.load_1m_milli % 1_000 / 10);
    let memory = host.memory_total_bytes.saturating_sub(host.memory_available_bytes);
    let disk = match (host.disk_free_bytes, host.disk_total_bytes) {
        (Some(free), Some(total)) => format!("; disk of the home: {} of {} free", bytes(free), bytes(total)),
        _ => String::new(),
    };
    let cpus = many(usize::try_from(host.cpus).unwrap_or(usize::MAX), "CPU");
    format!("host: {cpus}, load {load}; memory: {} of {} used{disk}", bytes(memory), bytes(host.memory_total_bytes))
}
