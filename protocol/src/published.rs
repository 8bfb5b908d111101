//! The published form: a document with the names of env variables, and their values in an object beside it.
//!
//! The document carries the digest of that object, so a changed value is a changed document. Between machines the object
//! is salted: who may read the document and not the values must not find a short value by trying.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::ids::ServiceName;
use crate::stack::{Service, Stack};

/// Key of the document that names its env object.
const ENV_DIGEST_KEY: &str = "env_sha256";

type Env = BTreeMap<String, String>;

/// Exact bytes of a document and of its env object. No `Debug`: the object holds secrets.
#[expect(missing_debug_implementations, reason = "the env object holds secrets")]
pub struct Published {
    pub document: String,
    pub env: String,
}

/// The env object between machines.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Salted {
    /// Random, 128 bits in any text form.
    salt: String,
    service: BTreeMap<ServiceName, Env>,
}

/// Why a document and an env object make no stack.
#[derive(Debug)]
pub enum NotJoined {
    /// The document names another object.
    OtherEnv,
    /// A variable stands in one of the two alone.
    Mismatch {
        service: ServiceName,
        variable: String,
    },
    /// Never with text of the object, which holds secrets.
    Document(serde_json::Error),
    Env,
}

impl std::fmt::Display for NotJoined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherEnv => f.write_str("the env object is not the one that the document names"),
            Self::Mismatch { service, variable } => {
                write!(
                    f,
                    "variable `{variable}` of service `{service}` stands in the document or in its env object alone"
                )
            }
            Self::Document(_) => f.write_str("the document is not one of schema 1"),
            Self::Env => f.write_str("the env object cannot be read"),
        }
    }
}

impl std::error::Error for NotJoined {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Document(error) => Some(error),
            Self::OtherEnv | Self::Mismatch { .. } | Self::Env => None,
        }
    }
}

/// Same stack, same bytes: fields in the order of their declaration, maps sorted, no white space.
pub fn split_stack(stack: &Stack) -> Published {
    let env = serde_json::to_string(&values(stack)).expect("a map of texts is JSON");
    Published { document: document(stack, Some(&Digest::of(env.as_bytes()))), env }
}

/// As it travels between machines. `salt` is drawn anew when a value changes, and kept while none does.
pub fn split_salted(stack: &Stack, salt: &str) -> Published {
    let service = values(stack).into_iter().map(|(name, env)| (name.clone(), env.clone())).collect();
    let env = serde_json::to_string(&Salted { salt: salt.to_owned(), service }).expect("a map of texts is JSON");
    Published { document: document(stack, Some(&Digest::of(env.as_bytes()))), env }
}

/// Without any env object's digest: what a document is apart from the values.
pub fn names_of(stack: &Stack) -> String {
    document(stack, None)
}

/// The digest of the env object that a document names.
pub fn env_digest(document: &[u8]) -> Result<Digest, serde_json::Error> {
    #[derive(Deserialize)]
    struct Named {
        env_sha256: Digest,
    }
    serde_json::from_slice(document).map(|named: Named| named.env_sha256)
}

/// Puts a document and its env object together, which must belong to each other.
pub fn join_salted(document: &[u8], env: &[u8]) -> Result<Stack, NotJoined> {
    if env_digest(document).map_err(NotJoined::Document)? != Digest::of(env) {
        return Err(NotJoined::OtherEnv);
    }
    let mut values = serde_json::from_slice::<Salted>(env).map_err(|_| NotJoined::Env)?.service;
    let mut document: Map<String, Value> = serde_json::from_slice(document).map_err(NotJoined::Document)?;
    for entry in document.get("service").and_then(Value::as_array).into_iter().flatten() {
        let Ok(service) = serde_json::from_value::<ServiceName>(entry["name"].clone()) else { continue };
        let names: BTreeSet<String> = entry
            .get("env")
            .map_or(Ok(BTreeSet::new()), |names| serde_json::from_value(names.clone()))
            .map_err(NotJoined::Document)?;
        let valued = values.get(&service).map(|env| env.keys().cloned().collect()).unwrap_or_default();
        if let Some(variable) = names.symmetric_difference(&valued).next() {
            return Err(NotJoined::Mismatch { service, variable: variable.clone() });
        }
    }
    let stack = joined(&mut document, &mut values).map_err(NotJoined::Document)?;
    match values.into_iter().find_map(|(service, env)| Some((service, env.into_keys().next()?))) {
        Some((service, variable)) => Err(NotJoined::Mismatch { service, variable }),
        None => Ok(stack),
    }
}

fn values(stack: &Stack) -> BTreeMap<&ServiceName, &Env> {
    stack.service.iter().filter(|service| !service.env.is_empty()).map(|s| (&s.name, &s.env)).collect()
}

fn document(stack: &Stack, env: Option<&Digest>) -> String {
    let mut document = object(serde_json::to_value(stack).expect("a stack is JSON"));
    if let Some(Value::Array(entries)) = document.get_mut("service") {
        entries.iter_mut().filter_map(Value::as_object_mut).for_each(names_only);
    }
    if let Some(env) = env {
        document.insert(ENV_DIGEST_KEY.to_owned(), Value::String(env.to_string()));
    }
    Value::Object(document).to_string()
}

pub fn join_stack(document: &str, env: &str) -> Result<Stack, serde_json::Error> {
    joined(&mut serde_json::from_str(document)?, &mut serde_json::from_str(env)?)
}

/// Takes out of `values` what the document's services have.
fn joined(
    document: &mut Map<String, Value>,
    values: &mut BTreeMap<ServiceName, Env>,
) -> Result<Stack, serde_json::Error> {
    // `remove` would move the last key into the hole; the order is the document's.
    document.shift_remove(ENV_DIGEST_KEY);
    if let Some(Value::Array(entries)) = document.get_mut("service") {
        entries.iter_mut().filter_map(Value::as_object_mut).for_each(without_names);
    }
    let mut stack: Stack = serde_json::from_value(Value::Object(std::mem::take(document)))?;
    for service in &mut stack.service {
        service.env = values.remove(&service.name).unwrap_or_default();
    }
    Ok(stack)
}

pub fn split_service(service: &Service) -> Published {
    let env = serde_json::to_string(&service.env).expect("a map of texts is JSON");
    let mut entry = object(serde_json::to_value(service).expect("a service is JSON"));
    names_only(&mut entry);
    Published { document: Value::Object(entry).to_string(), env }
}

/// Takes of `env` what the entry names: a release's object also holds the variables of its env_file.
pub fn join_service(entry: &str, env: &str) -> Result<Service, serde_json::Error> {
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
    use super::*;
    use crate::stack::Span;

    fn stack(service: Vec<Service>) -> Stack {
        let tree = serde_json::json!({"schema": 1, "stack": {"name": "shop"}});
        Stack { service, ..crate::validate::validate(&tree).unwrap() }
    }

    fn service(name: &str) -> Service {
        let entry = serde_json::json!({
            "name": name, "repo": "https://git.example.com/shop/api", "commit": "1".repeat(40), "run": "./run", "path": format!("/{name}"),
        });
        let tree = serde_json::json!({"schema": 1, "stack": {"name": "shop"}, "service": [entry]});
        crate::validate::validate(&tree).unwrap().service.remove(0)
    }

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
