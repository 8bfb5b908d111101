//! agentd-shim: the small resident programs between agentd and what it runs.

mod keeper;
mod run;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use agentd_sys::causes::chain;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let (verb, rest) = match args.split_first() {
        Some((verb, rest)) => (verb.to_str().unwrap_or_default(), rest),
        None => ("", &args[..]),
    };
    let ended = match (verb, rest) {
        ("run", [dir]) => run::run(Path::new(dir)).map_err(|error| chain(&error)),
        ("keeper", args) => return keeper::run(args),
        _ => Err("usage: agentd-shim run <instance dir>, or agentd-shim keeper <run dir>".to_owned()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            say(&text);
            ExitCode::FAILURE
        }
    }
}

/// One line on stderr. Nobody is there to be told when that fails.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "agentd-shim[{}]: {text}", std::process::id()); // nobody is there to be told
}
