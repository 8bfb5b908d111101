//! A home of its own in a temp folder: repositories, a stack file, a manager; everything goes down with it.

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::http;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(120);
/// How exact the times are.
const POLL: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Host {
    pub(super) dir: PathBuf,
    programs_dir: PathBuf,
    pub(super) port: u16,
    pub(super) dns_port: u16,
    manager: Option<Child>,
}

/// What `GET /v1/status` says, as far as it is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) manager: u32,
    pub(super) keeper: u32,
    pub(super) edge: u32,
    pub(super) applied: bool,
    pub(super) instances: Vec<Instance>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    /// 0 while there is none.
    pub(super) program: u32,
    pub(super) shim: u32,
    pub(super) port: Option<u16>,
    pub(super) is_ready: bool,
}

impl Host {
    pub(super) fn new(programs_dir: &Path) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("agentd-figures-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        // Root's services run as an unprivileged user, who must be able to come here.
        fs::set_permissions(&dir, Permissions::from_mode(0o755))?;
        let [port, internal, dns_port] = free_ports()?;
        let host = Self { dir, programs_dir: programs_dir.to_owned(), port, dns_port, manager: None };
        // Beside an agentd that runs with the usual ports.
        fs::create_dir(host.home())?;
        fs::write(host.home().join("agentd.toml"), format!("[ports]\ninternal = {internal}\ndns = {dns_port}\n"))?;
        Ok(host)
    }

    /// Commits the service with this version to a repository, made where missing.
    pub(super) fn commit(&self, repo: &str, version: &str) -> Result<()> {
        self.commit_file(repo, "app.py", &include_str!("app.py").replace("VERSION_MARK", version), version)
    }

    pub(super) fn commit_file(&self, repo: &str, file: &str, text: &str, version: &str) -> Result<()> {
        let dir = self.dir.join(repo);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(file), text)?;
        let identity = ["-c", "user.name=figures", "-c", "user.email=figures@example.com"];
        let lines: [&[&str]; 3] = [&["init", "-q", "-b", "main"], &["add", "."], &["commit", "-qm", version]];
        for line in lines {
            let mut git = Command::new("git");
            quiet(git.current_dir(&dir).args(identity).args(line), &format!("git {}", line.join(" ")))?;
        }
        Ok(())
    }

    pub(super) fn service(&self, name: &str, repo: &str, more: &str) -> String {
        format!(
            "[[service]]\nname = \"{name}\"\nrepo = \"file://{}\"\nref = \"main\"\nrun = \"exec python3 app.py\"\n\
             path = \"/{name}\"\nhealth = {{ path = \"/\" }}\n{more}\n",
            self.dir.join(repo).display()
        )
    }

    /// Writes the stack file, by rename as editors do.
    pub(super) fn stack(&self, poll: &str, services: &[String]) -> Result<()> {
        let head = format!("schema = 1\n[stack]\nname = \"figures\"\npoll_interval = \"{poll}\"\n[proxy]\n");
        let new = self.dir.join("stack.new");
        fs::write(&new, format!("{head}port = {}\n{}", self.port, services.concat()))?;
        fs::rename(new, self.dir.join("stack.toml")).context("write the stack file")
    }

    pub(super) fn start(&mut self) -> Result<()> {
        let log = File::options().append(true).create(true).open(self.dir.join("manager.log"))?;
        let mut agentd = Command::new(self.programs_dir.join("agentd"));
        agentd.args(["run", "--stack"]).arg(self.dir.join("stack.toml")).arg("--home").arg(self.home());
        agentd.stdin(Stdio::null()).stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log));
        self.manager = Some(agentd.spawn().context("start agentd")?);
        Ok(())
    }

    pub(super) fn kill_manager(&mut self) -> Result<()> {
        let mut manager = self.manager.take().context("no manager runs")?;
        manager.kill()?;
        manager.wait()?;
        Ok(())
    }

    pub(super) fn seen(&self) -> Result<Seen> {
        let answer = http::ask_manager(&self.home().join("run/agentd.sock"), "/v1/status")?;
        seen_in(&answer.body).context("the status has not all pids yet")
    }

    /// Waits until everything wanted runs: so many instances, all ready, the newest stack applied.
    pub(super) fn whole(&self, instances: usize) -> Result<Seen> {
        self.until(&format!("{instances} instances are ready"), || {
            let seen = self.seen().ok()?;
            let is_whole = seen.applied
                && seen.instances.len() == instances
                && seen.instances.iter().all(|instance| instance.is_ready);
            is_whole.then_some(seen)
        })
    }

    /// The first body of a 200 from `path` through the edge that `accepts`.
    pub(super) fn answered(&self, path: &str, accepts: impl Fn(&str) -> bool) -> Result<String> {
        self.until(&format!("{path} answers"), || {
            let answer = http::ask(self.port, "GET", path, b"").ok()?;
            (answer.status == 200 && accepts(&answer.body)).then_some(answer.body)
        })
    }

    pub(super) fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        let started = Instant::now();
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if started.elapsed() > LIMIT {
                bail!("waited {} s until {what}; see {}/manager.log", LIMIT.as_secs(), self.dir.display());
            }
            thread::park_timeout(POLL);
        }
    }

    /// Everything ends and the folder goes; where something fails, it stays to be read.
    pub(super) fn down(mut self) -> Result<()> {
        self.end()?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))
    }

    fn end(&mut self) -> Result<()> {
        let Some(mut manager) = self.manager.take() else { return Ok(()) };
        let mut agentctl = Command::new(self.programs_dir.join("agentctl"));
        quiet(agentctl.arg("--home").arg(self.home()).arg("shutdown"), "agentctl shutdown")?;
        manager.wait()?;
        Ok(())
    }

    pub(super) fn home(&self) -> PathBuf {
        self.dir.join("home")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.manager.is_none() && self.home().join("run/agentd.sock").exists() && self.start().is_ok() {
            // Between a kill and the next start: somebody has to take the services down.
            let _ = self.until("a manager answers", || self.seen().ok()); // the failure below says more
        }
        if let Err(error) = self.end() {
            crate::console::say(&format!("figures: not everything is down: {error:#}; see {}", self.dir.display()));
        }
    }
}

