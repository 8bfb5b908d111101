//! `agentctl check FILE`

use std::fmt::Write;
use std::path::Path;

use agentd_document::{Format, Located, read};
use agentd_protocol::exit_code::Exit;
use serde_json::json;

/// The text to print and the exit code.
pub(crate) fn run(path: &Path, as_json: bool) -> Result<(String, Exit), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    match read(&text, Format::of(path)) {
        Ok(stack) if as_json => {
            Ok((json!({ "valid": true, "services": stack.service.len() }).to_string() + "\n", Exit::Ok))
        }
        Ok(stack) => {
            let text = format!("{}: valid, {} services\n", path.display(), stack.service.len());
            Ok((text, Exit::Ok))
        }
        Err(problems) if as_json => Ok((as_object(&problems).to_string() + "\n", Exit::Invalid)),
        Err(problems) => Ok((page(path, &problems), Exit::Invalid)),
    }
}

fn page(path: &Path, problems: &[Located]) -> String {
    let mut out = String::new();
    for problem in problems {
        writeln!(out, "{}:{problem}", path.display()).expect("a String takes every write");
    }
    let noun = if problems.len() == 1 { "problem" } else { "problems" };
    writeln!(out, "{} {noun}", problems.len()).expect("a String takes every write");
    out
}

fn as_object(problems: &[Located]) -> serde_json::Value {
    let one = |located: &Located| {
        json!({
            "line": located.line,
            "column": located.column,
            "key": located.problem.key,
            "pointer": located.problem.pointer,
            "found": located.problem.found,
            "expected": located.problem.expected,
            "nearest": located.problem.nearest,
        })
    };
    json!({ "valid": false, "problems": problems.iter().map(one).collect::<Vec<_>>() })
}
