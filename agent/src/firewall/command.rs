//! Runs a foreign program of the system to its end: known path, empty environment, bounded time and output.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agentd_sys::process::PidFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What the programs of a distribution are found in; they start each other by these.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{program} cannot be started")]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{program} cannot be given its input")]
    Feed {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{program} cannot be waited for")]
    Wait {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{program} did not end within {}s and was killed: see what it waits for", limit.as_secs())]
    TooLong { program: PathBuf, limit: Duration },
    #[error("{program} said more than {limit} bytes and was killed")]
    TooMuch { program: PathBuf, limit: usize },
}

/// What it said, as text whatever the bytes.
#[derive(Debug)]
pub(super) struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub time: Duration,
    /// Of each of the two outputs.
    pub bytes: usize,
}

/// Where a distribution puts it; never looked up in the PATH of whoever started us.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    PATH.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}

/// `arguments` reach the program as they are; no shell is in between.
pub(super) fn run<S: AsRef<OsStr>>(program: &Path, arguments: &[S], limits: Limits) -> Result<Output, Error> {
    run_with(program, arguments, Stdio::null(), limits)
}

/// The same, with `input` to read.
pub(super) fn feed<S: AsRef<OsStr>>(
    program: &Path,
    arguments: &[S],
    input: &str,
    limits: Limits,
) -> Result<Output, Error> {
    let failed = |source| Error::Feed { program: program.to_owned(), source };
    // A file in memory: a program that does not read blocks nobody, as it would with a full pipe.
    let mut file =
        memfd_create("input", MFdFlags::MFD_CLOEXEC).map(File::from).map_err(|errno| failed(errno.into()))?;
    file.write_all(input.as_bytes()).and_then(|()| file.rewind()).map_err(failed)?;
    run_with(program, arguments, file.into(), limits)
}

fn run_with<S: AsRef<OsStr>>(program: &Path, arguments: &[S], stdin: Stdio, limits: Limits) -> Result<Output, Error> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start { program: program.to_owned(), source })?;
    let ended = follow(&mut child, program, limits);
    if ended.is_err() {
        // It may have ended by itself meanwhile; the wait below reaps it either way.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|source| Error::Wait { program: program.to_owned(), source })?;
    let [stdout, stderr] = ended?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Output { status, stdout, stderr })
}

/// Reads both outputs to their ends, then waits for the process, all before one deadline. Does not reap.
fn follow(child: &mut Child, program: &Path, limits: Limits) -> Result<[Vec<u8>; 2], Error> {
    let failed = |source| Error::Wait { program: program.to_owned(), source };
    let deadline = Instant::now() + limits.time;
    let late = || Error::TooLong { program: program.to_owned(), limit: limits.time };
    let process = PidFd::open(child.id()).map_err(failed)?;
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    let mut said = [Vec::new(), Vec::new()];
    while stdout.is_some() || stderr.is_some() {
        let ready = wait_for(stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd), deadline);
        let Some([first, second]) = ready.map_err(failed)? else { return Err(late()) };
        if first {
            take(&mut stdout, &mut said[0]).map_err(failed)?;
        }
        if second {
            take(&mut stderr, &mut said[1]).map_err(failed)?;
        }
        if said.iter().any(|bytes| bytes.len() > limits.bytes) {
            return Err(Error::TooMuch { program: program.to_owned(), limit: limits.bytes });
        }
    }
    match wait_for(Some(process.as_fd()), None, deadline).map_err(failed)? {
        Some(_) => Ok(said),
        None => Err(late()),
    }
}

/// Which of the two has something; `None` once the deadline is past.
fn wait_for(
    first: Option<BorrowedFd<'_>>,
    second: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> io::Result<Option<[bool; 2]>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut waiting: Vec<PollFd<'_>> =
            [first, second].into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut waiting, left) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => {
                let mut answers = waiting.iter().map(|fd| fd.any().unwrap_or(true));
                let first = first.is_some() && answers.next().unwrap_or(false);
                return Ok(Some([first, second.is_some() && answers.next().unwrap_or(false)]));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// One read, which does not block as poll said so; drops the pipe at its end.
fn take<R: Read>(pipe: &mut Option<R>, said: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 8192];
    let Some(open) = pipe else { return Ok(()) };
    match open.read(&mut buffer) {
        Ok(0) => *pipe = None,
        Ok(length) => said.extend_from_slice(&buffer[..length]),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { time: Duration::from_secs(20), bytes: 100_000 };

    fn shell(script: &str, limits: Limits) -> Result<Output, Error> {
        run(Path::new("/bin/sh"), &["-c".to_owned(), script.to_owned()], limits)
    }

    #[test]
    fn what_it_said_and_how_it_ended_come_back_and_nothing_of_our_environment_went_in() {
        let output = shell("echo out $LC_ALL $CARGO_MANIFEST_DIR; echo err >&2; exit 3", LIMITS).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out C\n", "err\n"));
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn one_that_hangs_talks_without_end_or_is_not_there_is_an_error_of_its_own() {
        let short = Limits { time: Duration::from_millis(200), ..LIMITS };
        assert!(matches!(shell("exec sleep 600", short), Err(Error::TooLong { .. })));
        assert!(matches!(shell("exec >&- 2>&-; exec sleep 600", short), Err(Error::TooLong { .. })));
        assert!(matches!(shell("while :; do echo xxxxxxxxxxxxxxxxxxx; done", LIMITS), Err(Error::TooMuch { .. })));
        assert!(matches!(run::<&str>(Path::new("/nonexistent"), &[], LIMITS), Err(Error::Start { .. })));
    }
}
