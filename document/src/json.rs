//! JSON as RFC 8259 has it, with spans: no comments, no trailing commas.

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Value};

use crate::Parsed;
use crate::lines::{Lines, child};

const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

pub(crate) fn parse(text: &str) -> Parsed {
    let mut reader = Reader { lines: Lines::default(), syntax: Vec::new() };
    let tree = match parse_to_ast(text, &CollectOptions::default(), &STRICT) {
        Ok(parsed) => parsed.value.map_or(Value::Null, |root| reader.value(&root, "")),
        Err(error) => {
            reader.syntax.push((error.range().start, error.kind().to_string()));
            Value::Object(Map::new())
        }
    };
    Parsed { tree, lines: reader.lines, syntax: reader.syntax }
}

struct Reader {
    lines: Lines,
    syntax: Vec<(usize, String)>,
}

impl Reader {
    fn value(&mut self, from: &ast::Value<'_>, pointer: &str) -> Value {
        match from {
            ast::Value::StringLit(text) => Value::String(text.value.to_string()),
            ast::Value::NumberLit(number) => {
                serde_json::from_str(number.value).unwrap_or_else(|_| Value::String(number.value.to_owned()))
            }
            ast::Value::BooleanLit(value) => Value::Bool(value.value),
            ast::Value::NullKeyword(_) => Value::Null,
            ast::Value::Array(list) => {
                let mut read = Vec::new();
                for (index, element) in list.elements.iter().enumerate() {
                    let pointer = format!("{pointer}/{index}");
                    self.lines.put(&pointer, None, element.start());
                    read.push(self.value(element, &pointer));
                }
                Value::Array(read)
            }
            ast::Value::Object(object) => self.object(object, pointer),
        }
    }

    fn object(&mut self, object: &ast::Object<'_>, pointer: &str) -> Value {
        let mut members = Map::new();
        for property in &object.properties {
            let name = property.name.as_str();
            let pointer = child(pointer, name);
            if members.contains_key(name) {
                self.syntax.push((property.range.start, format!("the key `{name}` a second time")));
                continue;
            }
            self.lines.put(&pointer, Some(property.range.start), property.value.start());
            let value = self.value(&property.value, &pointer);
            members.insert(name.to_owned(), value);
        }
        Value::Object(members)
    }
}
