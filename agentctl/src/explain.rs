//! `agentctl explain [KEY]`: the table of keys, for people.

use std::fmt::Write;

use agentd_protocol::keys::{self, KEYS, Key, Support};

use crate::status::columns;

/// One key in full, or the list of all.
pub(crate) fn run(name: Option<&str>) -> Result<String, String> {
    let Some(name) = name else { return Ok(list()) };
    // People write what they see in the document: [[service]] and service[api] both mean `service`.
    let name = name.trim_matches(['[', ']']);
    match keys::find(name) {
        Some(key) => Ok(one(key)),
        None => {
            let near = keys::nearest(name, KEYS.iter().map(|key| key.name));
            let near = near.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
            Err(format!("there is no key `{name}`{near}; `agentctl explain` lists them all"))
        }
    }
}

fn one(key: &Key) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("a String takes every write");
    line(key.name.to_owned());
    line(format!("  {}", key.meaning));
    line(format!("  type:    {}", key.kind.expected()));
    line(format!("  default: {}", key.default));
    if !key.example.is_empty() {
        line(format!("  example: {} = {}", keys::leaf(key.name), key.example));
    }
    if key.support == Support::NotYet {
        line(format!("  {}", keys::NOT_YET));
    }
    out
}

fn list() -> String {
    let row = |key: &Key| {
        let meaning = match key.support {
            Support::Supported => key.meaning.to_owned(),
            Support::NotYet => format!("({}) {}", keys::NOT_YET, key.meaning),
        };
        vec![key.name.to_owned(), meaning]
    };
    columns(&KEYS.iter().map(row).collect::<Vec<_>>())
}
