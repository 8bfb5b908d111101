//! agentd and agentctl as the demo uses them: the real programs, by their command lines.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::folder::Folder;
use super::options::Reach;
use crate::http;

#[derive(Debug)]
pub(super) struct Agent {
    home: PathBuf,
    programs_dir: PathBuf,
    said_file: PathBuf,
    process: Child,
}

impl Agent {
    /// In a process group of its own: Ctrl-C is ours alone, and we ask it to take the services down first.
    pub(super) fn start(programs_dir: &Path, folder: &Folder, reach: Reach) -> Result<Self> {
        let said_file = folder.dir.join("agentd.out");
        let said = File::create(&said_file).with_context(|| format!("create {}", said_file.display()))?;
        let mut command = Command::new(programs_dir.join("agentd"));
        command.args(["run", "--stack"]).arg(folder.stack_file()).arg("--home").arg(folder.home());
        if reach == Reach::Public {
            command.arg("--public");
        }
        command.stdin(Stdio::null()).stdout(Stdio::from(said.try_clone()?)).stderr(Stdio::from(said)).process_group(0);
        let process = command.spawn().context("start agentd")?;
        Ok(Self { home: folder.home(), programs_dir: programs_dir.to_owned(), said_file, process })
    }

    /// One that has joined a control server, or will.
    pub(super) fn of_fleet(programs_dir: &Path, home: &Path) -> Result<Self> {
        let said_file = home.with_extension("out");
        let said = File::create(&said_file).with_context(|| format!("create {}", said_file.display()))?;
        let mut command = Command::new(programs_dir.join("agentd"));
        command.args(["run", "--home"]).arg(home);
        command.stdin(Stdio::null()).stdout(Stdio::from(said.try_clone()?)).stderr(Stdio::from(said)).process_group(0);
        let process = command.spawn().context("start agentd")?;
        Ok(Self { home: home.to_owned(), programs_dir: programs_dir.to_owned(), said_file, process })
    }

    /// How it ended, once it has.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.try_wait().context("ask for the end of agentd")
    }

    /// `None` while it does not answer.
    pub(super) fn status(&self) -> Option<Value> {
        let answer = http::ask_manager(&self.home.join("run/agentd.sock"), "/v1/status").ok()?;
        serde_json::from_str(&answer.body).ok()
    }

    /// The table, straight to the terminal.
    pub(super) fn print_status(&self) -> Result<()> {
        ctl(&self.programs_dir, &self.home).arg("status").status().context("start agentctl").map(drop)
    }

    /// Asks for the end of everything; the answer comes when it is there.
    pub(super) fn begin_down(&self) -> Result<Child> {
        let mut command = ctl(&self.programs_dir, &self.home);
        command.arg("down").stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        command.spawn().context("start agentctl")
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.process.kill().context("end agentd")?;
        self.process.wait().context("wait for agentd").map(drop)
    }

    /// What it wrote before it ended, without the log's own lines.
    pub(super) fn last_words(&self) -> String {
        let said = fs::read_to_string(&self.said_file).unwrap_or_default();
        let words: Vec<&str> =
            said.lines().filter(|line| line.starts_with("agentd: ") || line.starts_with("  ")).collect();
        if words.is_empty() { format!("see {}", self.said_file.display()) } else { words.join("\n") }
    }
}

/// Whether a manager answers on this home, be it whose it may.
pub(super) fn is_up(home: &Path) -> bool {
    http::ask_manager(&home.join("run/agentd.sock"), "/v1/status").is_ok()
}

/// `agentctl` on this home.
pub(super) fn ctl(programs_dir: &Path, home: &Path) -> Command {
    let mut command = Command::new(programs_dir.join("agentctl"));
    command.arg("--home").arg(home).stdin(Stdio::null());
    command
}

/// Processes of this home: programs of agentd's that name it, and whatever runs in one of its instances. A shell whose
/// AGENTD_HOME it is, or an editor on one of its files, is none.
pub(super) fn processes_of(home: &Path) -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("read /proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let home = home.to_string_lossy();
    Ok(pids.filter(|pid: &u32| belongs(&read(*pid, "cmdline"), &read(*pid, "environ"), &home)).collect())
}

/// Empty for a process that has ended, or that is not ours to look at.
fn read(pid: u32, file: &str) -> String {
    fs::read(format!("/proc/{pid}/{file}"))
        .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into())
}

/// Both are texts of procfs: parts end in NUL.
fn belongs(cmdline: &str, environ: &str, home: &str) -> bool {
    let program = cmdline.split('\0').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let in_instance = environ.split('\0').any(|variable| variable.starts_with("AGENTD_INSTANCE="));
    let names_home = cmdline.contains(home) || environ.contains(home);
    ((program.starts_with("agentd") || program == "controld") && cmdline.contains(home)) || (in_instance && names_home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_demo_started_is_its_own() {
        let cases = [
            ("/p/agentd\0run\0--home\0/h", "", true),
            ("/p/controld\0serve\0--home\0/h/control", "", true),
            ("/h/state/shim/1/agentd-shim\0keeper", "", true),
            ("/proc/self/fd/5\0edge\0--snapshot\0/h/run/edge/snapshot.json", "AGENTD_INSTANCE=x", true),
            ("node\0server.js", "AGENTD_INSTANCE=x\0DATA_DIR=/h/data", true),
            ("node\0server.js", "AGENTD_INSTANCE=x\0DATA_DIR=/other/data", false),
            ("bash", "AGENTD_HOME=/h", false),
            ("agentctl\0--home\0/h\0status", "", false),
            ("vim\0/h/agentd.toml", "", false),
            ("", "", false),
        ];
        for (cmdline, environ, wanted) in cases {
            assert_eq!(belongs(cmdline, environ, "/h"), wanted, "{cmdline}");
        }
    }
}
