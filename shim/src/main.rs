//! `agentd-shim`: the small parent of a program (`run`) and the parent of those parents (`keeper`).

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

mod keeper;

/// As in agentd's table: the command line is wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let args: Vec<&Path> = args.iter().map(Path::new).collect();
    match args.as_slice() {
        [verb, run_dir] if *verb == Path::new("keeper") => keeper::run(run_dir, None),
        [verb, run_dir, flag, shim] if *verb == Path::new("keeper") && *flag == Path::new("--shim") => {
            keeper::run(run_dir, Some(shim))
        }
        _ => ExitCode::from(EXIT_USAGE),
    }
}
