//! The one writer: a reader that went away is no failure.

use std::io::{self, Write};

use agentd_protocol::exit_code::Exit;

/// Writes to stdout; a closed pipe ends quietly, as programs in a pipeline do.
pub(crate) fn print(text: &str, exit: Exit) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => exit,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit,
        Err(_) => Exit::Failed,
    }
}

/// A failure, on stderr.
pub(crate) fn fail(text: &str, exit: Exit) -> Exit {
    // Nobody is left to tell when stderr is closed; the exit code still says it.
    let _ = writeln!(io::stderr().lock(), "agentctl: {text}");
    exit
}
