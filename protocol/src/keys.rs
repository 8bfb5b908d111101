//! Every key of the desired state, once: what it means, what it may hold, and whether this version has it.
//!
//! Validation takes types, ranges, defaults and suggestions from here; `agentctl explain`, the JSON Schema and the
//! reference page are printed from here. Rules that need code (what a path may look like) live in [`crate::validate`].

mod table;

pub use table::KEYS;

/// One key, by the dotted name a person would say: `service.health.path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    pub shape: Shape,
    pub absent: Absent,
    pub meaning: &'static str,
    /// Right-hand side in TOML.
    pub example: &'static str,
    pub support: Support,
}

/// What may stand behind a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A string; the words say which.
    Text(&'static str),
    Integer {
        min: i64,
        max: i64,
    },
    Number,
    Bool,
    /// A duration as text; bounds in milliseconds.
    Span {
        min_ms: u64,
        max_ms: u64,
    },
    Choice(&'static [Choice]),
    Strings,
    Table,
    /// An array of tables: `[[service]]`.
    Tables,
    /// A table of names the user chooses, with text values.
    Environment,
}

/// One word of a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub word: &'static str,
    pub support: Support,
}

/// What it means that a key is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It must be there.
    Required,
    /// Stands for this text (or duration, or word).
    Text(&'static str),
    Integer(i64),
    Bool(bool),
    /// Has no value; the words say what happens then.
    Nothing(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    Supported,
    /// Known, checked by name, and refused: see [`NOT_YET`].
    NotYet,
}

/// How a key of a later version is refused, word for word.
pub const NOT_YET: &str = "not supported by this version";

/// Beyond this distance (0 to 1, Jaro-Winkler) a suggestion confuses more than it helps.
const SIMILARITY_MIN: f64 = 0.8;
/// Longest text a suggestion is looked for, bytes: longer than any key; bounds the work on hostile input.
const SUGGEST_BYTES_MAX: usize = 64;

/// What other tools call our keys.
const KNOWN_AS: [(&str, &str); 14] = [
    ("branch", "ref"),
    ("tag", "ref"),
    ("sha", "commit"),
    ("url", "repo"),
    ("git", "repo"),
    ("command", "run"),
    ("start", "run"),
    ("environment", "env"),
    ("instances", "replicas"),
    ("scale", "replicas"),
    ("healthcheck", "health"),
    ("domain", "host"),
    ("type", "kind"),
    ("cwd", "dir"),
];

impl Key {
    /// The last part of the name: `path`.
    pub fn leaf(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, leaf)| leaf)
    }

    /// The name of the table it stands in: `service.health`; empty for the document itself.
    pub fn table(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(table, _)| table)
    }
}

impl Shape {
    /// What is expected, in words that follow "expected".
    pub fn words(&self) -> String {
        match self {
            Self::Text(what) => (*what).to_owned(),
            Self::Integer { min, max } if min == max => min.to_string(),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Number => "a number".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Span { min_ms, max_ms } => {
                format!("a duration from {} to {}, such as \"500ms\", \"15s\" or \"5m\"", span(*min_ms), span(*max_ms))
            }
            Self::Choice(choices) => {
                let words: Vec<String> = supported(choices).map(|word| format!("\"{word}\"")).collect();
                match words.split_last() {
                    Some((last, [])) => last.clone(),
                    Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
                    None => String::new(),
                }
            }
            Self::Strings => "a list of strings".to_owned(),
            Self::Table => "a table".to_owned(),
            Self::Tables => "a list of tables".to_owned(),
            Self::Environment => "a table of names with text values".to_owned(),
        }
    }
}

/// The words of a choice that this version takes.
pub fn supported(choices: &[Choice]) -> impl Iterator<Item = &'static str> + '_ {
    choices.iter().filter(|choice| choice.support == Support::Supported).map(|choice| choice.word)
}

fn span(ms: u64) -> String {
    format!("\"{}\"", crate::stack::Span(std::time::Duration::from_millis(ms)))
}

