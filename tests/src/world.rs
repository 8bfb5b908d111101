//! One home, one stack file, one manager at a time.

use std::fs::{File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentd_protocol::api::{ServiceStatus, Status, Verdict};
use tempfile::TempDir;

use crate::Repo;

/// Longest wait for anything: generous, since machines that build are slow.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct World {
    dir: TempDir,
    pub home: PathBuf,
    pub stack_file: PathBuf,
    pub port: u16,
    pub internal_port: u16,
    pub dns_port: u16,
    manager: Option<Child>,
}

/// What a program said.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// A program of this workspace, beside the test's own executable.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join(name);
    assert!(path.exists(), "{} is not built: run the tests through `cargo xtask test`", path.display());
    path
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    pub fn new() -> Self {
        Self::at("home")
    }

    /// With the home at `path` below the test's folder.
    pub fn at(path: &str) -> Self {
        Self::below(&std::env::temp_dir(), path)
    }

    /// In a folder of the test's below `parent`: /tmp is not always to be in sight.
    pub fn below(parent: &Path, path: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("agentd-test").tempdir_in(parent).unwrap();
        // Root's services run as `nobody`, who must be able to come here.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let home = dir.path().join(path);
        let stack_file = dir.path().join("stack.toml");
        let (port, internal_port, dns_port) = free_ports();
        Self { home, stack_file, port, internal_port, dns_port, manager: None, dir }
    }

    /// Ports of its own for this home, unless the test made one that cannot hold settings.
    pub fn settle(&self) {
        let settings = self.home.join("agentd.toml");
        if settings.exists() || std::fs::create_dir_all(&self.home).is_err() {
            return;
        }
        let ports = format!("[ports]\ninternal = {}\ndns = {}\n", self.internal_port, self.dns_port);
        std::fs::write(settings, ports).unwrap();
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn repo(&self, name: &str) -> Repo {
        Repo::create(&self.dir.path().join("repos").join(name))
    }

    /// A repository with the usual Python service in it, answering with `version`.
    pub fn web_repo(&self, name: &str, version: &str) -> Repo {
        let repo = self.repo(name);
        repo.commit(&[("web.py", &web(version))]);
        repo
    }

    /// Writes a stack of these services, by rename as editors do.
    pub fn stack(&self, services: &str) {
        let text = format!(
            "schema = 1\n[stack]\nname = \"test\"\npoll_interval = \"1s\"\n[proxy]\nport = {}\n{services}",
            self.port
        );
        let temp = self.stack_file.with_extension("new");
        std::fs::write(&temp, text).unwrap();
        std::fs::rename(temp, &self.stack_file).unwrap();
    }

    /// Starts a manager and waits until it answers.
    pub fn start(&mut self) {
        self.start_with(&[], &[]);
    }

    pub fn start_with(&mut self, arguments: &[&str], env: &[(&str, &str)]) {
        self.start_program(&mut Command::new(program("agentd")), arguments, env);
    }

    /// Starts the manager of a host that has joined a control server, and waits until it answers.
    pub fn start_joined(&mut self, arguments: &[&str]) {
        self.settle();
        self.spawn(Command::new(program("agentd")).arg("run").arg("--home").arg(&self.home).args(arguments));
    }

    /// As root, a manager that runs as this user. Everything below the test's folder becomes the user's, so repositories
    /// are to be made before.
    pub fn start_as(&mut self, uid: u32, env: &[(&str, &str)]) {
        self.settle();
        // The target folder may lie where a plain user cannot go.
        let agentd = self.dir().join("agentd");
        if !agentd.exists() {
            std::fs::copy(program("agentd"), &agentd).unwrap();
        }
        let owned = Command::new("chown").args(["-R", &format!("{uid}:{uid}")]).arg(self.dir()).status().unwrap();
        assert!(owned.success());
        self.start_program(Command::new(agentd).uid(uid).gid(uid), &[], env);
    }

    /// Joins a control server by its join string.
    pub fn join(&self, join_string: &str) -> Ran {
        self.settle();
        ran(Command::new(program("agentd")).arg("join").arg("--home").arg(&self.home).arg(join_string))
    }

    /// `command` becomes `agentd`, whatever it does before.
    pub fn start_program(&mut self, command: &mut Command, arguments: &[&str], env: &[(&str, &str)]) {
        self.settle();
        command.args(["run", "--stack"]).arg(&self.stack_file).arg("--home").arg(&self.home);
        self.spawn(command.args(arguments).envs(env.iter().copied()));
    }

    fn spawn(&mut self, command: &mut Command) {
        let log = File::options().append(true).create(true).open(self.dir.path().join("manager.log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self.manager = Some(child);
        self.until("the manager answers", |world| world.try_status().is_ok());
    }

    /// Runs the manager to its end; for what must fail at start.
    pub fn run_to_end(&self, arguments: &[&str]) -> Ran {
        self.settle();
        let mut command = Command::new(program("agentd"));
        command.args(["run", "--stack"]).arg(&self.stack_file).arg("--home").arg(&self.home).args(arguments);
        ran(&mut command)
    }

    pub fn manager_pid(&self) -> u32 {
        self.manager.as_ref().expect("a manager was started").id()
    }

    /// SIGKILL to the manager, and waits for its end.
    pub fn kill_manager(&mut self) {
        let mut child = self.manager.take().expect("a manager was started");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM to the manager, and waits for its end: the next one finds the home unlocked.
    pub fn end_manager(&mut self) {
        let mut child = self.manager.take().expect("a manager was started");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("pids fit"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        child.wait().unwrap();
    }

    pub fn ctl(&self, arguments: &[&str]) -> Ran {
        ran(Command::new(program("agentctl")).arg("--home").arg(&self.home).args(arguments))
    }

    pub fn try_status(&self) -> Result<Status, String> {
        let ran = self.ctl(&["status", "--json"]);
        serde_json::from_str(&ran.stdout).map_err(|_| ran.stderr)
    }

    pub fn status(&self) -> Status {
        self.try_status().expect("the manager answers")
    }

    pub fn service(&self, name: &str) -> ServiceStatus {
        let status = self.status();
        let found = status.services.iter().find(|service| service.name.as_str() == name).cloned();
        found.unwrap_or_else(|| panic!("no service {name} in {status:#?}"))
    }

    /// Waits until the newest version is applied in full.
    pub fn applied(&self) -> Status {
        self.until("the stack is applied", |world| {
            world.try_status().is_ok_and(|status| {
                status.stack.verdict == Verdict::Applied
                    && status.stack.version.is_some()
                    && status.stack.version == status.stack.applied_version
            })
        });
        self.status()
    }

    /// Waits for a condition; the failure shows the status and the end of the manager's log.
    pub fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < LIMIT, "waited {LIMIT:?} until {what}\n{}", self.story());
            std::thread::park_timeout(POLL);
        }
    }

    fn story(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("manager.log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(40).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("status: {:#?}\nlog:\n{}", self.try_status(), tail.join("\n"))
    }

    /// GET through the edge.
    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.story()))
    }

    pub fn try_get(&self, path: &str) -> Result<Answer, String> {
        self.request(reqwest::Method::GET, path, &[], Vec::new())
    }

    pub fn request(
        &self,
        method: reqwest::Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, String> {
        self.request_at(self.port, method, path, headers, body)
    }

    pub fn request_at(
        &self,
        port: u16,
        method: reqwest::Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = agentd_sys::http::plain().timeout(LIMIT).build().unwrap();
            let mut request = client.request(method, format!("http://127.0.0.1:{port}{path}")).body(body);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let response = request.send().await.map_err(|error| format!("{error:?}"))?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.text().await.map_err(|error| format!("{error:?}"))?;
            Ok(Answer { status, headers, body })
        })
    }

    /// Waits until `path` answers 200 with this version of the usual service.
    pub fn serves(&self, path: &str, version: &str) {
        self.until(&format!("{path} serves {version}"), |world| {
            world.try_get(path).is_ok_and(|answer| answer.status == 200 && answer.json()["version"] == version)
        });
    }

    /// Everything down, by the tool; asserts that nothing is left.
    pub fn down(&mut self) {
        let ran = self.ctl(&["down"]);
        assert_eq!(ran.code, 0, "{ran:?}\n{}", self.story());
        if let Some(mut child) = self.manager.take() {
            child.wait().unwrap();
        }
        self.until("no process of this home is left", |world| world.processes().is_empty());
    }

    /// Pids of every process that names this home in its command line or environment, this test aside.
    pub fn processes(&self) -> Vec<u32> {
        let home = self.home.to_string_lossy().into_owned();
        let names_home = |pid: u32| {
            ["cmdline", "environ"].iter().any(|file| {
                std::fs::read(format!("/proc/{pid}/{file}"))
                    .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&home))
            })
        };
        let entries = std::fs::read_dir("/proc").unwrap();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != std::process::id() && names_home(*pid)).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // For whoever reads the failed test.
            let kept = self.story();
            std::fs::write(self.dir.path().join("story.txt"), kept).expect("the test's folder is writable");
        }
        for _ in 0..3 {
            for pid in self.processes() {
                let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("pids fit"));
                // It may have ended meanwhile.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::park_timeout(POLL);
        }
        if let Some(mut child) = self.manager.take() {
            // Killed above.
            let _ = child.wait();
        }
    }
}

/// The usual Python service with its version filled in.
pub fn web(version: &str) -> String {
    include_str!("../apps/web.py").replace("VERSION_MARK", version)
}

/// A port nobody listens on, outside the pool of instances.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Three that differ: each is free again when the next one is looked for, and may be found once more.
fn free_ports() -> (u16, u16, u16) {
    loop {
        let (proxy, internal, dns) = (free_port(), free_port(), free_dns_port());
        if proxy != internal && internal != dns && dns != proxy {
            return (proxy, internal, dns);
        }
    }
}

/// A port nobody uses for TCP or UDP.
fn free_dns_port() -> u16 {
    loop {
        let port = free_port();
        if std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn ran(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
