//! Reading one table of the document: unknown keys, types, ranges and defaults, all by the table of keys.

use serde_json::{Map, Value};

use super::{Locus, PROBLEMS_MAX, Problem, UNKNOWN_KEY};
use crate::keys::{self, Absent, Choice, Key, NOT_YET, Shape, Support};
use crate::stack::Span;

/// Characters of a text that is quoted in a problem; the rest is on the line it points at.
const QUOTED_CHARS_MAX: usize = 60;
/// Entries of one list of texts: far more than anyone writes by hand.
const LIST_MAX: usize = 256;

/// What is wrong with a value, without its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) found: String,
    pub(super) expected: String,
    pub(super) nearest: Option<String>,
}

impl Flaw {
    /// `found` in words, not quoted.
    pub(super) fn plain(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { found: found.into(), expected: expected.into(), nearest: None }
    }

    /// `found` is a text of the document. One of several lines is not quoted: most likely its end is missing, and
    /// what it swallowed may be secrets.
    pub(super) fn of(text: &str, expected: impl Into<String>) -> Self {
        let found = if text.contains(['\n', '\r']) { "a text of several lines".to_owned() } else { quote(text) };
        Self::plain(found, expected)
    }

    pub(super) fn near(mut self, nearest: Option<impl Into<String>>) -> Self {
        self.nearest = nearest.map(Into::into);
        self
    }
}

/// Everything found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing more will be noted, so nothing more need be looked for.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= PROBLEMS_MAX
    }

    pub(super) fn into_vec(self) -> Vec<Problem> {
        self.0
    }

    pub(super) fn note(&mut self, pointer: String, key: String, flaw: Flaw, at: Locus) {
        if !self.is_full() {
            let Flaw { found, expected, nearest } = flaw;
            self.0.push(Problem { pointer, key, found, expected, nearest, at });
        }
    }
}

/// One table of the document, its unknown and not yet supported keys already noted.
#[derive(Debug)]
pub(super) struct Table<'t> {
    map: &'t Map<String, Value>,
    pointer: String,
    /// Dotted name; empty for the document.
    name: &'static str,
}

impl<'t> Table<'t> {
    pub(super) fn open(
        map: &'t Map<String, Value>,
        pointer: String,
        name: &'static str,
        problems: &mut Problems,
    ) -> Self {
        let table = Self { map, pointer, name };
        for leaf in map.keys() {
            if problems.is_full() {
                break;
            }
            match keys::find(&table.dotted(leaf)) {
                None => {
                    let near = keys::nearest(name, leaf);
                    let all = || keys::children(name).map(Key::leaf).collect::<Vec<_>>().join(", ");
                    let expected = near.map_or_else(|| format!("one of {}", all()), |_| "a known key".to_owned());
                    let flaw = Flaw::plain(UNKNOWN_KEY, expected).near(near);
                    let key = table.dotted(&brief(leaf));
                    problems.note(table.pointer_to(leaf), key, flaw, Locus::Key);
                }
                Some(key) if key.support == Support::NotYet => {
                    let flaw = Flaw::plain(format!("a key {NOT_YET}"), "it left out");
                    table.note(leaf, flaw, Locus::Key, problems);
                }
                Some(_) => {}
            }
        }
        table
    }

    pub(super) fn has(&self, leaf: &str) -> bool {
        self.map.contains_key(leaf)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(super) fn note(&self, leaf: &str, flaw: Flaw, at: Locus, problems: &mut Problems) {
        problems.note(self.pointer_to(leaf), self.dotted(leaf), flaw, at);
    }

    /// A text that satisfies `rule`, which may also bring it into its normal form.
    pub(super) fn ruled<T>(
        &self,
        leaf: &str,
        problems: &mut Problems,
        rule: impl FnOnce(&str) -> Result<T, Flaw>,
    ) -> Option<T> {
        let text = match self.value(leaf, problems)? {
            Value::String(text) => text,
            other => return self.wrong_type(leaf, other, problems),
        };
        rule(text).map_err(|flaw| self.note(leaf, flaw, Locus::Value, problems)).ok()
    }

    /// A number in the range of its key, or its default.
    pub(super) fn integer(&self, leaf: &str, problems: &mut Problems) -> Option<i64> {
        let key = self.key(leaf);
        let Some(value) = self.value(leaf, problems) else {
            return match key.absent {
                Absent::Integer(number) => Some(number),
                _ => None,
            };
        };
        let Shape::Integer { min, max } = key.shape else { panic!("{} is read as an integer", key.name) };
        match value.as_i64() {
            Some(number) if (min..=max).contains(&number) => Some(number),
            // Not only i64: a number of any size is quoted as it stands.
            _ if value.is_number() => {
                self.note(leaf, Flaw::plain(value.to_string(), key.shape.words()), Locus::Value, problems);
                None
            }
            _ => self.wrong_type(leaf, value, problems),
        }
    }

    pub(super) fn port(&self, leaf: &str, problems: &mut Problems) -> Option<u16> {
        self.integer(leaf, problems).map(|port| u16::try_from(port).expect("ports have the range of u16"))
    }

    /// A number from 1, no larger than its key allows.
    pub(super) fn count(&self, leaf: &str, problems: &mut Problems) -> Option<u32> {
        self.integer(leaf, problems).map(|count| u32::try_from(count).expect("counts have a range within u32"))
    }

    pub(super) fn flag(&self, leaf: &str, problems: &mut Problems) -> bool {
        let default = match self.key(leaf).absent {
            Absent::Bool(flag) => flag,
            _ => panic!("{leaf} is read as a flag and has no default"),
        };
        match self.value(leaf, problems) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => self.wrong_type(leaf, other, problems).unwrap_or(default),
        }
    }

