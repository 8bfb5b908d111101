//! One `[[service]]`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::across::Claim;
use super::open::{Flaw, Problems, Table, brief, kind_of};
use super::{ENV_BYTES_MAX, ENV_VALUE_BYTES_MAX, Locus, rules};
use crate::keys::{self, Absent};
use crate::stack::{Health, Kind, Restart, Revision, Service, Span, Stop, StopSignal};

/// What says how a program of the user's runs.
const OF_A_PROGRAM: &[&str] = &["run", "port", "restart", "stop", "env", "env_file"];
/// What says which files are served.
const OF_A_SITE: &[&str] = &["root", "fallback"];
const ONLY_A_SITE: &str = "none, or `kind = \"static\"`";

/// Everything is read even after a problem, so that all of them are noted; `None` only when one was.
pub(super) fn read(index: usize, table: &Table<'_>, problems: &mut Problems) -> (Claim, Option<Service>) {
    let name = table.ruled("name", problems, rules::name);
    let kind = kind(table, problems);
    let repo = table.ruled("repo", problems, rules::repo);
    let source = revision(table, problems);
    let dir = table.ruled("dir", problems, rules::dir);
    let git_auth = table.ruled("git_auth", problems, rules::git_auth);
    let build = table.ruled("build", problems, rules::command);
    let run = table.ruled("run", problems, rules::command);
    let root = table.ruled("root", problems, rules::root).flatten();
    let fallback = table.ruled("fallback", problems, rules::fallback);
    let port = table.port("port", problems);
    let host = table.ruled("host", problems, rules::host);
    let path = table.ruled("path", problems, rules::route_path);
    let strip_prefix = table.flag("strip_prefix", problems);
    let public = table.flag("public", problems);
    let replicas = table.count("replicas", problems);
    let depends_on = table.list("depends_on", problems, rules::name);
    let env = env(table, problems);
    let env_file = table.ruled("env_file", problems, rules::env_file);
    let (health, start_deadline) = health(table, problems);
    let restart = restart(table, problems);
    let stop = stop(table, problems);
    let drain = table.span("drain", problems);
    table.table("limits", problems);
    fits_kind(kind, table, problems);
    fits_together(port, replicas, table, problems);

    let routed = public && kind != Some(Kind::Worker) && table.has("host") == host.is_some();
    let claim = Claim {
        index,
        name: name.clone(),
        port,
        host: host.clone(),
        path: path.clone().filter(|_| routed),
        depends_on: depends_on.clone(),
    };
    let service = (|| {
        Some(Service {
            name: name?,
            kind: kind?,
            repo: repo?,
            source: source?,
            dir,
            git_auth,
            build,
            run,
            root,
            fallback,
            port,
            host,
            path,
            strip_prefix,
            public,
            replicas: replicas?,
            depends_on,
            env,
            env_file,
            health,
            start_deadline,
            restart: restart?,
            stop: stop?,
            drain,
        })
    })();
    (claim, service)
}

fn kind(table: &Table<'_>, problems: &mut Problems) -> Option<Kind> {
    match table.choice("kind", problems)? {
        "web" => Some(Kind::Web),
        "worker" => Some(Kind::Worker),
        "static" => Some(Kind::Static),
        other => unreachable!("`{other}` is in the table of keys and not read here"),
    }
}

fn restart(table: &Table<'_>, problems: &mut Problems) -> Option<Restart> {
    match table.choice("restart", problems)? {
        "always" => Some(Restart::Always),
        "on-failure" => Some(Restart::OnFailure),
        "never" => Some(Restart::Never),
        other => unreachable!("`{other}` is in the table of keys and not read here"),
    }
}

fn revision(table: &Table<'_>, problems: &mut Problems) -> Option<Revision> {
    let branch = table.ruled("ref", problems, rules::git_ref);
    let commit = table.ruled("commit", problems, rules::commit);
    match (table.has("ref"), table.has("commit")) {
        (true, true) => {
            table.note("commit", Flaw::plain("both `ref` and `commit`", "one of them"), Locus::Key, problems);
            None
        }
        (false, false) => {
            let flaw = Flaw::plain("neither `ref` nor `commit`", "a branch or tag under `ref`, or a `commit`");
            table.note("ref", flaw, Locus::Key, problems);
            None
        }
        (true, false) => branch.map(Revision::Ref),
        (false, true) => commit.map(Revision::Commit),
    }
}

/// Names and types are told, values never: they are secrets until proven otherwise.
fn env(table: &Table<'_>, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let Some(map) = table.free("env", problems) else { return env };
    let bytes: usize = map.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > ENV_BYTES_MAX {
        let flaw = Flaw::plain(format!("{bytes} bytes"), format!("at most {ENV_BYTES_MAX}"));
        table.note("env", flaw, Locus::Key, problems);
    }
    let pointer = table.pointer_to("env");
    for (name, value) in map {
        // Of `NAME=value` written as a name, the value is not shown either.
        let shown = format!("service.env.{}", brief(name.split('=').next().unwrap_or_default()));
        let mut note =
            |flaw, at| problems.note(format!("{pointer}/{}", super::open::escape(name)), shown.clone(), flaw, at);
        if let Err(flaw) = rules::env_name(name) {
            note(flaw, Locus::Key);
        }
        match value {
            Value::String(text) if text.contains('\0') => {
                note(Flaw::plain("a string with a NUL character", "one without"), Locus::Value);
            }
            Value::String(text) if text.len() > ENV_VALUE_BYTES_MAX => {
                let expected = format!("at most {ENV_VALUE_BYTES_MAX}");
                note(Flaw::plain(format!("a string of {} bytes", text.len()), expected), Locus::Value);
            }
            Value::String(text) => {
                env.insert(name.clone(), text.clone());
            }
            Value::Number(_) | Value::Bool(_) => {
                note(Flaw::plain(kind_of(value), "a string: put it between quotes"), Locus::Value);
            }
            Value::Null | Value::Array(_) | Value::Object(_) => {
                note(Flaw::plain(kind_of(value), "a string"), Locus::Value);
            }
        }
    }
    env
}

