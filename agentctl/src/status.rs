//! `agentctl status`

mod control;
mod page;
mod service;
mod tunnel;
mod watch;

use agentd_protocol::api::{ServiceState, ServiceStatus, Status, Verdict};
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;
use crate::screen::{Line, Screen};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl status                 what runs, and in one line what is wrong
  agentctl status api             one service: instances, releases, names, warnings
  agentctl status --watch         the same page, drawn anew every second; Ctrl-C ends it
  agentctl status --json | jq .stack.verdict

CPU is that of the last second or so, in percent of one CPU, MEM what lies in RAM (resident set; pages that processes \
share count for each), both over all processes of the service. RESTARTS counts those nobody asked for, of the release \
that serves. A URL in parentheses is for services of this host alone. The run folder of the home holds the last status \
as status.json, for times when no agentd answers.

Exit codes: 0 all is as wanted or on its way, 4 no agentd answers, 5 no such service, 6 degraded")]
pub(crate) struct Args {
    /// Only this service, in detail, with all that is known of why it is not as wanted
    service: Option<String>,
    /// One JSON object, times in ms since 1970; with --watch one a line, whenever something changed
    #[arg(long)]
    json: bool,
    /// Stay and show every change; what is piped gets a new page only when something changed
    #[arg(long, short)]
    watch: bool,
}

/// Ends with `Degraded` when something is not as the document wants it.
pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    if args.watch {
        return watch::run(client, args, out).await;
    }
    let status: Status = client.get("/v1/status").await?;
    match &args.service {
        None => {
            if args.json {
                out.line(pretty(&status));
            } else {
                let screen = Screen::of_stdout();
                page::page(&status, screen).iter().for_each(|line| out.line(line.shown(screen)));
            }
            Ok(exit_of(status.stack.verdict))
        }
        Some(name) => match find(&status, name) {
            None => {
                out.complain(format_args!("agentctl: {}", unknown(&status, name)));
                Ok(Exit::NotFound)
            }
            Some(service) => {
                if args.json {
                    out.line(pretty(service));
                } else {
                    let screen = Screen::of_stdout();
                    service::page(&status, service, screen).iter().for_each(|line| out.line(line.shown(screen)));
                }
                Ok(if is_troubled(service) { Exit::Degraded } else { Exit::Ok })
            }
        },
    }
}

/// The page of what was asked for; an unknown service may come yet.
fn lines(status: &Status, args: &Args, screen: Screen) -> Vec<Line> {
    match &args.service {
        None => page::page(status, screen),
        Some(name) => match find(status, name) {
            Some(service) => service::page(status, service, screen),
            None => vec![Line::from(unknown(status, name))],
        },
    }
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("a status is plain JSON")
}

fn exit_of(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Empty | Verdict::Applying | Verdict::Applied => Exit::Ok,
        Verdict::Degraded => Exit::Degraded,
    }
}

fn find<'a>(status: &'a Status, name: &str) -> Option<&'a ServiceStatus> {
    status.services.iter().find(|service| service.name.as_str() == name)
}

fn unknown(status: &Status, name: &str) -> String {
    let names: Vec<&str> = status.services.iter().map(|service| service.name.as_str()).collect();
    format!("there is no service `{name}`; there are: {}", names.join(", "))
}

fn is_troubled(service: &ServiceStatus) -> bool {
    match service.state {
        ServiceState::Partial | ServiceState::Failing | ServiceState::CrashLoop => true,
        ServiceState::Pending
        | ServiceState::Fetching
        | ServiceState::Building
        | ServiceState::Starting
        | ServiceState::Ready
        | ServiceState::Stopped
        | ServiceState::Stopping
        | ServiceState::Removed => service.last_error.is_some(),
    }
}

/// The kebab-case word an enum has on the wire.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => String::new(),
    }
}

/// Left-aligned columns, two spaces apart, no trailing blanks.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
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
