//! Commands in the host and outside of it, each with a limit.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Ran;

/// Longest any command may take.
pub const LIMIT: Duration = Duration::from_secs(60);
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, Clone, Copy)]
pub(super) enum Inside {
    /// All namespaces, root folder and working folder.
    Host,
    /// The network alone.
    Network,
}

/// A shell command in the namespaces of that process.
pub(super) fn shell(pid: u32, inside: Inside, command: &str) -> Ran {
    let output = entering(pid, inside).args(["sh", "-c", command]).stdin(Stdio::null()).output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// In that network and without a limit: for what its owner ends. Program and arguments are to follow.
pub(super) fn beside(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string(), "-n", "env", "-i", PATH, "HOME=/root", "LANG=C.UTF-8"]);
    command
}

/// To be followed by program and arguments. The limit is counted in there, so nothing stays behind.
pub(super) fn entering(pid: u32, inside: Inside) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string()]);
    match inside {
        Inside::Host => command.args(["-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w"]),
        Inside::Network => command.arg("-n"),
    };
    command.args(["env", "-i", PATH, "HOME=/root", "LANG=C.UTF-8"]);
    command.args(["timeout", "--kill-after=2", &LIMIT.as_secs().to_string()]);
    command
}
