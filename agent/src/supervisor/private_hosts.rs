//! Asks the installed shim whether this host lets instances have an /etc/hosts of their own: what answers is the very
//! code that will do it, run as the same user. And has it done again for one that lost it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use agentd_protocol::ids::InstanceId;
use agentd_protocol::shim::hosts::{MACHINE_HOSTS_FILE, RENEW_VERB, Refused, TRY_VERB};
use agentd_sys::causes::chain;
use tokio::process::Command;

use super::room::Views;

/// A few system calls; more is a file system that hangs.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(Refused),
    #[error("the shim {path} could not be asked; see that its file system is not mounted noexec")]
    Shim {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Whether a mount over /etc/hosts can be had here.
pub async fn attempt(shim: &Path, hosts_file: &Path) -> Result<(), Error> {
    ask(shim, Command::new(shim).arg(TRY_VERB).arg(hosts_file)).await
}

/// Covers /etc/hosts again in an instance's namespace; nothing happens where it is covered.
async fn renew(shim: &Path, pid: u32, id: &InstanceId, hosts_file: &Path) -> Result<(), Error> {
    ask(shim, Command::new(shim).arg(RENEW_VERB).arg(pid.to_string()).arg(id.as_str()).arg(hosts_file)).await
}

/// Looks at every instance; one that cannot be helped keeps resolving by DNS, or not at all, until it is restarted.
pub(super) async fn renew_all(shim: &Path, views: &Views, hosts_file: &Path) {
    for view in views.values() {
        let Some(pid) = view.pid().filter(|pid| is_bare(*pid, hosts_file)) else { continue };
        match renew(shim, pid, &view.id, hosts_file).await {
            Ok(()) => tracing::info!(instance = %view.id, "names of services shown again in its /etc/hosts"),
            Err(error) => {
                tracing::warn!(instance = %view.id, error = chain(&error), "names of services are lost to it")
            }
        }
    }
}

async fn ask(shim: &Path, command: &mut Command) -> Result<(), Error> {
    let failed = |source| Error::Shim { path: shim.to_owned(), source };
    command.env_clear().stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let asked = tokio::time::timeout(LIMIT, command.output()).await;
    let output = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    match Refused::parse(&String::from_utf8_lossy(&output.stdout)) {
        Some(refused) => Err(Error::Refused(refused)),
        None => Err(failed(io::Error::other(output.status.to_string()))),
    }
}

/// Whether the process lives in a mount namespace of its own where /etc/hosts is not covered by `hosts_file`: the
/// kernel takes a mount away when the file below it is replaced, in whatever namespace. `false` for what is gone.
fn is_bare(pid: u32, hosts_file: &Path) -> bool {
    let namespace = |whose: &str| std::fs::read_link(format!("/proc/{whose}/ns/mnt"));
    let (Ok(theirs), Ok(own)) = (namespace(&pid.to_string()), namespace("self")) else { return false };
    if theirs == own {
        return false;
    }
    let Ok(table) = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")) else { return false };
    let at = std::fs::canonicalize(MACHINE_HOSTS_FILE).unwrap_or_else(|_| MACHINE_HOSTS_FILE.into());
    !covers(&table, &at, hosts_file)
}

/// proc_pid_mountinfo(5): the fourth field is the path within its file system, of which ours is the end; the fifth the
/// place it is shown at.
fn covers(table: &str, at: &Path, hosts_file: &Path) -> bool {
    let mut names = hosts_file.components().rev();
    let (Some(file), Some(dir)) = (names.next(), names.next()) else { return false };
    let end: PathBuf = [dir, file].iter().collect();
    table.lines().any(|line| {
        let mut fields = line.split(' ').skip(3);
        let (Some(source), Some(place)) = (fields.next(), fields.next()) else { return false };
        Path::new(place) == at && Path::new(source).ends_with(&end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_covered_file_is_seen_in_the_table_of_mounts() {
        let table = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                     31 27 8:1 /var/h/run/hosts /etc/hosts rw,relatime master:1 - ext4 /dev/root rw\n";
        let ours = Path::new("/var/h/run/hosts");
        assert!(covers(table, Path::new("/etc/hosts"), ours));
        assert!(!covers(table, Path::new("/nix/store/x"), ours));
        assert!(!covers("31 27 8:1 /docker/abc/hosts /etc/hosts rw - ext4 x rw", Path::new("/etc/hosts"), ours));
        assert!(!covers("short line", Path::new("/etc/hosts"), ours));
        assert!(!is_bare(std::process::id(), ours), "the machine's own namespace is none of ours");
    }
}