/// Free as far as can be told: each was bound a moment ago, all at once so that no two are the same.
pub(super) fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
    let bound: Vec<TcpListener> = (0..COUNT).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&bound) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

pub(super) fn kill(pid: u32) -> Result<()> {
    quiet(Command::new("kill").args(["-9", &pid.to_string()]), "kill -9")
}

fn quiet(command: &mut Command, what: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {what}"))?;
    if !output.status.success() {
        bail!("{what}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// `None` while a process is still missing.
fn seen_in(status: &str) -> Option<Seen> {
    let status: Value = serde_json::from_str(status).ok()?;
    let pid = |value: &Value| value.as_u64().and_then(|pid| u32::try_from(pid).ok());
    let of_services = |service: &Value| service["instances"].as_array().cloned().unwrap_or_default();
    let instance = |instance: Value| Instance {
        program: pid(&instance["pid"]).unwrap_or(0),
        shim: pid(&instance["shim_pid"]).unwrap_or(0),
        port: instance["port"].as_u64().and_then(|port| u16::try_from(port).ok()),
        is_ready: instance["ready"] == true,
    };
    let stack = &status["stack"];
    Some(Seen {
        manager: pid(&status["agent"]["pid"])?,
        keeper: pid(&status["agent"]["keeper_pid"])?,
        edge: pid(&status["edge"]["pid"])?,
        applied: stack["verdict"] == "applied"
            && stack["version"].is_u64()
            && stack["version"] == stack["applied_version"],
        instances: status["services"].as_array()?.iter().flat_map(of_services).map(instance).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_are_found_in_a_status() {
        let status = r#"{"agent":{"version":"0.1.0","pid":1,"keeper_pid":2,"home":"/h"},"stack":{"verdict":"applied",
            "version":3,"applied_version":3},"edge":{"pid":4,"generation":9},"services":[{"name":"a","ready":1,"instances":
            [{"id":"x","incarnation":1,"pid":5,"shim_pid":6,"port":null,"ready":true},
             {"id":"y","incarnation":1,"pid":null,"shim_pid":7,"port":1,"ready":false}]}]}"#;
        let seen = seen_in(status).unwrap();
        assert_eq!((seen.manager, seen.keeper, seen.edge, seen.applied), (1, 2, 4, true));
        let shown: Vec<_> = seen.instances.iter().map(|i| (i.program, i.shim, i.port, i.is_ready)).collect();
        assert_eq!(shown, [(5, 6, None, true), (0, 7, Some(1), false)]);
        assert!(!seen_in(&status.replace("applied_version\":3", "applied_version\":2")).unwrap().applied);
    }
}