    /// A duration in the range of its key; the default also after a problem, which has been noted then.
    pub(super) fn span(&self, leaf: &str, problems: &mut Problems) -> Span {
        let key = self.key(leaf);
        let (Absent::Text(default), Shape::Span { min_ms, max_ms }) = (key.absent, key.shape) else {
            panic!("{} is read as a duration", key.name)
        };
        let read = self.ruled(leaf, problems, |text| {
            let span = text.parse::<Span>().ok().filter(|span| (min_ms..=max_ms).contains(&span.as_ms()));
            span.ok_or_else(|| Flaw::of(text, key.shape.words()))
        });
        read.unwrap_or_else(|| default.parse().expect("a test parses every default"))
    }

    /// The word of a closed set; `None` after a problem.
    pub(super) fn choice(&self, leaf: &str, problems: &mut Problems) -> Option<&'static str> {
        let key = self.key(leaf);
        let Shape::Choice(choices) = key.shape else { panic!("{} is read as a word of a set", key.name) };
        if let (Absent::Text(default), false) = (key.absent, self.has(leaf)) {
            return Some(default);
        }
        self.ruled(leaf, problems, |text| word(text, choices, &key.shape))
    }

    /// Texts that each satisfy `rule`, in the order of the document; those that do not are noted and left out.
    pub(super) fn list<T>(
        &self,
        leaf: &str,
        problems: &mut Problems,
        rule: impl Fn(&str) -> Result<T, Flaw>,
    ) -> Vec<T> {
        let Some(Value::Array(list)) = self.value(leaf, problems) else {
            if let Some(other) = self.map.get(leaf) {
                self.wrong_type::<()>(leaf, other, problems);
            }
            return Vec::new();
        };
        if list.len() > LIST_MAX {
            let flaw = Flaw::plain(format!("{} entries", list.len()), format!("at most {LIST_MAX}"));
            self.note(leaf, flaw, Locus::Key, problems);
        }
        let mut read = Vec::new();
        for (index, value) in list.iter().take(LIST_MAX).enumerate() {
            let one = match value {
                Value::String(text) => rule(text),
                other => Err(Flaw::plain(kind_of(other), "a string")),
            };
            match one {
                Ok(one) => read.push(one),
                Err(flaw) => {
                    problems.note(format!("{}/{index}", self.pointer_to(leaf)), self.dotted(leaf), flaw, Locus::Value);
                }
            }
        }
        read
    }

    pub(super) fn table(&self, leaf: &str, problems: &mut Problems) -> Option<Table<'t>> {
        match self.value(leaf, problems)? {
            Value::Object(map) => Some(Table::open(map, self.pointer_to(leaf), self.key(leaf).name, problems)),
            other => self.wrong_type(leaf, other, problems),
        }
    }

    pub(super) fn tables(&self, leaf: &str, problems: &mut Problems) -> &'t [Value] {
        match self.value(leaf, problems) {
            None => &[],
            Some(Value::Array(list)) => list,
            Some(other) => self.wrong_type(leaf, other, problems).unwrap_or(&[]),
        }
    }

    /// The raw table under `leaf`, whose keys are the user's.
    pub(super) fn free(&self, leaf: &str, problems: &mut Problems) -> Option<&'t Map<String, Value>> {
        match self.value(leaf, problems)? {
            Value::Object(map) => Some(map),
            other => self.wrong_type(leaf, other, problems),
        }
    }

    pub(super) fn pointer_to(&self, leaf: &str) -> String {
        format!("{}/{}", self.pointer, escape(leaf))
    }

    fn dotted(&self, leaf: &str) -> String {
        if self.name.is_empty() { leaf.to_owned() } else { format!("{}.{leaf}", self.name) }
    }

    fn key(&self, leaf: &str) -> &'static Key {
        keys::find(&self.dotted(leaf)).expect("only keys of the table are read")
    }

    /// The value, or `None`, noted when the key must be there.
    fn value(&self, leaf: &str, problems: &mut Problems) -> Option<&'t Value> {
        let value = self.map.get(leaf);
        let key = self.key(leaf);
        if value.is_none() && key.absent == Absent::Required {
            self.note(leaf, Flaw::plain("nothing", key.shape.words()), Locus::Key, problems);
        }
        value
    }

    fn wrong_type<T>(&self, leaf: &str, value: &Value, problems: &mut Problems) -> Option<T> {
        self.note(leaf, Flaw::plain(kind_of(value), self.key(leaf).shape.words()), Locus::Value, problems);
        None
    }
}

fn word(text: &str, choices: &'static [Choice], shape: &Shape) -> Result<&'static str, Flaw> {
    match choices.iter().find(|choice| choice.word == text) {
        Some(Choice { word, support: Support::Supported }) => Ok(word),
        Some(Choice { support: Support::NotYet, .. }) => {
            Err(Flaw::plain(format!("{}, which is {NOT_YET}", quote(text)), shape.words()))
        }
        None => {
            let near = keys::nearest_word(text, keys::supported(choices)).map(quote);
            Err(Flaw::of(text, shape.words()).near(near))
        }
    }
}

/// The type of a value, in words that follow "found"; never the value.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

/// A text of the document between quotes, on one line, cut where it gets long.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", brief(text))
}

/// A key as it is shown: on one line, without control characters, cut where it gets long.
pub(super) fn brief(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// One step of an RFC 6901 pointer.
pub(super) fn escape(leaf: &str) -> String {
    leaf.replace('~', "~0").replace('/', "~1")
}
