//! The reference page and the words of `agentctl explain`.

use std::fmt::Write as _;

use agentd_protocol::keys::{Absent, KEYS, Key, NOT_YET, Shape, Support, supported};

/// What it means that the key is left out, in words.
pub fn absent(key: &Key) -> String {
    match key.absent {
        Absent::Required => "must be given".to_owned(),
        Absent::Text(text) => format!("\"{text}\""),
        Absent::Integer(number) => number.to_string(),
        Absent::Bool(flag) => flag.to_string(),
        Absent::Nothing(words) => words.to_owned(),
    }
}

/// Which part of the key this version takes.
pub fn support(key: &Key) -> String {
    if key.support == Support::NotYet {
        return NOT_YET.to_owned();
    }
    let Shape::Choice(choices) = key.shape else { return "supported".to_owned() };
    let known: Vec<&str> = supported(choices).collect();
    let later: Vec<String> =
        choices.iter().map(|c| c.word).filter(|word| !known.contains(word)).map(|w| format!("\"{w}\"")).collect();
    if later.is_empty() { "supported".to_owned() } else { format!("supported; {} {NOT_YET}", later.join(", ")) }
}

/// One key as plain text, for a terminal.
pub fn explain(key: &Key) -> String {
    format!(
        "{}\n  {}\n  type:    {}\n  default: {}\n  example: {} = {}\n  support: {}",
        key.name,
        key.meaning,
        key.shape.words(),
        absent(key),
        key.leaf(),
        key.example,
        support(key)
    )
}

/// The whole page, checked in as docs/desired-state.md.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Desired state, schema 1\n\n\
         Written as TOML (or JSON). `agentctl check FILE` finds every problem in a file at once, `agentctl explain KEY`\n\
         prints one row of this page. Unknown keys are errors. This page is printed by `agentctl explain --markdown`.\n\n\
         | key | type | when left out | meaning | example | support |\n|---|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let cells = [key.shape.words(), absent(key), key.meaning.to_owned()].map(|cell| cell.replace('|', "\\|"));
        let [shape, absent, meaning] = cells;
        writeln!(page, "| `{}` | {shape} | {absent} | {meaning} | `{}` | {} |", key.name, key.example, support(key))
            .expect("writing to a String cannot fail");
    }
    page
}
