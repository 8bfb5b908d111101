//! Text of a desired state, TOML or JSON, to a validated stack, or to every problem with its line.
//!
//! Owns: the two parsers and the way from a pointer to a line. The rules are `agentd_protocol::validate`'s. Never
//! quotes a line of the document: it may hold secrets.

mod json;
mod lines;
mod toml_text;

use std::fmt;
use std::path::Path;

use agentd_protocol::stack::{DOCUMENT_BYTES_MAX, Stack};
use agentd_protocol::validate::{At, Problem, validate};

use lines::Lines;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Toml,
    Json,
}

impl Format {
    /// By the file's name: `.json` is JSON, everything else TOML.
    pub fn of(path: &Path) -> Self {
        let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        if json { Self::Json } else { Self::Toml }
    }
}

/// A problem and where it stands, both from 1; column in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub line: usize,
    pub column: usize,
    pub problem: Problem,
}

impl fmt::Display for Located {
    /// `LINE:COLUMN: KEY: found ..., expected ...`; the caller puts the file's name in front.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.problem)
    }
}

/// A document's tree with the places of its keys and values.
struct Parsed {
    tree: serde_json::Value,
    lines: Lines,
    /// What the parser could not read, with byte offsets.
    syntax: Vec<(usize, String)>,
}

/// Parses and validates. Problems are in the order of the text.
pub fn read(text: &str, format: Format) -> Result<Stack, Vec<Located>> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let found = format!("{} bytes", text.len());
        return Err(vec![Located { line: 1, column: 1, problem: of_document(found, "at most 4 MiB") }]);
    }
    let parsed = match format {
        Format::Toml => toml_text::parse(text),
        Format::Json => json::parse(text),
    };
    let mut located: Vec<Located> = Vec::new();
    for (offset, message) in &parsed.syntax {
        let (line, column) = lines::position(text, *offset);
        located.push(Located { line, column, problem: of_document(message.clone(), "correct syntax") });
    }
    let outcome = validate(&parsed.tree);
    // What is missing after a syntax error may stand in the part that could not be read.
    let judged = if located.is_empty() { Judge::All } else { Judge::Present };
    for problem in outcome.as_ref().err().into_iter().flatten() {
        if judged == Judge::Present && problem.found.starts_with("nothing") {
            continue;
        }
        let (line, column) = lines::position(text, parsed.lines.offset(&problem.pointer, problem.at));
        located.push(Located { line, column, problem: problem.clone() });
    }
    located.sort_by_key(|located| (located.line, located.column));
    match outcome {
        Ok(stack) if located.is_empty() => Ok(stack),
        Ok(_) | Err(_) => Err(located),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judge {
    All,
    Present,
}

fn of_document(found: String, expected: &str) -> Problem {
    Problem {
        pointer: String::new(),
        key: "document".to_owned(),
        found,
        expected: expected.to_owned(),
        nearest: None,
        at: At::Value,
    }
}
