//! JSON into a [`Tree`]: strict JSON, nothing of its dialects.

use std::str::FromStr;

use jsonc_parser::ast::{Object, Value as Node};
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Number, Value};

use crate::lock::{REF, RefPlace};
use crate::tree::{Broken, Fault, Place, Tree, child, dotted};

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

pub(crate) fn parse(text: &str) -> Tree {
    let mut tree = Tree::default();
    tree.stands("", Place { key: 0, value: 0 });
    match parse_to_ast(text, &CollectOptions::default(), &STRICT) {
        Ok(parsed) => match parsed.value {
            Some(node) => tree.value = value(&node, "", &mut tree),
            None => tree.broken.push(Broken { at: 0, fault: fault("no value", Some("an object")) }),
        },
        Err(error) => tree.broken.push(broken(&error)),
    }
    tree
}

/// Where services follow a branch or tag. Empty for a document that does not parse.
pub(crate) fn refs(text: &str) -> Vec<RefPlace> {
    let Ok(parsed) = parse_to_ast(text, &CollectOptions::default(), &STRICT) else { return Vec::new() };
    let root = parsed.value.as_ref().and_then(Node::as_object);
    let services = root.and_then(|root| root.get_array("service"));
    let place = |(service, item): (usize, &Node<'_>)| {
        let property = item.as_object()?.get(REF)?;
        let (key, value) = (property.name.range(), property.value.range());
        Some(RefPlace { service, key: key.start..key.end, value: value.start..value.end })
    };
    services.into_iter().flat_map(|services| services.elements.iter().enumerate()).filter_map(place).collect()
}

/// In words of our own where the parser's would quote the text.
fn broken(error: &ParseError) -> Broken {
    let fault = match error.kind() {
        ParseErrorKind::CommentsNotAllowed => fault("a comment", Some("none: JSON has no comments, TOML has")),
        ParseErrorKind::String(_) => fault("a string with an unknown escape or without end", None),
        kind => {
            let words = kind.to_string();
            let mut letters = words.chars();
            let lower = letters.next().map(|first| first.to_lowercase().chain(letters).collect::<String>());
            fault(&lower.unwrap_or_default(), None)
        }
    };
    Broken { at: error.range().start, fault }
}

fn fault(found: &str, expected: Option<&str>) -> Fault {
    Fault::Syntax { found: found.to_owned(), expected: expected.map(str::to_owned) }
}

fn object(from: &Object<'_>, pointer: &str, tree: &mut Tree) -> Map<String, Value> {
    let mut map = Map::new();
    for property in &from.properties {
        let name = property.name.as_str();
        let pointer = child(pointer, name);
        let key = property.range.start;
        if map.contains_key(name) {
            tree.broken.push(Broken { at: key, fault: Fault::Duplicate(Some(dotted(&pointer))) });
            continue;
        }
        tree.stands(&pointer, Place { key, value: property.value.range().start });
        let value = value(&property.value, &pointer, tree);
        map.insert(name.to_owned(), value);
    }
    map
}

fn value(node: &Node<'_>, pointer: &str, tree: &mut Tree) -> Value {
    match node {
        Node::StringLit(text) => Value::String(text.value.to_string()),
        Node::NumberLit(number) => match Number::from_str(number.value) {
            Ok(number) => Value::Number(number),
            Err(_) => tree.foreign(pointer, "a number out of range"),
        },
        Node::BooleanLit(flag) => Value::Bool(flag.value),
        Node::NullKeyword(_) => Value::Null,
        Node::Object(inner) => Value::Object(object(inner, pointer, tree)),
        Node::Array(list) => {
            let each = list.elements.iter().enumerate().map(|(index, node)| {
                let pointer = child(pointer, &index.to_string());
                let start = node.range().start;
                tree.stands(&pointer, Place { key: start, value: start });
                value(node, &pointer, tree)
            });
            Value::Array(each.collect())
        }
    }
}
