//! What differs between two stacks, for people: keys as they write them, names of variables and never a value. Pure.

use std::collections::{BTreeMap, BTreeSet};

use agentd_protocol::ids::ServiceName;
use agentd_protocol::stack::{Service, Stack};
use serde_json::Value;

use crate::model::{Change, Diff, EnvChange, KeyChange, ServiceChange};

/// Lines of a summary.
const SUMMARY_MAX: usize = 12;

/// `None`: nothing is there on that side.
pub(super) fn diff(from: Option<&Stack>, to: Option<&Stack>) -> Diff {
    let outside = |stack: Option<&Stack>| {
        let mut value = stack.map_or(Value::Null, |stack| serde_json::to_value(stack).expect("a stack is JSON"));
        if let Some(map) = value.as_object_mut() {
            map.shift_remove("service");
        }
        flat(&value)
    };
    let stack = keys(&outside(from), &outside(to));
    let services = |stack: Option<&Stack>| -> BTreeMap<ServiceName, Service> {
        stack.map(|stack| stack.service.iter().map(|s| (s.name.clone(), s.clone())).collect()).unwrap_or_default()
    };
    let (before, after) = (services(from), services(to));
    let names: BTreeSet<&ServiceName> = before.keys().chain(after.keys()).collect();
    let services = names.into_iter().filter_map(|name| service(name, before.get(name), after.get(name))).collect();
    Diff { stack, services }
}

fn service(name: &ServiceName, from: Option<&Service>, to: Option<&Service>) -> Option<ServiceChange> {
    let change = match (from, to) {
        (None, None) => return None,
        (None, Some(_)) => Change::Added,
        (Some(_), None) => Change::Removed,
        (Some(from), Some(to)) if from == to => return None,
        (Some(_), Some(_)) => Change::Changed,
    };
    let entry = |service: Option<&Service>| {
        let mut value = service.map_or(Value::Null, |service| serde_json::to_value(service).expect("it is JSON"));
        if let Some(map) = value.as_object_mut() {
            map.shift_remove("env");
            map.shift_remove("name");
            // `source` is how the document is carried; people write `ref` or `commit`.
            if let Some(Value::Object(source)) = map.shift_remove("source") {
                map.extend(source);
            }
        }
        flat(&value)
    };
    let keys = keys(&entry(from), &entry(to));
    Some(ServiceChange { name: name.clone(), change, keys, env: env(from, to) })
}

fn env(from: Option<&Service>, to: Option<&Service>) -> Vec<EnvChange> {
    let values = |service: Option<&Service>| service.map(|service| service.env.clone()).unwrap_or_default();
    let (from, to) = (values(from), values(to));
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let change = |name: &String| match (from.get(name), to.get(name)) {
        (None, Some(_)) => Some(Change::Added),
        (Some(_), None) => Some(Change::Removed),
        (Some(from), Some(to)) if from != to => Some(Change::Changed),
        _ => None,
    };
    names.into_iter().filter_map(|name| Some(EnvChange { name: name.clone(), change: change(name)? })).collect()
}

fn keys(from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) -> Vec<KeyChange> {
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let differing = names.into_iter().filter(|name| from.get(*name) != to.get(*name));
    let change =
        |name: &String| KeyChange { key: name.clone(), from: from.get(name).cloned(), to: to.get(name).cloned() };
    differing.map(change).collect()
}

/// Leaves by their dotted keys. Lists are leaves.
fn flat(value: &Value) -> BTreeMap<String, String> {
    let mut leaves = BTreeMap::new();
    flatten("", value, &mut leaves);
    leaves
}

fn flatten(key: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (name, inner) in map {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(&key, inner, leaves);
            }
        }
        Value::String(text) => {
            leaves.insert(key.to_owned(), text.clone());
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            leaves.insert(key.to_owned(), value.to_string());
        }
    }
}

/// A few lines for the list of versions.
pub(super) fn summary(diff: &Diff) -> Vec<String> {
    let mut lines: Vec<String> = diff.services.iter().map(summary_of).collect();
    // Every stack has one: where it is new, everything is, and nothing has changed.
    let is_first = diff.stack.iter().any(|key| key.key == "schema" && key.from.is_none());
    lines.extend(diff.stack.iter().filter(|_| !is_first).map(|key| format!("{} changed", key.key)));
    let rest = lines.len().saturating_sub(SUMMARY_MAX);
    lines.truncate(SUMMARY_MAX);
    if rest > 0 {
        lines.push(format!("and {rest} more"));
    }
    lines
}

fn summary_of(service: &ServiceChange) -> String {
    let name = &service.name;
    match service.change {
        Change::Added => return format!("{name} added"),
        Change::Removed => return format!("{name} removed"),
        Change::Changed => {}
    }
    let short = |text: &Option<String>| text.as_deref().unwrap_or("none").chars().take(7).collect::<String>();
    let mut parts: Vec<String> = Vec::new();
    for key in &service.keys {
        parts.push(match key.key.as_str() {
            "commit" => format!("commit {} to {}", short(&key.from), short(&key.to)),
            other => other.to_owned(),
        });
    }
    parts.extend(service.env.iter().map(|env| format!("env {}", env.name)));
    format!("{name}: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use agentd_document::{Format, read};

    use super::*;

    fn stack(services: &str) -> Stack {
        let text = format!("schema = 1\nstack.name = 's'\n{services}");
        read(&text, Format::Toml).unwrap()
    }

    fn api(commit: char, rest: &str) -> String {
        let commit = commit.to_string().repeat(40);
        format!(
            "[[service]]\nname = 'api'\nrepo = 'https://git.example.com/a'\ncommit = '{commit}'\nrun = './r'\n{rest}"
        )
    }

    #[test]
    fn names_of_variables_are_told_and_values_never() {
        let from = stack(&api('1', "env = { A = 'hunter2', B = 'x', D = 'same' }"));
        let to = stack(&api('2', "replicas = 3\nenv = { A = 'hunter3', C = 'y', D = 'same' }"));
        let diff = diff(Some(&from), Some(&to));
        let names: Vec<(&str, Change)> =
            diff.services[0].env.iter().map(|env| (env.name.as_str(), env.change)).collect();
        assert_eq!(names, [("A", Change::Changed), ("B", Change::Removed), ("C", Change::Added)]);
        let keys: Vec<&str> = diff.services[0].keys.iter().map(|key| key.key.as_str()).collect();
        assert_eq!(keys, ["commit", "replicas"]);
        assert!(!serde_json::to_string(&diff).unwrap().contains("hunter"));
        assert_eq!(summary(&diff), ["api: commit 1111111 to 2222222, replicas, env A, env B, env C"]);
    }

    #[test]
    fn the_same_is_no_difference_and_nothing_is_a_side() {
        let one = stack(&api('1', ""));
        assert!(diff(Some(&one), Some(&one)).is_empty() && diff(None, None).is_empty());
        assert_eq!(diff(None, Some(&one)).services[0].change, Change::Added);
        assert_eq!(diff(Some(&one), None).services[0].change, Change::Removed);
        assert_eq!(summary(&diff(None, Some(&one))), ["api added"]);
        assert!(diff(None, Some(&one)).stack.iter().any(|key| key.key == "stack.name" && key.from.is_none()));
    }
}
