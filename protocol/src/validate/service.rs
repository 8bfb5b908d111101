//! One `[[service]]`: its values by their rules. The shape has been checked; what is of the wrong type is passed over
//! here, since it has its problem already.

use std::collections::BTreeMap;

use serde_json::Value;

use super::rules::{self, Rule};
use super::shape::{Place, quoted};
use super::{At, Problem};
use crate::ids::{Commit, ServiceName};
use crate::keys;
use crate::stack::{Health, Kind, Restart, Revision, Service, Span, Stop, StopSignal};

/// Reads values and collects what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) place: Place,
    pub(super) value: &'a Value,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    pub(super) fn text(&self, leaf: &str) -> Option<&str> {
        self.value.get(leaf).and_then(Value::as_str)
    }

    pub(super) fn number<T: TryFrom<u64>>(&self, leaf: &str) -> Option<T> {
        self.value.get(leaf).and_then(Value::as_u64).and_then(|number| T::try_from(number).ok())
    }

    fn switch(&self, leaf: &str, default: bool) -> bool {
        self.value.get(leaf).and_then(Value::as_bool).unwrap_or(default)
    }

    pub(super) fn span(&self, leaf: &str, default_s: u64) -> Span {
        self.text(leaf).and_then(|text| text.parse().ok()).unwrap_or(Span::from_secs(default_s))
    }

    /// The text if it keeps the rule; a problem that quotes it if not.
    pub(super) fn ruled(&mut self, leaf: &str, rule: fn(&str) -> Rule) -> Option<String> {
        let text = self.text(leaf)?.to_owned();
        match rule(&text) {
            Ok(()) => Some(text),
            Err(expected) => {
                self.problem(leaf, quoted(&text), expected);
                None
            }
        }
    }

    pub(super) fn problem(&mut self, leaf: &str, found: impl Into<String>, expected: impl Into<String>) {
        let problem = self.place.child(leaf).problem(found, expected);
        self.problems.push(problem);
    }

    pub(super) fn name(&mut self) -> Option<ServiceName> {
        let text = self.text("name")?.to_owned();
        match ServiceName::new(text.clone()) {
            Ok(name) => Some(name),
            Err(_) => {
                self.problem("name", quoted(&text), ServiceName::RULE);
                None
            }
        }
    }
}

pub(super) fn read(mut reader: Reader<'_>) -> Option<Service> {
    let name = reader.name();
    let kind = kind(&mut reader);
    let repo = repo(&mut reader);
    let source = revision(&mut reader);
    let run = reader.ruled("run", rules::command);
    let health = health(&mut reader);
    let start_deadline = start_deadline(&reader);
    let env = env(&mut reader);
    let path = reader.ruled("path", rules::route_path).map(|path| normal_path(&path));
    let host = reader.ruled("host", rules::host_name).map(|host| host.to_ascii_lowercase());
    let stop = stop(&reader);
    let service = Service {
        name: name?,
        kind,
        repo: repo?,
        source: source?,
        dir: reader.ruled("dir", |text| rules::dir(text.trim_end_matches('/'))).map(|dir| trimmed(&dir)),
        git_auth: reader.text("git_auth").map(str::to_owned),
        build: reader.ruled("build", rules::command),
        run: run?,
        port: reader.number("port"),
        host,
        path,
        strip_prefix: reader.switch("strip_prefix", false),
        public: reader.switch("public", true),
        replicas: reader.number("replicas").unwrap_or(1),
        env,
        env_file: reader.ruled("env_file", rules::absolute_file),
        health,
        start_deadline,
        restart: restart(&reader),
        stop,
        drain: reader.span("drain", 30),
    };
    between_keys(&mut reader, &service);
    Some(service)
}

fn trimmed(dir: &str) -> String {
    dir.trim_end_matches('/').to_owned()
}

