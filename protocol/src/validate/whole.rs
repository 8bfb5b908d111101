//! The document as a whole: its sections, and what services say of each other.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Problem;
use super::rules;
use super::service::{self, Reader, normal_path};
use super::shape::{Place, quoted};
use crate::keys;
use crate::stack::{Proxy, SCHEMA, Service, Stack, StackSection};

/// Shortest poll_interval: a server is not to be asked more often than this.
const POLL_MIN_MS: u64 = 1_000;

/// The stack as far as it can be read; `None` when something without a default is missing.
pub(super) fn read(tree: &Value, problems: &mut Vec<Problem>) -> Option<Stack> {
    let root = Place::root();
    let empty = Value::Object(serde_json::Map::new());
    let section = |leaf: &str| tree.get(leaf).filter(|value| value.is_object()).unwrap_or(&empty);
    let mut stack = Reader { place: root.child("stack"), value: section("stack"), problems };
    let name = stack.name();
    let poll_interval = stack.span("poll_interval", 15);
    if poll_interval.as_ms() < POLL_MIN_MS {
        stack.problem("poll_interval", quoted(&poll_interval.to_string()), "at least \"1s\"");
    }
    let mut proxy = Reader { place: root.child("proxy"), value: section("proxy"), problems };
    let port = proxy.number("port").unwrap_or(8080);
    let health_path = proxy.ruled("health_path", rules::route_path).map(|path| normal_path(&path));
    let mut security = Reader { place: root.child("security"), value: section("security"), problems };
    if let Some(mode @ ("daemon-port" | "tunnel")) = security.text("mode") {
        let found = quoted(mode);
        security.problem("mode", found, format!("\"open\": the others are {}", keys::NOT_YET));
    }
    let proxy = Proxy { port, health_path };
    let services = services(tree, &root.child("service"), problems);
    between_services(&services, &proxy, problems);
    let complete: Option<Vec<Service>> = services.into_iter().map(|(_, service)| service).collect();
    Some(Stack { schema: SCHEMA, stack: StackSection { name: name?, poll_interval }, proxy, service: complete? })
}

type Read = (Place, Option<Service>);

fn services(tree: &Value, list: &Place, problems: &mut Vec<Problem>) -> Vec<Read> {
    let elements = tree.get("service").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let tables = elements.iter().enumerate().filter(|(_, element)| element.is_object());
    tables
        .map(|(index, value)| {
            let place = list.element(index, value);
            (place.clone(), service::read(Reader { place, value, problems }))
        })
        .collect()
}

/// Names, ports and routes that two services claim.
fn between_services(services: &[Read], proxy: &Proxy, problems: &mut Vec<Problem>) {
    let (mut names, mut ports, mut routes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    ports.insert(proxy.port, "proxy.port".to_owned());
    if let Some(path) = &proxy.health_path {
        routes.insert((None, path.clone()), "proxy.health_path".to_owned());
    }
    for (place, service) in services {
        let Some(service) = service else { continue };
        let mut claim = |leaf: &str, taken: Option<String>, what: String| {
            if let Some(by) = taken {
                problems.push(place.child(leaf).problem(what, format!("another one: {by} has it already")));
            }
        };
        let name = service.name.to_string();
        claim("name", names.insert(name.clone(), place.shown.clone()), quoted(&name));
        if let Some(port) = service.port {
            claim("port", ports.insert(port, place.shown.clone()), port.to_string());
        }
        if let Some(path) = &service.path {
            let route = (service.host.clone(), path.clone());
            let shown = match &service.host {
                Some(host) => format!("{host}{path}"),
                None => path.clone(),
            };
            claim("path", routes.insert(route, place.shown.clone()), quoted(&shown));
        }
    }
}
