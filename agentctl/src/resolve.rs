//! `agentctl resolve`: follows one address from its name to the instances behind it.

mod dns;
mod target;

use std::net::{Ipv4Addr, SocketAddr};

use agentd_protocol::api::{RoutedInstance, RoutedService, Routes, Status};
use agentd_protocol::edge::{Absent, Route, matching};
use agentd_protocol::exit_code::Exit;
use agentd_protocol::ids::ServiceName;
use serde::Serialize;

use crate::client::{Client, Error};
use crate::out::Out;
use crate::routes::{force, reason};
use crate::screen::{Line, Screen, Style};
use crate::table::{Cell, Narrow, table};
use dns::Answer;
use target::{Known, Target};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl resolve api                               a service by its name
  agentctl resolve http://api.svc.internal:8081/x    the same as services write it
  agentctl resolve /api/x                            which service a path from outside leads to
  agentctl resolve http://www.example.com/api

Asks the responder on this host, not the machine's own resolver.

Exit codes: 0 a request gets there, 4 no agentd answers, 5 no such name or route, 6 it is known and does not work")]
pub(crate) struct Args {
    /// A service, a name, a URL or a path
    #[arg(value_name = "NAME", value_parser = Target::parse)]
    target: Target,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Everything that is known of the way of a request.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Way {
    /// Where a request would be sent.
    listener: Option<SocketAddr>,
    /// From within: what the responder says of the name.
    name: Option<Named>,
    /// From outside: the route that wins.
    route: Option<Route>,
    service: Option<ServiceName>,
    instances: Vec<RoutedInstance>,
    /// What is wrong and what to do next, the first thing first.
    problems: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Named {
    name: String,
    responder: Option<SocketAddr>,
    answer: Option<Answer>,
    /// What instances see in the place of /etc/hosts, if the host allows that.
    hosts_file: Option<String>,
}

pub(crate) async fn run(client: &Client, args: &Args, out: &mut Out) -> Result<Exit, Error> {
    let routes: Routes = client.get("/v1/routes").await?;
    let status: Status = client.get("/v1/status").await?;
    let known = |name: &str| match find(&routes, name) {
        Some(_) => Known::Yes,
        None => Known::No,
    };
    let way = match args.target.internal_label(&routes.suffix, known) {
        Some(label) => {
            let name = format!("{label}.{}", routes.suffix);
            let answer = match status.edge.dns {
                Some(server) => Some(dns::ask(server, &format!("{name}.")).await),
                None => None,
            };
            within(
                &args.target,
                &label,
                Named { name, responder: status.edge.dns, answer, hosts_file: routes.hosts_file.clone() },
                &routes,
                &status,
            )
        }
        None => outside(&args.target, &routes, &status),
    };
    if args.json {
        out.line(serde_json::to_string_pretty(&way).expect("a way is plain JSON"));
    } else {
        let screen = Screen::of_stdout();
        page(&way, &routes, screen).iter().for_each(|line| out.line(line.shown(screen)));
    }
    Ok(match (&way.service, way.problems.is_empty()) {
        (None, _) => Exit::NotFound,
        (Some(_), true) => Exit::Ok,
        (Some(_), false) => Exit::Degraded,
    })
}

fn find<'a>(routes: &'a Routes, name: &str) -> Option<&'a RoutedService> {
    routes.services.iter().find(|service| service.name.as_str() == name)
}

/// A name that services use.
fn within(target: &Target, label: &str, named: Named, routes: &Routes, status: &Status) -> Way {
    let listener = status.edge.internal;
    let service = find(routes, label);
    let mut problems = Vec::new();
    match service {
        Some(service) => {
            problems.extend(answer_problem(&named, listener));
            problems.extend(port_problem(target, listener, "services reach each other on"));
            problems.extend(service_problem(service));
        }
        None => problems.push(format!("there is no service `{label}`; {}", known_names(routes))),
    }
    Way {
        listener,
        name: Some(named),
        route: None,
        service: service.map(|service| service.name.clone()),
        instances: service.map(|service| service.instances.clone()).unwrap_or_default(),
        problems,
    }
}

/// An address that comes from outside.
fn outside(target: &Target, routes: &Routes, status: &Status) -> Way {
    let listener = status.edge.external;
    let route = matching::external(&routes.routes, target.host.as_deref(), &target.path).map(|at| &routes.routes[at]);
    let service = route.and_then(|route| find(routes, route.service.as_str()));
    let mut problems = Vec::new();
    match service {
        Some(service) => {
            problems.extend(port_problem(target, listener, "requests from outside come in on"));
            problems.extend(service_problem(service));
        }
        None if routes.health_path.as_deref() == Some(target.path.as_str()) => {
            problems.push(format!("{} is answered by the proxy itself, no service is asked", target.path));
        }
        None => problems.push(format!(
            "no route fits {}{}: it is answered 404; `agentctl routes` lists them",
            target.host.as_deref().unwrap_or_default(),
            target.path
        )),
    }
    Way {
        listener,
        name: None,
        route: route.cloned(),
        service: service.map(|service| service.name.clone()),
        instances: service.map(|service| service.instances.clone()).unwrap_or_default(),
        problems,
    }
}

fn known_names(routes: &Routes) -> String {
    match routes.services.as_slice() {
        [] => "the stack has none yet".to_owned(),
        services => {
            let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
            format!("known are {}", names.join(", "))
        }
    }
}

