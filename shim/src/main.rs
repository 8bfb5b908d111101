//! agentd-shim: the small resident programs between agentd and what it runs.

mod keeper;
mod run;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// As in agentd's table: the command line is wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (verb, rest) = match args.split_first() {
        Some((verb, rest)) => (verb.to_str().unwrap_or_default(), rest),
        None => ("", &args[..]),
    };
    match (verb, rest) {
        ("keeper", rest) => keeper::run(rest),
        ("run", [dir]) => match run::run(Path::new(dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&chain(&error));
                ExitCode::FAILURE
            }
        },
        _ => {
            say("usage: agentd-shim run <instance dir> | keeper <run dir> [--detach] [--shim <path>]");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// One line on stderr. Nobody is there to be told when that fails.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "agentd-shim[{}]: {text}", std::process::id());
}

/// The error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
