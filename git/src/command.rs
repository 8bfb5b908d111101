//! One process, run to its end or to its deadline: own process group, bounded output, nothing left behind.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::classify::redact;

/// What is kept of stderr: its end, where programs say why they gave up. Bytes.
const STDERR_BYTES_MAX: usize = 64 * 1024;
const READ_BYTES: usize = 16 * 1024;
/// Variables of ours that programs get: where to find other programs, and the way out through a web proxy.
const PASSED_ON: &[&str] = &[
    "PATH",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

#[derive(Debug)]
pub(crate) struct Invocation<'a> {
    pub(crate) program: &'a Path,
    pub(crate) args: Vec<OsString>,
    /// All of the environment but [`PASSED_ON`].
    pub(crate) env: Vec<(&'static str, OsString)>,
    pub(crate) current_dir: &'a Path,
    pub(crate) stdin: Stdio,
    pub(crate) stdout_bytes_max: u64,
    pub(crate) deadline: Duration,
}

#[derive(Debug)]
pub struct Finished {
    pub success: bool,
    pub stdout: Vec<u8>,
    /// The last 64 KiB, without secrets in addresses.
    pub stderr: String,
}

#[derive(Debug)]
pub(crate) enum RunError {
    NotStarted(io::Error),
    TimedOut,
    TooMuchOutput,
    Pipe(io::Error),
}

/// The child and whatever it starts. Dropped before it was waited for, the whole group is killed: until then its leader
/// is at least a zombie, so the number cannot mean another group.
#[derive(Debug)]
struct Group {
    leader: Child,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.leader.id().and_then(|pid| i32::try_from(pid).ok()) {
            // ESRCH: it ended by itself in this moment, which is what we want.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

pub(crate) async fn run(invocation: Invocation<'_>) -> Result<Finished, RunError> {
    let mut command = Command::new(invocation.program);
    command.args(&invocation.args).current_dir(invocation.current_dir).env_clear().envs(environment(&invocation.env));
    command.stdin(invocation.stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut group = Group { leader: command.spawn().map_err(RunError::NotStarted)? };
    // The command holds our copy of what became stdin, and with it a lock.
    drop(command);
    match tokio::time::timeout(invocation.deadline, finish(&mut group, invocation.stdout_bytes_max)).await {
        Ok(finished) => finished,
        Err(_elapsed) => Err(RunError::TimedOut),
    }
}

fn environment(own: &[(&'static str, OsString)]) -> Vec<(&'static str, OsString)> {
    let passed = PASSED_ON.iter().filter_map(|name| std::env::var_os(name).map(|value| (*name, value)));
    passed.chain(own.iter().cloned()).collect()
}

/// Reads to the end of both pipes first and waits after: so the leader is not reaped while a grandchild still writes.
async fn finish(group: &mut Group, stdout_bytes_max: u64) -> Result<Finished, RunError> {
    let stdout = group.leader.stdout.take().expect("stdout is piped");
    let stderr = group.leader.stderr.take().expect("stderr is piped");
    let (stdout, stderr) = tokio::try_join!(read_all(stdout, stdout_bytes_max), read_tail(stderr))?;
    let status = group.leader.wait().await.map_err(RunError::Pipe)?;
    Ok(Finished { success: status.success(), stdout, stderr: redact(&String::from_utf8_lossy(&stderr)) })
}

async fn read_all(pipe: impl AsyncRead + Unpin, bytes_max: u64) -> Result<Vec<u8>, RunError> {
    let mut bytes = Vec::new();
    let read = pipe.take(bytes_max + 1).read_to_end(&mut bytes).await.map_err(RunError::Pipe)?;
    if u64::try_from(read).is_ok_and(|read| read <= bytes_max) { Ok(bytes) } else { Err(RunError::TooMuchOutput) }
}

async fn read_tail(mut pipe: impl AsyncRead + Unpin) -> Result<Vec<u8>, RunError> {
    let mut tail = Vec::new();
    let mut chunk = vec![0; READ_BYTES];
    loop {
        match pipe.read(&mut chunk).await.map_err(RunError::Pipe)? {
            0 => return Ok(tail),
            read => tail.extend_from_slice(&chunk[..read]),
        }
        let excess = tail.len().saturating_sub(STDERR_BYTES_MAX);
        tail.drain(..excess);
    }
}

/// For start-up, before there is a runtime: the first line a program prints about itself.
pub(crate) fn first_line_blocking(program: &Path, argument: &str, deadline: Duration) -> io::Result<String> {
    const POLL: Duration = Duration::from_millis(5);
    let mut command = std::process::Command::new(program);
    command.arg(argument).env_clear().envs(environment(&[]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let started = std::time::Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(POLL);
    }
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// The program where PATH has it, so that an error can name the file; the name itself when PATH lacks it.
pub(crate) fn shown(program: &Path) -> PathBuf {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search).map(|dir| dir.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| program.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Invocation<'static> {
        Invocation {
            program: Path::new("/bin/sh"),
            args: vec!["-c".into(), script.into()],
            env: vec![("GREETING", "hello".into())],
            current_dir: Path::new("/"),
            stdin: Stdio::null(),
            stdout_bytes_max: 1024,
            deadline,
        }
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn output_status_and_environment_are_ours() {
        let finished =
            run(shell("echo $GREETING $HOME $USER; echo no https://u:p@h/x >&2; exit 3", LONG)).await.unwrap();
        assert!(!finished.success);
        assert_eq!(finished.stdout, b"hello\n");
        assert_eq!(finished.stderr, "no https://***@h/x\n");
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let loud = run(shell("while :; do echo xxxxxxxxxxxxxxxx; done", LONG)).await;
        assert!(matches!(loud, Err(RunError::TooMuchOutput)), "{loud:?}");
        let finished = run(shell("head -c 200000 /dev/zero >&2; echo end >&2", LONG)).await.unwrap();
        assert_eq!(finished.stderr.len(), STDERR_BYTES_MAX);
        assert!(finished.stderr.ends_with("end\n"));
    }

    /// The grandchild holds a lock that only its death releases.
    #[tokio::test]
    async fn the_deadline_kills_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let pid_path = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid_path.display());
        let ended = run(shell(&script, Duration::from_millis(500))).await;
        assert!(matches!(ended, Err(RunError::TimedOut)), "{ended:?}");
        let grandchild: u32 = std::fs::read_to_string(&pid_path).unwrap().trim().parse().unwrap();
        let gone = || agentd_sys::process::stat(grandchild).is_none_or(|stat| matches!(stat.state, 'Z' | 'X'));
        let limit = tokio::time::Instant::now() + LONG;
        while !gone() {
            assert!(tokio::time::Instant::now() < limit, "process {grandchild} still lives");
            tokio::time::sleep(Duration::from_millis(10)).await; // poll: the kernel ends the group in its own time
        }
    }

    #[tokio::test]
    async fn a_missing_program_is_told_apart() {
        let mut invocation = shell("", LONG);
        invocation.program = Path::new("/nonexistent/git");
        assert!(matches!(run(invocation).await, Err(RunError::NotStarted(_))));
    }
}
