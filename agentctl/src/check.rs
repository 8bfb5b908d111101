//! `agentctl check`: every problem of a stack file, by line, without asking the agent.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use agentd_document::{Format, Located, read};
use agentd_protocol::exit_code::Exit;
use agentd_protocol::stack::{DOCUMENT_BYTES_MAX, Kind, Stack};
use anyhow::Context as _;
use serde_json::{Value, json};

use crate::out::Out;
use crate::words::many;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  agentctl check stack.toml
  agentctl check stack.json --json | jq '.problems[].key'

Asks no agent and no repository. Each problem is one line, FILE:LINE: KEY: what was found and what is expected.

Exit codes: 0 valid, 1 the file cannot be read, 3 it has problems")]
pub(crate) struct Args {
    /// Stack file, TOML, or JSON when its name ends in .json
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, out: &mut Out) -> anyhow::Result<Exit> {
    let text = text_of(&args.file)?;
    let outcome = read(&text, Format::of(&args.file));
    match (&outcome, args.json) {
        (outcome, true) => out.line(as_json(&args.file, outcome)),
        (Ok(stack), false) => out.line(format_args!("{}: valid: {}", args.file.display(), counts(stack))),
        (Err(problems), false) => {
            for located in problems {
                out.line(format_args!("{}:{located}", args.file.display()));
            }
            out.line(many(problems.len(), "problem"));
        }
    }
    Ok(if outcome.is_ok() { Exit::Ok } else { Exit::Invalid })
}

/// The stack of a file another verb needs; its problems are printed as `check` prints them.
pub(crate) fn stack(file: &Path, out: &mut Out) -> Option<Stack> {
    let outcome = match text_of(file) {
        Ok(text) => read(&text, Format::of(file)),
        Err(error) => {
            out.complain(format_args!("agentctl: {error:#}"));
            return None;
        }
    };
    for located in outcome.as_ref().err().into_iter().flatten() {
        out.complain(format_args!("{}:{located}", file.display()));
    }
    outcome.ok()
}

/// One byte more than a document may have is enough to know that it is too large.
pub(crate) fn text_of(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot open the stack file {shown}"))?;
    let bytes_max = u64::try_from(DOCUMENT_BYTES_MAX).context("the size limit of a document")? + 1;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes).with_context(|| format!("cannot read the stack file {shown}"))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        // The cut may have gone through a character; the size is what is wrong then.
        Err(bad) if bad.as_bytes().len() > DOCUMENT_BYTES_MAX => {
            anyhow::bail!("the stack file {shown} is larger than {DOCUMENT_BYTES_MAX} bytes")
        }
        Err(bad) => {
            let good = bad.as_bytes()[..bad.utf8_error().valid_up_to()].iter();
            let line = good.filter(|byte| **byte == b'\n').count() + 1;
            anyhow::bail!("the stack file {shown} is not UTF-8 text: see line {line}")
        }
    }
}

fn counts(stack: &Stack) -> String {
    let services = stack.service.len();
    let of = |kind: Kind| stack.service.iter().filter(|service| service.kind == kind).count();
    let sites = match of(Kind::Static) {
        0 => String::new(),
        count => format!(", {count} static"),
    };
    let routes = stack.service.iter().filter(|service| service.public && service.path.is_some()).count();
    let instances: usize =
        stack.service.iter().map(|service| usize::try_from(service.replicas).unwrap_or(usize::MAX)).sum();
    format!(
        "stack \"{}\", {} ({} web, {} worker{sites}), {}, {}",
        stack.stack.name,
        many(services, "service"),
        of(Kind::Web),
        of(Kind::Worker),
        many(routes, "route"),
        many(instances, "instance")
    )
}

fn as_json(path: &Path, outcome: &Result<Stack, Vec<Located>>) -> Value {
    let problem = |located: &Located| {
        json!({
            "line": located.line,
            "column": located.column,
            "pointer": located.problem.pointer,
            "key": located.problem.key,
            "found": located.problem.found,
            "expected": located.problem.expected,
            "nearest": located.problem.nearest,
        })
    };
    let problems: Vec<Value> = outcome.as_ref().err().into_iter().flatten().map(problem).collect();
    json!({ "file": path.display().to_string(), "valid": outcome.is_ok(), "problems": problems })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_that_is_not_text_names_its_line() {
        let path = std::env::temp_dir().join(format!("agentctl-check-{}.toml", std::process::id()));
        File::create(&path).unwrap().write_all(b"schema = 1\n\xff").unwrap();
        let error = text_of(&path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.ends_with("is not UTF-8 text: see line 2"), "{error}");
    }

    #[test]
    fn counts_say_what_would_run() {
        let text = "schema = 1\n[stack]\nname = \"s\"\n[[service]]\nname = \"a\"\nrepo = \"file:///a\"\nref = \"m\"\n\
                    run = \"x\"\npath = \"/\"\nreplicas = 2\n";
        let stack = read(text, Format::Toml).unwrap();
        assert_eq!(counts(&stack), "stack \"s\", 1 service (1 web, 0 worker), 1 route, 2 instances");
    }
}