/// The key of this dotted name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The keys that may stand directly in a table; `""` is the document.
pub fn children(table: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.table() == table)
}

/// The key a person most likely meant by `leaf` in `table`: a similar one there, what another tool calls so, or the
/// same word in another table. Leaf name when it stands in `table`, dotted name otherwise.
pub fn nearest(table: &str, leaf: &str) -> Option<&'static str> {
    let here = || children(table).map(Key::leaf);
    let known_as = || KNOWN_AS.iter().find(|(theirs, _)| *theirs == leaf).map(|(_, ours)| *ours);
    let elsewhere = || KEYS.iter().find(|key| key.leaf() == leaf).map(|key| key.name);
    known_as()
        .filter(|ours| here().any(|key| key == *ours))
        .or_else(|| nearest_word(leaf, here()).filter(|word| strsim::jaro_winkler(leaf, word) > 0.9))
        .or_else(elsewhere)
        .or_else(|| nearest_word(leaf, here()))
}

/// The key a person most likely meant by a dotted name, or by its last part alone.
pub fn nearest_name(name: &str) -> Option<&'static str> {
    let by_leaf = || KEYS.iter().find(|key| key.leaf() == name).map(|key| key.name);
    let (table, leaf) = name.rsplit_once('.').unwrap_or(("service", name));
    let in_table =
        || nearest(table, leaf).map(|near| KEYS.iter().find(|key| key.table() == table && key.leaf() == near));
    by_leaf()
        .or_else(|| in_table().flatten().map(|key| key.name))
        .or_else(|| nearest_word(name, KEYS.iter().map(|key| key.name)))
}

/// The most similar of `words`, if any is similar enough to be worth naming.
pub fn nearest_word<'w>(found: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    if found.len() > SUGGEST_BYTES_MAX {
        return None;
    }
    let lower = found.to_lowercase();
    words
        .map(|word| (strsim::jaro_winkler(&lower, &word.to_lowercase()), word))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::stack::Span;

    #[test]
    fn every_name_stands_once_and_in_a_table_that_exists() {
        let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        for key in KEYS {
            let table = key.table();
            let holds = |shape| matches!(shape, Shape::Table | Shape::Tables);
            assert!(table.is_empty() || find(table).is_some_and(|parent| holds(parent.shape)), "{}", key.name);
        }
    }

    #[test]
    fn defaults_fit_their_shapes() {
        for key in KEYS {
            let fits = match (key.absent, key.shape) {
                (Absent::Text(text), Shape::Span { min_ms, max_ms }) => {
                    text.parse::<Span>().is_ok_and(|span| (min_ms..=max_ms).contains(&span.as_ms()))
                }
                (Absent::Text(text), Shape::Choice(choices)) => supported(choices).any(|word| word == text),
                (Absent::Integer(number), Shape::Integer { min, max }) => (min..=max).contains(&number),
                (Absent::Bool(_), Shape::Bool) | (Absent::Text(_), Shape::Text(_)) => true,
                (Absent::Required | Absent::Nothing(_), _) => true,
                _ => false,
            };
            assert!(fits, "{}", key.name);
        }
    }

    #[test]
    fn suggestions_find_typos_other_tools_words_and_other_tables() {
        let table = [
            ("service", "helth", Some("health")),
            ("service", "Port", Some("port")),
            ("service", "branch", Some("ref")),
            ("service", "interval", Some("service.health.interval")),
            ("service", "poll_interval", Some("stack.poll_interval")),
            ("", "services", Some("service")),
            ("service.health", "intervall", Some("interval")),
            ("service", "zzz", None),
        ];
        for (place, found, wanted) in table {
            assert_eq!(nearest(place, found), wanted, "{place} {found}");
        }
        assert_eq!(nearest_name("service.helth.path"), Some("service.health.path"));
        assert_eq!(nearest_name("replicas"), Some("service.replicas"));
    }
}