fn health(service: &Table<'_>, problems: &mut Problems) -> (Option<Health>, Span) {
    let Some(table) = service.table("health", problems) else {
        return (None, default_span("service.health.start_deadline"));
    };
    let path = table.ruled("path", problems, rules::request_path);
    let deadline = table.span("start_deadline", problems);
    let host = table.ruled("host", problems, rules::host);
    let interval = table.span("interval", problems);
    let timeout = table.span("timeout", problems);
    let failures = table.count("failures", problems);
    let restart = table.flag("restart", problems);
    let needs_path = ["host", "interval", "timeout", "failures", "restart"].iter().any(|leaf| table.has(leaf));
    if !table.has("path") && (needs_path || table.is_empty()) {
        table.note("path", Flaw::plain("nothing", "a path that starts with `/`"), Locus::Key, problems);
    }
    let health = path.zip(failures).map(|(path, failures)| Health { path, host, interval, timeout, failures, restart });
    (health, deadline)
}

fn default_span(name: &str) -> Span {
    match keys::find(name).map(|key| key.absent) {
        Some(Absent::Text(text)) => text.parse().expect("a test parses every default"),
        _ => panic!("{name} has no default duration"),
    }
}

fn stop(service: &Table<'_>, problems: &mut Problems) -> Option<Stop> {
    let absent = serde_json::Map::new();
    let table = service
        .table("stop", problems)
        .unwrap_or_else(|| Table::open(&absent, service.pointer_to("stop"), "service.stop", &mut Problems::default()));
    let timeout = table.span("timeout", problems);
    let word = table.choice("signal", problems)?;
    let signal = StopSignal::ALL.into_iter().find(|(_, name)| *name == word).map(|(signal, _)| signal);
    Some(Stop { signal: signal.expect("a test compares the signals with the table of keys"), timeout })
}

/// `None` is a kind that was refused already: nothing is said about what it would need.
fn fits_kind(kind: Option<Kind>, table: &Table<'_>, problems: &mut Problems) {
    let (refused, what, cure): (&[&str], _, _) = match kind {
        None => return,
        Some(Kind::Web) => (OF_A_SITE, "a service that runs a program", ONLY_A_SITE),
        Some(Kind::Worker) => {
            refuse(
                &["path", "host", "port", "health"],
                "a worker",
                "none: a worker has no port and no route",
                table,
                problems,
            );
            (OF_A_SITE, "a worker", ONLY_A_SITE)
        }
        Some(Kind::Static) => {
            (OF_A_PROGRAM, "a static site", "none: agentd serves the files itself, no program of yours runs")
        }
    };
    refuse(refused, what, cure, table, problems);
    if kind != Some(Kind::Static) && !table.has("run") {
        let flaw = Flaw::plain("nothing", "a shell command, or `kind = \"static\"` for a folder of files");
        table.note("run", flaw, Locus::Key, problems);
    }
}

fn refuse(leaves: &[&str], what: &str, cure: &str, table: &Table<'_>, problems: &mut Problems) {
    for leaf in leaves.iter().filter(|leaf| table.has(leaf)) {
        table.note(leaf, Flaw::plain(format!("`{leaf}` in {what}"), cure), Locus::Key, problems);
    }
}

fn fits_together(port: Option<u16>, replicas: Option<u32>, table: &Table<'_>, problems: &mut Problems) {
    if let (Some(port), Some(replicas @ 2..)) = (port, replicas) {
        let found = format!("{replicas} with the fixed port {port}");
        let flaw = Flaw::plain(found, "1, or no `port` and a service that listens on $PORT");
        table.note("replicas", flaw, Locus::Value, problems);
    }
    if table.has("host") && !table.has("path") {
        let flaw = Flaw::plain("`host` without `path`", "a `path` beside it").near(Some("path = \"/\""));
        table.note("host", flaw, Locus::Key, problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Shape, Support};

    /// Every word the table of keys calls supported is read here, and every signal is in the table.
    #[test]
    fn words_of_the_table_are_read() {
        for leaf in ["kind", "restart"] {
            for word in words(leaf) {
                let map = serde_json::json!({ leaf: word });
                let mut problems = Problems::default();
                let table = Table::open(map.as_object().unwrap(), String::new(), "service", &mut problems);
                assert!(kind(&table, &mut problems).is_some() && restart(&table, &mut problems).is_some(), "{word}");
            }
        }
        assert_eq!(words("stop.signal"), StopSignal::ALL.map(|(_, name)| name));
    }

    fn words(leaf: &str) -> Vec<&'static str> {
        let Shape::Choice(choices) = keys::find(&format!("service.{leaf}")).unwrap().shape else { panic!("{leaf}") };
        choices.iter().filter(|choice| choice.support == Support::Supported).map(|choice| choice.word).collect()
    }
}