/// The responder and the stack must say the same.
fn answer_problem(named: &Named, listener: Option<SocketAddr>) -> Option<String> {
    let (server, answer) = (named.responder?, named.answer.as_ref()?);
    let name = &named.name;
    let expected = listener.map_or(Ipv4Addr::LOCALHOST.into(), |listener| listener.ip());
    match answer {
        Answer::Addresses { addresses } if addresses.iter().any(|address| expected == *address) => None,
        Answer::Addresses { addresses } => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            Some(format!("the responder says {}, the listener is at {expected}", addresses.join(", ")))
        }
        Answer::NoName => Some(format!(
            "the responder does not know {name} yet: the proxy has an older table, `agentctl routes` says why"
        )),
        Answer::NoAddress => {
            Some(format!("the responder knows {name} and has no address for it: is it of another build?"))
        }
        Answer::Code { code } => Some(format!("the responder at {server} answers {code}; look at its log, log/edge")),
        Answer::TimedOut => Some(format!(
            "the responder at {server} does not answer within 2 s: `agentctl status` says whether the proxy runs"
        )),
        Answer::Closed => Some(format!("nobody listens at {server}: `agentctl status` says whether the proxy runs")),
        Answer::Failed { error } => Some(format!("the responder at {server} cannot be asked: {error}")),
    }
}

fn port_problem(target: &Target, listener: Option<SocketAddr>, who: &str) -> Option<String> {
    let (port, listener) = (target.port?, listener?);
    (port != listener.port()).then(|| format!("{who} port {}, not on {port}", listener.port()))
}

fn service_problem(service: &RoutedService) -> Option<String> {
    let name = &service.name;
    let next = match service.absent {
        Some(Absent::Stopped) => format!("`agentctl start {name}` starts it"),
        Some(Absent::NoPort) => "nothing can be sent there".to_owned(),
        Some(Absent::Replacing) => "try again in a moment".to_owned(),
        Some(Absent::Starting | Absent::Failing) => format!("`agentctl status {name}` says why"),
        None if service.instances.iter().any(|instance| instance.routed && instance.ready) => return None,
        None => {
            return Some(format!(
                "every instance of {name} fails its health check; they get requests all the same: `agentctl status {name}` \
                 says why"
            ));
        }
    };
    let reason = reason(service.absent?);
    Some(format!("no instance of {name} gets requests: {reason}; {next}"))
}

fn page(way: &Way, routes: &Routes, screen: Screen) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut say = |head: &str, text: String| {
        lines.push(Line::new(Style::Dim, format!("{head:<9}")).with(Style::Plain, text));
    };
    if let Some(named) = &way.name {
        say("name", named.name.clone());
        if let (Some(server), Some(answer)) = (named.responder, &named.answer) {
            say("dns", format!("{server} answers {}", answered(answer)));
        }
        say(
            "hosts",
            match &named.hosts_file {
                Some(file) => format!("instances see {file} in the place of /etc/hosts"),
                None => "instances see the machine's own /etc/hosts; `agentctl status` says why".to_owned(),
            },
        );
    }
    if let Some(route) = &way.route {
        let strip = if route.strip_prefix { ", which is taken off" } else { "" };
        say("route", format!("{}{}{strip}", route.host.as_deref().unwrap_or("any host, "), route.path));
    }
    if let Some(service) = &way.service {
        say("service", service.to_string());
    }
    if let (Some(listener), Some(_)) = (way.listener, &way.service) {
        let how = way.name.as_ref().map(|named| format!(": curl -H 'Host: {}' http://{listener}/", named.name));
        say("listener", format!("{listener}{}", how.unwrap_or_default()));
    }
    if !way.instances.is_empty() {
        lines.push(Line::default());
        let rows = way.instances.iter().map(row).collect();
        lines.extend(table(
            ["BACKEND", "STATE", "RELEASE", "INSTANCE"],
            rows,
            Narrow { cut: 0, dropped: &[3] },
            screen,
        ));
    }
    if routes.force != agentd_protocol::api::Force::InForce {
        lines.push(force(routes));
    }
    if !way.problems.is_empty() && lines.last().is_some_and(|line| *line != Line::default()) {
        lines.push(Line::default());
    }
    lines.extend(way.problems.iter().map(|problem| Line::new(Style::Bad, problem)));
    lines
}

fn row(instance: &RoutedInstance) -> [Cell; 4] {
    let (style, state) = match (instance.routed, instance.ready) {
        (true, true) => (Style::Good, "ready".to_owned()),
        (true, false) => (Style::Busy, "failing, gets requests all the same".to_owned()),
        (false, true) => (Style::Busy, "ready, gets no requests".to_owned()),
        (false, false) => (Style::Bad, format!("not ready ({})", instance.phase)),
    };
    [
        instance.address.map(|address| address.to_string()).unwrap_or_default().into(),
        Cell::new(style, state),
        instance.release.to_string().into(),
        instance.id.to_string().into(),
    ]
}

fn answered(answer: &Answer) -> String {
    match answer {
        Answer::Addresses { addresses } => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        Answer::NoName => "that there is no such name (NXDOMAIN)".to_owned(),
        Answer::NoAddress => "with no address".to_owned(),
        Answer::Code { code } => format!("with an error: {code}"),
        Answer::TimedOut => "nothing within 2 s".to_owned(),
        Answer::Closed => "nothing: its port is closed".to_owned(),
        Answer::Failed { error } => format!("nothing: {error}"),
    }
}
