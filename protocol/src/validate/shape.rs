//! Keys and types, by the table alone.

use serde_json::Value;

use super::{At, Problem};
use crate::keys::{self, Key, KeyKind, Support};
use crate::stack::{SERVICES_MAX, Span};

/// Longest piece of a found value that is quoted back.
const QUOTED_CHARS_MAX: usize = 60;

/// Where in the tree: the pointer, the key as people name it, and the dotted name in the table.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) pointer: String,
    pub(super) shown: String,
    pub(super) name: String,
}

impl Place {
    pub(super) fn root() -> Self {
        Self { pointer: String::new(), shown: String::new(), name: String::new() }
    }

    pub(super) fn child(&self, leaf: &str) -> Self {
        let join = |parent: &str| if parent.is_empty() { leaf.to_owned() } else { format!("{parent}.{leaf}") };
        let escaped = leaf.replace('~', "~0").replace('/', "~1");
        Self { pointer: format!("{}/{escaped}", self.pointer), shown: join(&self.shown), name: join(&self.name) }
    }

    /// Element of `[[service]]`, named where it has a name.
    pub(super) fn element(&self, index: usize, element: &Value) -> Self {
        let label = element.get("name").and_then(Value::as_str).map_or_else(|| index.to_string(), str::to_owned);
        Self {
            pointer: format!("{}/{index}", self.pointer),
            shown: format!("{}[{label}]", self.shown),
            name: self.name.clone(),
        }
    }

    pub(super) fn problem(&self, found: impl Into<String>, expected: impl Into<String>) -> Problem {
        Problem {
            pointer: self.pointer.clone(),
            key: self.shown.clone(),
            found: found.into(),
            expected: expected.into(),
            nearest: None,
            at: At::Value,
        }
    }
}

/// A value as a message shows it.
pub(super) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    let dots = if cut.len() < text.len() { "..." } else { "" };
    format!("{:?}", format!("{cut}{dots}"))
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a table".to_owned(),
    }
}

/// The type alone, for values that may be secrets.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

pub(super) fn check(tree: &Value, problems: &mut Vec<Problem>) {
    match tree {
        Value::Object(_) => section(&Place::root(), tree, problems),
        other => {
            problems.push(Problem { key: "document".to_owned(), ..Place::root().problem(found(other), "a table") })
        }
    }
}

fn section(place: &Place, value: &Value, problems: &mut Vec<Problem>) {
    let Value::Object(members) = value else { return };
    for (leaf, member) in members {
        let child = place.child(leaf);
        match keys::find(&child.name) {
            None => problems.push(unknown(place, &child, leaf)),
            Some(key) if key.support == Support::NotYet => {
                problems.push(Problem { at: At::Key, ..child.problem("the key", keys::NOT_YET) });
            }
            Some(key) => one(&child, key, member, problems),
        }
    }
    for key in keys::children(&place.name).filter(|key| key.default == "required") {
        let leaf = keys::leaf(key.name);
        if !members.contains_key(leaf) {
            let missing = place.child(leaf);
            let problem = missing.problem("nothing", key.kind.expected());
            problems.push(Problem { pointer: place.pointer.clone(), at: At::Key, ..problem });
        }
    }
}

fn unknown(parent: &Place, child: &Place, leaf: &str) -> Problem {
    let known: Vec<&str> = keys::children(&parent.name).map(|key| keys::leaf(key.name)).collect();
    Problem {
        found: "an unknown key".to_owned(),
        expected: format!("one of {}", known.join(", ")),
        nearest: keys::nearest(leaf, known.iter().copied()).map(str::to_owned),
        at: At::Key,
        ..child.problem("", "")
    }
}

fn one(place: &Place, key: &Key, value: &Value, problems: &mut Vec<Problem>) {
    match key.kind {
        KeyKind::Section if value.is_object() => section(place, value, problems),
        KeyKind::Sections if value.is_array() => elements(place, value, problems),
        KeyKind::Variables if value.is_object() => variables(place, value, problems),
        kind => {
            if !fits(kind, value) {
                let shown = if matches!(kind, KeyKind::Variables) { type_of(value).to_owned() } else { found(value) };
                problems.push(place.problem(shown, kind.expected()));
            }
        }
    }
}

fn elements(place: &Place, value: &Value, problems: &mut Vec<Problem>) {
    let elements = value.as_array().map_or(&[][..], Vec::as_slice);
    if elements.len() > SERVICES_MAX {
        problems.push(place.problem(format!("{} services", elements.len()), format!("at most {SERVICES_MAX}")));
        return;
    }
    for (index, element) in elements.iter().enumerate() {
        let child = place.element(index, element);
        if element.is_object() {
            section(&child, element, problems);
        } else {
            problems.push(child.problem(found(element), "a table"));
        }
    }
}

fn variables(place: &Place, value: &Value, problems: &mut Vec<Problem>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        if !value.is_string() {
            let cure = format!("text: write {name} = \"...\"");
            problems.push(place.child(name).problem(type_of(value), cure));
        }
    }
}

fn fits(kind: KeyKind, value: &Value) -> bool {
    match (kind, value) {
        (KeyKind::Text, Value::String(_)) | (KeyKind::Switch, Value::Bool(_)) => true,
        (KeyKind::Number(least, most), Value::Number(number)) => {
            number.as_u64().is_some_and(|number| (least..=most).contains(&number))
        }
        (KeyKind::Span, Value::String(text)) => text.parse::<Span>().is_ok(),
        (KeyKind::Word(words), Value::String(text)) => words.contains(&text.as_str()),
        // Their keys are refused before their types are looked at.
        (KeyKind::TextList | KeyKind::Size | KeyKind::Decimal, _) => true,
        _ => false,
    }
}
