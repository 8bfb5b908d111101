//! TOML with spans; goes on after a syntax error, so that one run shows them all.

use serde_json::{Map, Number, Value};
use toml::de::{DeTable, DeValue};

use crate::Parsed;
use crate::lines::{Lines, child};

pub(crate) fn parse(text: &str) -> Parsed {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut lines = Lines::default();
    let tree = object(table.get_ref(), "", &mut lines);
    let syntax = errors.iter().map(|error| (error.span().map_or(0, |span| span.start), error.message().to_owned()));
    Parsed { tree, lines, syntax: syntax.collect() }
}

fn object(table: &DeTable<'_>, pointer: &str, lines: &mut Lines) -> Value {
    let mut members = Map::new();
    for (key, member) in table {
        let name = key.get_ref().as_ref();
        let pointer = child(pointer, name);
        lines.put(&pointer, Some(key.span().start), member.span().start);
        members.insert(name.to_owned(), value(member.get_ref(), &pointer, lines));
    }
    Value::Object(members)
}

fn value(from: &DeValue<'_>, pointer: &str, lines: &mut Lines) -> Value {
    match from {
        DeValue::String(text) => Value::String(text.as_ref().to_owned()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(number) => {
            let digits = number.as_str();
            let read = i64::from_str_radix(digits, number.radix());
            read.map_or_else(|_| Value::String(digits.to_owned()), Value::from)
        }
        DeValue::Float(number) => {
            let read = number.as_str().parse().ok().and_then(Number::from_f64);
            read.map_or_else(|| Value::String(number.as_str().to_owned()), Value::Number)
        }
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(elements) => {
            let mut read = Vec::new();
            for (index, element) in elements.iter().enumerate() {
                let pointer = format!("{pointer}/{index}");
                lines.put(&pointer, None, element.span().start);
                read.push(value(element.get_ref(), &pointer, lines));
            }
            Value::Array(read)
        }
        DeValue::Table(table) => object(table, pointer, lines),
    }
}
