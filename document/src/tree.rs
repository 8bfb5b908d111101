//! A parsed document: its values, where each of them stands, and what did not parse.

use std::collections::HashMap;

use agentd_protocol::validate::{Locus, Problem};
use serde_json::Value;

use crate::DUPLICATE_KEY;
use crate::{Format, SYNTAX};

/// Byte offsets of a key and of its value; equal where there is no key (elements of a list).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) key: usize,
    pub(crate) value: usize,
}

/// A piece of the text that is not what the format allows.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) at: usize,
    pub(crate) fault: Fault,
}

#[derive(Debug)]
pub(crate) enum Fault {
    /// The same key twice in one table; its name where it is known for sure.
    Duplicate(Option<String>),
    /// The parser's own words, which never quote the text, and what it would take.
    Syntax { found: String, expected: Option<String> },
}

impl Broken {
    /// After a duplicate key the rest of the document reads as it was meant.
    pub(crate) fn keeps_structure(&self) -> bool {
        matches!(self.fault, Fault::Duplicate(_))
    }

    pub(crate) fn problem(&self, format: Format) -> Problem {
        let (key, found, expected) = match &self.fault {
            Fault::Duplicate(key) => {
                let key = key.clone().unwrap_or_else(|| SYNTAX.to_owned());
                (key, DUPLICATE_KEY.to_owned(), "each key once".to_owned())
            }
            Fault::Syntax { found, expected } => {
                let expected = expected.clone().unwrap_or_else(|| format!("valid {}", format.name()));
                (SYNTAX.to_owned(), found.clone(), expected)
            }
        };
        Problem { pointer: String::new(), key, found, expected, nearest: None, at: Locus::Value }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) value: Value,
    pub(crate) broken: Vec<Broken>,
    places: HashMap<String, Place>,
    /// Values of types JSON has not, which stand in `value` as null: their type in words.
    foreign: HashMap<String, &'static str>,
}

impl Tree {
    pub(crate) fn stands(&mut self, pointer: &str, place: Place) {
        self.places.insert(pointer.to_owned(), place);
    }

    pub(crate) fn foreign(&mut self, pointer: &str, kind: &'static str) -> Value {
        self.foreign.insert(pointer.to_owned(), kind);
        Value::Null
    }

    pub(crate) fn holds(&self, pointer: &str) -> bool {
        self.places.contains_key(pointer)
    }

    /// Byte offset of what a pointer names, or of the nearest table around it that is there.
    pub(crate) fn place(&self, pointer: &str, at: Locus) -> usize {
        if let Some(place) = self.places.get(pointer) {
            return match at {
                Locus::Key => place.key,
                Locus::Value => place.value,
            };
        }
        let ancestors =
            std::iter::successors(Some(pointer), |pointer| pointer.rsplit_once('/').map(|(above, _)| above));
        ancestors.skip(1).find_map(|pointer| self.places.get(pointer)).map_or(0, |place| place.key)
    }

    /// Names the type of a value that JSON has not.
    pub(crate) fn with_type(&self, mut problem: Problem) -> Problem {
        if let Some(kind) = self.foreign.get(&problem.pointer).filter(|_| problem.found == "null") {
            problem.found = (*kind).to_owned();
        }
        problem
    }
}

/// Pointer of a child (RFC 6901).
pub(crate) fn child(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A key as a person writes it, with the numbers of list elements left out; on one line, and of `NAME=value` written
/// as a key only the name.
pub(crate) fn dotted(pointer: &str) -> String {
    let parts = pointer.split('/').skip(1).filter(|part| part.parse::<usize>().is_err());
    let shown = parts.map(|part| part.split('=').next().unwrap_or_default().replace("~1", "/").replace("~0", "~"));
    shown
        .map(|part| part.chars().take(60).flat_map(char::escape_debug).collect::<String>())
        .collect::<Vec<_>>()
        .join(".")
}
