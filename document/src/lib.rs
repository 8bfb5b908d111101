//! What a person writes, TOML or JSON, read into a [`Stack`]: every problem at once, each with its line.
//!
//! Owns: syntax, lines and columns, and what is printed from the table of keys (JSON Schema, reference page).
//! Must never know: files, what a key means (that is [`agentd_protocol::validate`]).
//! No problem quotes the text of the document: it may hold secrets, also in lines that do not parse.

mod json;
mod lines;
mod lock;
pub mod reference;
pub mod schema;
mod toml;
mod tree;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use agentd_protocol::keys;
use agentd_protocol::stack::{DOCUMENT_BYTES_MAX, Stack};
use agentd_protocol::validate::{Locus, PROBLEMS_MAX, Problem, validate};

pub use lock::lock;

use lines::Lines;
use tree::{Broken, Tree};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Toml,
    Json,
}

impl Format {
    /// JSON when the name ends in `.json`, TOML otherwise.
    pub fn of(path: &Path) -> Self {
        let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        if json { Self::Json } else { Self::Toml }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Toml => "TOML",
            Self::Json => "JSON",
        }
    }
}

/// A problem and its place, both counted from 1, columns in characters. Written after `FILE:` it reads
/// `FILE:LINE: key: found X, expected Y`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub line: usize,
    pub column: usize,
    pub problem: Problem,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.problem)
    }
}

/// [`Problem::found`] of a key that stands twice: readers differ in which of them counts.
pub const DUPLICATE_KEY: &str = "a duplicate key";

/// Key under which broken syntax is reported.
const SYNTAX: &str = "syntax";

/// Reads a whole document; on failure every problem in it, in the order of lines, never none.
pub fn read(text: &str, format: Format) -> Result<Stack, Vec<Located>> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let found = format!("{} bytes", text.len());
        let problem = whole(found, format!("at most {DOCUMENT_BYTES_MAX}"));
        return Err(vec![Located { line: 1, column: 1, problem }]);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = Lines::new(text);
    let tree = match format {
        Format::Toml => toml::parse(text),
        Format::Json => json::parse(text),
    };
    let outcome = validate(&tree.value);
    // The parser stumbles over the same fault several times; the first one on a line says enough.
    let mut broken_lines = BTreeSet::new();
    let first_on_lines = tree.broken.iter().filter(|broken| broken_lines.insert(lines.line(broken.at)));
    let mut located: Vec<Located> =
        first_on_lines.take(PROBLEMS_MAX).map(|broken| lines.locate(broken.at, broken.problem(format))).collect();
    broken_lines.extend(tree.broken.iter().map(|broken| lines.line(broken.at)));
    let structured = tree.broken.iter().all(Broken::keeps_structure);
    match outcome {
        Ok(stack) if located.is_empty() => return Ok(stack),
        Ok(_) => {}
        Err(problems) => {
            let problems = problems.into_iter().filter(|problem| {
                let line = lines.line(tree.place(&problem.pointer, problem.at));
                structured || (is_certain(problem, &tree) && !broken_lines.contains(&line))
            });
            located.extend(problems.map(|problem| {
                let at = tree.place(&problem.pointer, problem.at);
                lines.locate(at, tree.with_type(problem))
            }));
        }
    }
    located.sort_by_key(|one| (one.line, one.column));
    Err(located)
}

/// Whether a problem would also be one if the broken syntax elsewhere were mended. A parser that goes on after an
/// error reads pieces of values as keys, so then only what stands under a known key, outside `env` and on a line of
/// its own, is told: anything else could be noise, or a piece of a secret.
fn is_certain(problem: &Problem, tree: &Tree) -> bool {
    tree.holds(&problem.pointer) && keys::find(&problem.key).is_some() && problem.key != "service.env"
}

fn whole(found: String, expected: String) -> Problem {
    Problem { pointer: String::new(), key: String::new(), found, expected, nearest: None, at: Locus::Value }
}
