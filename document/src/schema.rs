//! The JSON Schema (2020-12) of a document, for editors. It says less than `agentctl check`: rules between keys and
//! inside texts are code.

use agentd_protocol::keys::{self, Absent, Key, Shape, Support, supported};
use agentd_protocol::stack::SERVICES_MAX;
use serde_json::{Map, Value, json};

/// As it is checked in as docs/stack.schema.json, with a final newline.
pub fn text() -> String {
    let mut root = object("");
    let head = [
        ("$schema", json!("https://json-schema.org/draft/2020-12/schema")),
        ("title", json!("agentd stack, schema 1")),
    ];
    let body = root.as_object_mut().map(std::mem::take).unwrap_or_default();
    let whole: Map<String, Value> = head.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(body).collect();
    format!("{:#}\n", Value::Object(whole))
}

fn object(table: &str) -> Value {
    let properties: Map<String, Value> =
        keys::children(table).map(|key| (key.leaf().to_owned(), property(key))).collect();
    let required: Vec<&str> =
        keys::children(table).filter(|key| key.absent == Absent::Required).map(Key::leaf).collect();
    let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if table == "service" {
        let site = json!({ "properties": { "kind": { "const": "static" } }, "required": ["kind"] });
        schema["anyOf"] = json!([{ "required": ["run"] }, site]);
        schema["oneOf"] = json!([{ "required": ["ref"] }, { "required": ["commit"] }]);
    }
    schema
}

fn property(key: &Key) -> Value {
    if key.support == Support::NotYet {
        return json!({ "description": format!("{} ({})", key.meaning, keys::NOT_YET), "not": {} });
    }
    let mut schema = match key.shape {
        Shape::Text(_) => json!({ "type": "string", "minLength": 1 }),
        Shape::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Shape::Number => json!({ "type": "number" }),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Span { .. } => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
        Shape::Choice(choices) => json!({ "enum": supported(choices).collect::<Vec<_>>() }),
        Shape::Strings => json!({ "type": "array", "items": { "type": "string" } }),
        Shape::Table => object(key.name),
        Shape::Tables => json!({ "type": "array", "maxItems": SERVICES_MAX, "items": object(key.name) }),
        Shape::Environment => json!({
            "type": "object",
            "propertyNames": { "pattern": "^(?!AGENTD_)[A-Za-z_][A-Za-z0-9_]*$" },
            "additionalProperties": { "type": "string" },
        }),
    };
    schema["description"] = json!(key.meaning);
    match key.absent {
        Absent::Text(text) => schema["default"] = json!(text),
        Absent::Integer(number) => schema["default"] = json!(number),
        Absent::Bool(flag) => schema["default"] = json!(flag),
        Absent::Required | Absent::Nothing(_) => {}
    }
    schema
}
