//! `agentd-shim`: the small parent of a program (`run`) and the parent of those parents (`keeper`).

use std::ffi::OsString;
use std::process::ExitCode;

mod keeper;

/// As in agentd's table: the command line is wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.split_first() {
        Some((verb, rest)) if verb == "keeper" => keeper::run(rest),
        Some(_) | None => ExitCode::from(EXIT_USAGE),
    }
}
