//! The published form: a document with the names of env variables, and their values in an object beside it.
//!
//! The document carries the digest of that object, so a changed value is a changed document.

use std::collections::{BTreeMap, BTreeSet};

use agentd_protocol::ids::ServiceName;
use agentd_protocol::stack::{Service, Stack};
use serde_json::{Map, Value};

use super::digest::Digest;

/// Key of the document that names its env object.
const ENV_DIGEST_KEY: &str = "env_sha256";

type Env = BTreeMap<String, String>;

/// Exact bytes of a document and of its env object. No `Debug`: the object holds secrets.
pub(super) struct Published {
    pub(super) document: String,
    pub(super) env: String,
}

/// Same stack, same bytes: fields in the order of their declaration, maps sorted, no white space.
pub(super) fn split_stack(stack: &Stack) -> Published {
    let values: BTreeMap<&ServiceName, &Env> =
        stack.service.iter().filter(|service| !service.env.is_empty()).map(|s| (&s.name, &s.env)).collect();
    let env = serde_json::to_string(&values).expect("a map of texts is JSON");
    let mut document = object(serde_json::to_value(stack).expect("a stack is JSON"));
    if let Some(Value::Array(entries)) = document.get_mut("service") {
        entries.iter_mut().filter_map(Value::as_object_mut).for_each(names_only);
    }
    document.insert(ENV_DIGEST_KEY.to_owned(), Value::String(Digest::of(env.as_bytes()).to_string()));
    Published { document: Value::Object(document).to_string(), env }
}

pub(super) fn join_stack(document: &str, env: &str) -> Result<Stack, serde_json::Error> {
    let mut values: BTreeMap<ServiceName, Env> = serde_json::from_str(env)?;
    let mut document: Map<String, Value> = serde_json::from_str(document)?;
    // `remove` would move the last key into the hole; the order is the document's.
    document.shift_remove(ENV_DIGEST_KEY);
    if let Some(Value::Array(entries)) = document.get_mut("service") {
        entries.iter_mut().filter_map(Value::as_object_mut).for_each(without_names);
    }
    let mut stack: Stack = serde_json::from_value(Value::Object(document))?;
    for service in &mut stack.service {
        service.env = values.remove(&service.name).unwrap_or_default();
    }
    Ok(stack)
}

pub(super) fn split_service(service: &Service) -> Published {
    let env = serde_json::to_string(&service.env).expect("a map of texts is JSON");
    let mut entry = object(serde_json::to_value(service).expect("a service is JSON"));
    names_only(&mut entry);
    Published { document: Value::Object(entry).to_string(), env }
}

/// Takes of `env` what the entry names: a release's object also holds the variables of its env_file.
pub(super) fn join_service(entry: &str, env: &str) -> Result<Service, serde_json::Error> {
    let mut entry: Map<String, Value> = serde_json::from_str(entry)?;
    let names: BTreeSet<String> = entry.shift_remove("env").map_or(Ok(BTreeSet::new()), serde_json::from_value)?;
    let mut service: Service = serde_json::from_value(Value::Object(entry))?;
    service.env = serde_json::from_str(env)?;
    service.env.retain(|name, _| names.contains(name));
    Ok(service)
}

/// Identity of a service's entry, env values included: what a pin is compared with to see whether the entry changed.
pub fn entry_digest(service: &Service) -> Digest {
    let parts = split_service(service);
    // A JSON text holds no raw NUL, so the two parts cannot run into each other.
    Digest::of(&[parts.document.as_bytes(), b"\0", parts.env.as_bytes()].concat())
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("a struct becomes an object")
        }
    }
}

fn names_only(entry: &mut Map<String, Value>) {
    if let Some(env) = entry.get_mut("env")
        && let Value::Object(values) = env
    {
        *env = values.keys().cloned().map(Value::String).collect();
    }
}

fn without_names(entry: &mut Map<String, Value>) {
    entry.shift_remove("env");
}

#[cfg(test)]
mod tests {
    use agentd_protocol::stack::Span;

    use super::super::testing::{service, stack};
    use super::*;

    #[test]
    fn document_names_what_the_object_values() {
        let mut api = service("api");
        api.env = [("B_KEY", "hunter2"), ("A_KEY", "x")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let whole = stack(vec![api, service("web")]);
        let parts = split_stack(&whole);
        assert!(parts.document.contains(r#""env":["A_KEY","B_KEY"]"#), "{}", parts.document);
        assert!(!parts.document.contains("hunter2"));
        assert_eq!(parts.env, r#"{"api":{"A_KEY":"x","B_KEY":"hunter2"}}"#);
        assert_eq!(join_stack(&parts.document, &parts.env).unwrap(), whole);
    }

    #[test]
    fn a_changed_value_is_a_changed_document_and_entry() {
        let mut api = service("api");
        api.env.insert("KEY".into(), "one".into());
        let (document, entry) = (split_stack(&stack(vec![api.clone()])).document, entry_digest(&api));
        api.env.insert("KEY".into(), "two".into());
        assert_ne!(split_stack(&stack(vec![api.clone()])).document, document);
        assert_ne!(entry_digest(&api), entry);
    }

    #[test]
    fn entries_round_trip() {
        let mut api = service("api");
        api.drain = Span::from_secs(7);
        api.env.insert("KEY".into(), "value".into());
        let parts = split_service(&api);
        assert!(!parts.document.contains("value"));
        assert_eq!(join_service(&parts.document, &parts.env).unwrap(), api);
        assert_eq!(join_service(&parts.document, r#"{"FILE":"x","KEY":"value"}"#).unwrap(), api);
    }
}
