//! Programs that xtask runs: their output goes straight through, and their failure names the command to repeat.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program with its arguments, as a person would type it at the workspace's root.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    program: String,
    arguments: Vec<String>,
    /// Set to this, or removed.
    environment: Vec<(String, Option<String>)>,
}

impl Line {
    /// Splits at blanks: arguments with blanks come through [`Line::argument`].
    pub(crate) fn new(text: &str) -> Self {
        let mut words = text.split_whitespace().map(str::to_owned);
        let program = words.next().unwrap_or_default();
        Self { program, arguments: words.collect(), environment: Vec::new() }
    }

    /// A program by its path, which may have blanks.
    pub(crate) fn program(path: &Path) -> Self {
        Self { program: path.display().to_string(), arguments: Vec::new(), environment: Vec::new() }
    }

    pub(crate) fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), Some(value.to_owned())));
        self
    }

    pub(crate) fn unset(mut self, name: &str) -> Self {
        self.environment.push((name.to_owned(), None));
        self
    }

    /// Runs it to its end with our stdout and stderr.
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let status = self.command(root).status().with_context(|| format!("start {}", self.program))?;
        if !status.success() {
            bail!("`{self}` ended with {status}");
        }
        Ok(())
    }

    /// Whether it succeeds; says nothing.
    pub(crate) fn succeeds(&self, root: &Path) -> bool {
        let quiet = self.command(root).stdout(Stdio::null()).stderr(Stdio::null()).status();
        quiet.is_ok_and(|status| status.success())
    }

    fn command(&self, root: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(root).stdin(Stdio::null());
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, value) in &self.environment {
            match value {
                Some(value) => write!(f, "{name}={} ", quoted(value))?,
                None => write!(f, "env -u {name} ")?,
            }
        }
        f.write_str(&self.program)?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", quoted(argument)))
    }
}

/// As a shell wants it.
fn quoted(text: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_./=:,+@".contains(char);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_can_be_pasted_into_a_shell() {
        let line = Line::new("cargo nextest run -E").argument("not binary(/^root_/)").set("A", "b c");
        assert_eq!(line.to_string(), "A='b c' cargo nextest run -E 'not binary(/^root_/)'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn failure_names_the_command() {
        let error = Line::new("false --really").run(Path::new("/")).unwrap_err();
        assert!(error.to_string().starts_with("`false --really` ended with"), "{error}");
        assert!(Line::new("true").succeeds(Path::new("/")));
        assert!(!Line::new("no-such-program-here").succeeds(Path::new("/")));
    }
}
