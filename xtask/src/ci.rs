//! What a change has to pass, in the order that fails soonest. One profile and one feature set throughout, so that the
//! tests run what was built and nothing is compiled twice.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::command::Line;
use crate::console::say;
use crate::doors::{self, BUILD};
use crate::{setup, tidy};

/// Cloning the database of advisories takes seconds where there is a network; without one it may hang.
const ADVISORIES_TIMEOUT_SECS: u32 = 60;

struct Stage {
    name: &'static str,
    /// What repeats it alone.
    repeat: &'static str,
    act: fn(&Path) -> Result<String>,
}

const STAGES: &[Stage] = &[
    Stage { name: "setup", repeat: "cargo xtask setup", act: |root| setup::run(root).map(quiet) },
    Stage { name: "fmt", repeat: FMT, act: |root| line(root, FMT) },
    Stage { name: "tidy", repeat: "cargo xtask tidy", act: |root| tidy::run(root).map(quiet) },
    Stage { name: "clippy", repeat: CLIPPY, act: |root| line(root, CLIPPY) },
    Stage { name: "deny", repeat: DENY, act: deny },
    Stage {
        name: "docs",
        repeat: "RUSTDOCFLAGS='-Dwarnings -Arustdoc::private_intra_doc_links' cargo doc --workspace --no-deps --document-private-items --locked",
        act: docs,
    },
    Stage { name: "build", repeat: BUILD, act: |root| line(root, BUILD) },
    Stage { name: "test", repeat: "cargo xtask test", act: |root| doors::rootless(root, &[]).map(tests) },
    Stage { name: "test-root", repeat: "cargo xtask test-root", act: |root| doors::root(root, &[]).map(tests) },
];

const FMT: &str = "cargo fmt --all -- --check";
const CLIPPY: &str = "cargo clippy --workspace --all-targets --locked -- -D warnings";
const DOCS: &str = "cargo doc --workspace --no-deps --document-private-items --locked";
/// A link to a private item leads somewhere, as those are documented.
const DOC_FLAGS: &str = "-Dwarnings -Arustdoc::private_intra_doc_links";
const DENY: &str = "cargo deny --locked check bans licenses sources";
const ADVISORIES: &str = "cargo deny --locked check advisories";

/// Runs every stage; the first that fails ends it and is named with the command that repeats it.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut rows: Vec<(&str, Duration, String)> = Vec::new();
    for stage in STAGES {
        say(&format!("== {}", stage.name));
        let started = Instant::now();
        let outcome = (stage.act)(root);
        let elapsed = started.elapsed();
        let note = outcome.with_context(|| {
            say(&table(&rows));
            format!("ci: stage {} failed after {} s; repeat with: {}", stage.name, elapsed.as_secs(), stage.repeat)
        })?;
        rows.push((stage.name, elapsed, note));
    }
    say(&table(&rows));
    Ok(())
}

fn table(rows: &[(&str, Duration, String)]) -> String {
    let mut text = String::from("\nstage       seconds\n");
    for (name, elapsed, note) in rows {
        let row = format!("{name:<10} {:>8.1}  {note}", elapsed.as_secs_f64());
        text.push_str(row.trim_end());
        text.push('\n');
    }
    let total: Duration = rows.iter().map(|(_, elapsed, _)| *elapsed).sum();
    text.push_str(&format!("{:<10} {:>8.1}", "total", total.as_secs_f64()));
    text
}

fn quiet((): ()) -> String {
    String::new()
}

fn tests(count: doors::Count) -> String {
    format!("{count} tests")
}

fn line(root: &Path, text: &str) -> Result<String> {
    Line::new(text).run(root).map(quiet)
}

/// Private items too: the readers are those who work on the tree. Rustdoc's warnings are errors; its flags are no compiler flags, so nothing is built anew for them.
fn docs(root: &Path) -> Result<String> {
    Line::new(DOCS).set("RUSTDOCFLAGS", DOC_FLAGS).run(root).map(quiet)
}

/// Licences, bans and sources are decided by what is in the tree. Advisories need a database from the network, so
/// where it cannot be had that part did not run, and the table says so.
fn deny(root: &Path) -> Result<String> {
    line(root, DENY)?;
    let fetch = Line::new(&format!("timeout {ADVISORIES_TIMEOUT_SECS} cargo deny --locked fetch db"));
    if fetch.set("GIT_TERMINAL_PROMPT", "0").succeeds(root) {
        return line(root, ADVISORIES);
    }
    let note = "advisories did NOT run: their database cannot be fetched from here";
    say(&format!("deny: {note}; repeat with: {ADVISORIES}"));
    Ok(note.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_adds_up() {
        let rows = [("fmt", Duration::from_millis(1_250), String::new()), ("test", Duration::from_secs(10), tests(42))];
        let text = table(&rows);
        assert_eq!(
            text,
            "\nstage       seconds\nfmt             1.2\ntest           10.0  42 tests\ntotal          11.2"
        );
    }
}
