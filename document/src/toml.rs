//! TOML into a [`Tree`].

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Error};

use crate::lock::{REF, RefPlace};
use crate::tree::{Broken, Fault, Place, Tree, child};

/// The words of the toml crate for a key that stands twice.
const DUPLICATE: &str = "duplicate key";

pub(crate) fn parse(text: &str) -> Tree {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut tree = Tree::default();
    let whole = errors.iter().all(|error| error.message() == DUPLICATE);
    tree.broken = errors.iter().map(|error| broken(error, text, whole)).collect();
    tree.broken.sort_by_key(|broken| broken.at);
    tree.stands("", Place { key: 0, value: 0 });
    tree.value = Value::Object(table(root.get_ref(), "", &mut tree));
    tree
}

/// Where services follow a branch or tag. Empty for a document that does not parse.
pub(crate) fn refs(text: &str) -> Vec<RefPlace> {
    let Ok(root) = DeTable::parse(text) else { return Vec::new() };
    let services = root.get_ref().get("service").and_then(|services| services.get_ref().as_array());
    let place = |(service, item): (usize, &Spanned<DeValue<'_>>)| {
        let (key, value) = item.get_ref().as_table()?.get_key_value(REF)?;
        Some(RefPlace { service, key: key.span(), value: value.span() })
    };
    services.into_iter().flat_map(|services| services.iter().enumerate()).filter_map(place).collect()
}

/// Only the message: the full text of such an error quotes the line it is about.
fn broken(error: &Error, text: &str, whole: bool) -> Broken {
    let span = error.span().unwrap_or(text.len()..text.len());
    let at = span.start;
    if error.message() == DUPLICATE {
        // After broken syntax a "key" may be a piece of a value, so then it is not named.
        let name = text.get(span).filter(|_| whole).map(|key| key.trim_matches(['"', '\'']));
        return Broken { at, fault: Fault::Duplicate(name.map(|name| crate::tree::dotted(&child("", name)))) };
    }
    let (found, expected) = match error.message().split_once(", expected ") {
        Some((found, expected)) => (found, Some(expected.to_owned())),
        None => (error.message(), None),
    };
    Broken { at, fault: Fault::Syntax { found: found.to_owned(), expected } }
}

fn table(from: &DeTable<'_>, pointer: &str, tree: &mut Tree) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, item) in from {
        let pointer = child(pointer, key.get_ref());
        tree.stands(&pointer, Place { key: key.span().start, value: item.span().start });
        let value = value(item, &pointer, tree);
        map.insert(key.get_ref().to_string(), value);
    }
    map
}

fn array(from: &DeArray<'_>, pointer: &str, tree: &mut Tree) -> Vec<Value> {
    let each = from.iter().enumerate().map(|(index, item)| {
        let pointer = child(pointer, &index.to_string());
        let start = item.span().start;
        tree.stands(&pointer, Place { key: start, value: start });
        value(item, &pointer, tree)
    });
    each.collect()
}

fn value(item: &Spanned<DeValue<'_>>, pointer: &str, tree: &mut Tree) -> Value {
    match item.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Number(number.into()),
            Err(_) => tree.foreign(pointer, "a number out of range"),
        },
        DeValue::Float(number) => match number.as_str().parse::<f64>().ok().and_then(Number::from_f64) {
            Some(number) => Value::Number(number),
            None => tree.foreign(pointer, "a number that is not finite"),
        },
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(_) => tree.foreign(pointer, "a date or time"),
        DeValue::Array(list) => Value::Array(array(list, pointer, tree)),
        DeValue::Table(inner) => Value::Object(table(inner, pointer, tree)),
    }
}
