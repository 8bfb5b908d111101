//! From a document's tree to a [`Stack`], or to everything that is wrong with it at once. Pure.
//!
//! First the shape, by the table of keys: unknown keys, wrong types, keys this version does not support. Then each
//! value by its own rule, then what values say of each other.

mod rules;
mod service;
mod shape;
mod whole;

use std::fmt;

use serde_json::Value;

use crate::stack::Stack;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// RFC 6901, into the document's tree.
    pub pointer: String,
    /// As a person names it: `service[api].health.path`.
    pub key: String,
    /// Never a value of `env`.
    pub found: String,
    pub expected: String,
    pub nearest: Option<String>,
    pub at: At,
}

/// Which end of a key-value pair the problem is about, for the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Key,
    Value,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}, expected {}", self.key, self.found, self.expected)?;
        match &self.nearest {
            Some(nearest) => write!(f, " (did you mean `{nearest}`?)"),
            None => Ok(()),
        }
    }
}

/// The stack with every default filled in, or every problem in the order of the document's tree.
pub fn validate(tree: &Value) -> Result<Stack, Vec<Problem>> {
    let mut problems = Vec::new();
    shape::check(tree, &mut problems);
    let stack = whole::read(tree, &mut problems);
    match stack {
        Some(stack) if problems.is_empty() => Ok(stack),
        Some(_) | None => Err(problems),
    }
}
