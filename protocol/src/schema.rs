//! The table of keys as JSON Schema 2020-12, for editors.

use serde_json::{Map, Value, json};

use crate::keys::{self, Key, KeyKind, Support};
use crate::stack::{SERVICES_MAX, Span};

/// The schema of a whole document. It knows keys and single values; what values say of each other, `agentctl check`
/// alone knows.
pub fn json_schema() -> Value {
    let mut root = section("");
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "agentd stack, schema 1",
        "description": "The desired state of one host: its services, from git to running and reachable.",
    });
    let Value::Object(mut schema) = head else { unreachable!("written above as an object") };
    schema.append(&mut root);
    Value::Object(schema)
}

fn section(name: &str) -> Map<String, Value> {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in keys::children(name) {
        let leaf = keys::leaf(key.name);
        properties.insert(leaf.to_owned(), property(key));
        if key.default == "required" {
            required.push(leaf);
        }
    }
    let mut section = Map::new();
    section.insert("type".to_owned(), json!("object"));
    section.insert("properties".to_owned(), Value::Object(properties));
    section.insert("additionalProperties".to_owned(), json!(false));
    if !required.is_empty() {
        section.insert("required".to_owned(), json!(required));
    }
    match name {
        "service" => {
            section.insert("oneOf".to_owned(), json!([{ "required": ["ref"] }, { "required": ["commit"] }]));
        }
        "service.health" => {
            let without_probe = json!({ "propertyNames": { "const": "start_deadline" } });
            section.insert("anyOf".to_owned(), json!([{ "required": ["path"] }, without_probe]));
        }
        _ => {}
    }
    section
}

fn property(key: &Key) -> Value {
    if key.support == Support::NotYet {
        // Matches nothing: the editor marks the key, and shows why.
        return json!({ "description": format!("{}: {}", keys::NOT_YET, key.meaning), "not": {} });
    }
    let mut property = Map::new();
    property.insert("description".to_owned(), json!(key.meaning));
    property.append(&mut shape(key));
    if let Some(default) = default(key) {
        property.insert("default".to_owned(), default);
    }
    Value::Object(property)
}

fn shape(key: &Key) -> Map<String, Value> {
    let shape = match key.kind {
        KeyKind::Section => return section(key.name),
        KeyKind::Sections => json!({ "type": "array", "maxItems": SERVICES_MAX, "items": section(key.name) }),
        KeyKind::Text => match pattern(key.name) {
            Some(pattern) => json!({ "type": "string", "pattern": pattern }),
            None => json!({ "type": "string" }),
        },
        KeyKind::Number(least, most) if least == most => json!({ "const": least }),
        KeyKind::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        KeyKind::Switch => json!({ "type": "boolean" }),
        KeyKind::Span(..) => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
        KeyKind::Word(words, _) => json!({ "enum": words }),
        KeyKind::Variables => json!({
            "type": "object",
            "propertyNames": { "pattern": "^(?!AGENTD_)[A-Za-z_][A-Za-z0-9_]*$" },
            "additionalProperties": { "type": "string" },
        }),
        KeyKind::TextList => json!({ "type": "array", "items": { "type": "string" } }),
        KeyKind::Size => json!({ "type": ["string", "integer"] }),
        KeyKind::Decimal => json!({ "type": "number" }),
    };
    let Value::Object(shape) = shape else { unreachable!("every arm is an object") };
    shape
}

/// Forms that a regular expression can say in full; the others are left to `agentctl check`.
fn pattern(name: &str) -> Option<&'static str> {
    match name {
        "stack.name" | "service.name" => Some("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"),
        "service.commit" => Some("^[0-9a-f]{40}$"),
        "proxy.health_path" | "service.path" | "service.health.path" | "service.env_file" => Some("^/"),
        _ => None,
    }
}

/// The default where the table has a value of the key's type; elsewhere it has words.
fn default(key: &Key) -> Option<Value> {
    match key.kind {
        KeyKind::Number(..) => key.default.parse::<u64>().ok().map(Value::from),
        KeyKind::Switch => key.default.parse::<bool>().ok().map(Value::from),
        KeyKind::Span(..) => key.default.parse::<Span>().ok().map(|_| Value::from(key.default)),
        KeyKind::Word(words, _) => words.contains(&key.default).then(|| Value::from(key.default)),
        KeyKind::Section
        | KeyKind::Sections
        | KeyKind::Text
        | KeyKind::Variables
        | KeyKind::TextList
        | KeyKind::Size
        | KeyKind::Decimal => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_there_and_others_are_refused() {
        let schema = json_schema();
        for key in keys::KEYS {
            let pointer =
                key.name.replace("service.", "service.items.").split('.').collect::<Vec<_>>().join("/properties/");
            let pointer = format!("/properties/{}", pointer.replace("properties/items", "items"));
            let under_refused = key.name.rsplit_once('.').and_then(|(parent, _)| keys::find(parent));
            if under_refused.is_some_and(|parent| parent.support == Support::NotYet) {
                continue;
            }
            let property = schema.pointer(&pointer).unwrap_or_else(|| panic!("{pointer} is missing"));
            assert_eq!(property.get("not").is_some(), key.support == Support::NotYet, "{}", key.name);
            if key.kind == KeyKind::Section && key.support == Support::Supported {
                assert_eq!(property["additionalProperties"], false, "{}", key.name);
            }
        }
        assert_eq!(schema["additionalProperties"], false);
    }

    #[test]
    fn defaults_are_values_of_their_type() {
        let schema = json_schema();
        let service = &schema["properties"]["service"]["items"]["properties"];
        assert_eq!(service["replicas"]["default"], 1);
        assert_eq!(service["public"]["default"], true);
        assert_eq!(service["drain"]["default"], "30s");
        assert_eq!(service["kind"]["default"], "web");
        assert_eq!(service["run"].get("default"), None);
        assert_eq!(service["port"].get("default"), None);
    }
}
