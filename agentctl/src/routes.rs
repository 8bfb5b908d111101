//! `agentctl routes`

use agentd_protocol::api::{Force, RoutedService, Routes, Status};
use agentd_protocol::edge::Absent;
use agentd_protocol::exit_code::Exit;

use crate::client::{Client, Error};
use crate::out::Out;
use crate::screen::{Line, Screen, Style};
use crate::table::{Cell, Narrow, table};
use crate::words::many;

const BACKENDS_CUT: Narrow = Narrow { cut: 1, dropped: &[] };

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl routes                 which path leads to which service, in the order in which paths are tried
  agentctl routes --json | jq '.services[] | select(.absent)'

A route with a host beats one without, then the longest path wins. `agentctl resolve URL` follows one address.

Exit codes: 0 this is what requests are routed by, 4 no agentd answers, 6 the proxy has not taken the newest table")]
pub(crate) struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let routes: Routes = client.get("/v1/routes").await?;
    if args.json {
        out.line(serde_json::to_string_pretty(&routes).expect("routes are plain JSON"));
    } else {
        let status: Status = client.get("/v1/status").await?;
        let screen = Screen::of_stdout();
        page(&routes, &status, screen).iter().for_each(|line| out.line(line.shown(screen)));
    }
    Ok(match routes.force {
        Force::InForce => Exit::Ok,
        Force::Behind { .. } | Force::Away => Exit::Degraded,
    })
}

fn page(routes: &Routes, status: &Status, screen: Screen) -> Vec<Line> {
    let mut lines = vec![force(routes)];
    let shown = |address: Option<std::net::SocketAddr>| {
        address.map_or_else(|| "nowhere yet".to_owned(), |address| format!("http://{address}"))
    };
    lines.push(Line::default());
    lines.push(Line::new(Style::Strong, format!("From outside, {}", shown(status.edge.external))));
    if routes.routes.is_empty() {
        lines.push(Line::from("  no service has a path"));
    } else {
        let rows = routes.routes.iter().map(|route| -> [Cell; 4] {
            let strip = if route.strip_prefix { " (stripped)" } else { "" };
            let service = routes.services.iter().find(|service| service.name == route.service);
            [
                route.host.clone().unwrap_or_else(|| "any".to_owned()).into(),
                format!("{}{strip}", route.path).into(),
                route.service.to_string().into(),
                service.map_or_else(|| Cell::from(""), backends),
            ]
        });
        lines.extend(table(["HOST", "PATH", "SERVICE", "BACKENDS"], rows.collect(), BACKENDS_CUT, screen));
    }
    if let Some(path) = &routes.health_path {
        lines.push(Line::from(format!("{path} is answered by the proxy itself")));
    }
    lines.push(Line::default());
    lines.push(Line::new(Style::Strong, format!("Among services, {}", shown(status.edge.internal))));
    if routes.services.is_empty() {
        lines.push(Line::from("  no services"));
    } else {
        let rows = routes
            .services
            .iter()
            .map(|service| -> [Cell; 2] { [format!("{}.{}", service.name, routes.suffix).into(), backends(service)] });
        lines.extend(table(["NAME", "BACKENDS"], rows.collect(), BACKENDS_CUT, screen));
    }
    lines
}

/// How far the table can be believed.
pub(crate) fn force(routes: &Routes) -> Line {
    let generation = routes.generation;
    match &routes.force {
        Force::InForce => Line::from(format!("table {generation} is in force")),
        Force::Behind { cause } => Line::new(
            Style::Bad,
            format!(
                "table {generation} is shown, the proxy has not taken the newest one: {cause}; it is sent again by itself"
            ),
        ),
        Force::Away => Line::new(
            Style::Bad,
            format!("table {generation} is shown, but the proxy is not connected; `agentctl events` says since when"),
        ),
    }
}

fn backends(service: &RoutedService) -> Cell {
    if let Some(absent) = service.absent {
        let style = match absent {
            Absent::Starting | Absent::Replacing => Style::Busy,
            Absent::Failing => Style::Bad,
            Absent::Stopped | Absent::NoPort => Style::Dim,
        };
        return Cell::new(style, format!("none: {}", reason(absent)));
    }
    let routed = service.instances.iter().filter(|instance| instance.routed);
    let shown: Vec<String> = routed
        .clone()
        .filter_map(|instance| {
            let address = instance.address?;
            Some(if instance.ready { address.to_string() } else { format!("{address} (failing)") })
        })
        .collect();
    let waiting = service.instances.len() - routed.count();
    let more = if waiting == 0 { String::new() } else { format!(", {} without requests", many(waiting, "instance")) };
    Cell::from(format!("{}{more}", shown.join(" ")))
}

pub(crate) fn reason(absent: Absent) -> &'static str {
    match absent {
        Absent::Starting => "no instance is ready yet",
        Absent::Replacing => "it is being replaced, requests wait",
        Absent::Failing => "it keeps ending or is not ready in time",
        Absent::Stopped => "stopped by the operator",
        Absent::NoPort => "a worker has no port",
    }
}