/// Without a trailing `/`, but for the root.
pub(super) fn normal_path(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

fn kind(reader: &mut Reader<'_>) -> Kind {
    match reader.text("kind") {
        Some("worker") => Kind::Worker,
        Some(text @ ("job" | "static")) => {
            let found = quoted(text);
            reader.problem("kind", found, format!("\"web\" or \"worker\": the others are {}", keys::NOT_YET));
            Kind::Worker
        }
        Some(_) | None => Kind::Web,
    }
}

/// The URL is not quoted when it may hold a secret.
fn repo(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text("repo")?.to_owned();
    match rules::repo(&text) {
        Ok(()) => Some(text),
        Err(expected) => {
            let found = if text.contains('@') { "a URL with a user in it".to_owned() } else { quoted(&text) };
            reader.problem("repo", found, expected);
            None
        }
    }
}

fn revision(reader: &mut Reader<'_>) -> Option<Revision> {
    match (reader.text("ref").map(str::to_owned), reader.text("commit").map(str::to_owned)) {
        (Some(_), Some(_)) => {
            reader.problem("commit", "both ref and commit", "one of the two");
            None
        }
        (None, None) => {
            if reader.value.get("ref").is_none() && reader.value.get("commit").is_none() {
                let problem = reader.place.child("ref").problem("neither ref nor commit", "one of the two");
                let pointer = reader.place.pointer.clone();
                reader.problems.push(Problem { pointer, at: At::Key, ..problem });
            }
            None
        }
        (Some(_), None) => reader.ruled("ref", rules::reference).map(Revision::Ref),
        (None, Some(text)) => match Commit::new(text.clone()) {
            Ok(commit) => Some(Revision::Commit(commit)),
            Err(_) => {
                reader.problem("commit", quoted(&text), Commit::RULE);
                None
            }
        },
    }
}

fn sub<'a>(reader: &'a mut Reader<'_>, leaf: &str) -> Option<Reader<'a>> {
    let value = reader.value.get(leaf).filter(|value| value.is_object())?;
    Some(Reader { place: reader.place.child(leaf), value, problems: reader.problems })
}

fn health(reader: &mut Reader<'_>) -> Option<Health> {
    let mut section = sub(reader, "health")?;
    if section.value.get("path").is_none() {
        let only_deadline =
            section.value.as_object().is_some_and(|keys| keys.keys().all(|key| key == "start_deadline"));
        if !only_deadline {
            let problem = section.place.child("path").problem("nothing", "a path such as \"/healthz\"");
            let pointer = section.place.pointer.clone();
            section.problems.push(Problem { pointer, at: At::Key, ..problem });
        }
        return None;
    }
    let path = section.ruled("path", rules::url_path)?;
    Some(Health {
        path,
        host: section.ruled("host", |text| rules::host_name(text.split_once(':').map_or(text, |(host, _)| host))),
        interval: section.span("interval", 10),
        timeout: section.span("timeout", 5),
        failures: section.number("failures").unwrap_or(3),
        restart: section.switch("restart", true),
    })
}

fn start_deadline(reader: &Reader<'_>) -> Span {
    let text = reader.value.get("health").and_then(|health| health.get("start_deadline")).and_then(Value::as_str);
    text.and_then(|text| text.parse().ok()).unwrap_or(Span::from_secs(60))
}

fn stop(reader: &Reader<'_>) -> Stop {
    let text = |leaf: &str| reader.value.get("stop").and_then(|stop| stop.get(leaf)).and_then(Value::as_str);
    let named = text("signal").and_then(|name| StopSignal::ALL.into_iter().find(|(_, known)| *known == name));
    Stop {
        signal: named.map_or(StopSignal::Term, |(signal, _)| signal),
        timeout: text("timeout").and_then(|text| text.parse().ok()).unwrap_or(Span::from_secs(30)),
    }
}

fn restart(reader: &Reader<'_>) -> Restart {
    match reader.text("restart") {
        Some("on-failure") => Restart::OnFailure,
        Some("never") => Restart::Never,
        Some(_) | None => Restart::Always,
    }
}

fn env(reader: &mut Reader<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let place = reader.place.child("env");
    for (name, value) in reader.value.get("env").and_then(Value::as_object).into_iter().flatten() {
        let Some(value) = value.as_str() else { continue };
        let place = place.child(name);
        if let Err(expected) = rules::variable_name(name) {
            reader.problems.push(Problem { at: At::Key, ..place.problem(quoted(name), expected) });
        } else if let Err(expected) = rules::variable_value(value) {
            reader.problems.push(place.problem("other text", expected));
        } else {
            env.insert(name.clone(), value.to_owned());
        }
    }
    env
}

/// What one key says of another in the same service.
fn between_keys(reader: &mut Reader<'_>, service: &Service) {
    if service.port.is_some() && service.replicas > 1 {
        let found = format!("{} replicas of a service with a fixed port", service.replicas);
        reader.problem("replicas", found, "1, or no `port`: the service then listens on $PORT");
    }
    if service.kind == Kind::Worker {
        for leaf in ["path", "host", "port", "health"] {
            if reader.value.get(leaf).is_some() && reader.text("kind") == Some("worker") {
                reader.problem(leaf, "the key", "none of it: a worker is not reached by requests");
            }
        }
    }
    if service.host.is_some() && service.path.is_none() && reader.value.get("path").is_none() {
        reader.problem("host", "a host without a path", "path as well: \"/\" for all of it");
    }
}
