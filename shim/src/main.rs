//! agentd-shim: the small resident programs between agentd and what it runs.

mod keeper;
mod run;

use std::ffi::{CString, OsStr};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use agentd_protocol::shim::hosts::{RENEW_VERB, Refused, Step, TRY_VERB};
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
        (TRY_VERB, [file]) => return told(c_string(file).and_then(|file| run::enter_hosts(&file))),
        (RENEW_VERB, [pid, instance, file]) => {
            let (pid, instance) = (pid.to_string_lossy(), instance.to_string_lossy());
            return told(c_string(file).and_then(|name| run::renew_hosts(&pid, &instance, &name, Path::new(file))));
        }
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

fn c_string(path: &OsStr) -> Result<CString, Refused> {
    let refused = Refused { step: Step::Bind, errno: libc::EINVAL };
    CString::new(path.as_bytes()).map_err(|_| refused)
}

/// The manager reads a refusal from stdout.
fn told(ended: Result<(), Refused>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(refused) => {
            let _ = writeln!(std::io::stdout(), "{}", refused.line()); // the exit status tells that it failed
            ExitCode::FAILURE
        }
    }
}

/// One line on stderr. Nobody is there to be told when that fails.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "agentd-shim[{}]: {text}", std::process::id()); // nobody is there to be told
}
