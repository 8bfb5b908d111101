//! The controld under measurement: a process of its own in a folder of its own, and its operator's calls.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentd_protocol::control::join::JoinString;
use agentd_sys::http;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::host::Calls;
use super::process::{self, Memory};

/// Longest wait for a start, and for an end.
const LIMIT: Duration = Duration::from_secs(30);
/// How exact the time of a start is.
const POLL: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Server {
    dir: TempDir,
    program: PathBuf,
    address: String,
    process: Option<Child>,
    operator: Client,
    pub(crate) calls: Calls,
}

impl Server {
    pub(crate) fn new(programs_dir: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("control-fleet").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let socket_path = dir.path().join("home/controld.sock");
        let operator = http::plain().unix_socket(socket_path).build()?;
        // Agents hold one connection each; here the pool has as many as there are held hosts.
        let client = http::plain().pool_max_idle_per_host(usize::MAX).build()?;
        let calls = Calls { base: format!("http://{address}"), client };
        Ok(Self { program: programs_dir.join("controld"), dir, address, process: None, operator, calls })
    }

    pub(crate) fn binary_bytes(&self) -> Result<u64> {
        let facts = fs::metadata(&self.program).with_context(|| format!("look at {}", self.program.display()))?;
        Ok(facts.len())
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// Starts the server and waits for its first answer.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let log = File::options().append(true).create(true).open(self.dir.path().join("log"))?;
        let mut command = Command::new(&self.program);
        command.args(["serve", "--listen", &self.address, "--home"]).arg(self.home());
        command.stdin(Stdio::null()).stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log));
        self.process = Some(command.spawn().with_context(|| format!("start {}", self.program.display()))?);
        let started = Instant::now();
        while self.calls.client.get(format!("{}/healthz", self.calls.base)).send().await.is_err() {
            if started.elapsed() > LIMIT {
                bail!("controld does not answer: {}", self.log_end());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        log.lines().rev().take(5).collect::<Vec<_>>().join(" | ")
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGTERM).context("end controld")?;
        let started = Instant::now();
        while process.try_wait()?.is_none() {
            if started.elapsed() > LIMIT {
                process.kill()?;
                process.wait()?;
                bail!("controld did not end within {} s", LIMIT.as_secs());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("controld does not run")?.id())
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        process::memory(self.pid()?)
    }

    pub(crate) fn ticks(&self) -> Result<u64> {
        process::ticks(self.pid()?)
    }

    /// Bytes of everything in the home after an orderly end, when no write-ahead log is left; the server runs after.
    pub(crate) async fn disk_bytes_at_rest(&mut self) -> Result<u64> {
        self.stop()?;
        let bytes = bytes_below(&self.home())?;
        self.start().await?;
        Ok(bytes)
    }

    pub(crate) async fn new_stack(&self) -> Result<String> {
        let made = self.ask(Method::POST, "/stacks", json!({"name": "fleet"}), None).await?;
        Ok(made["id"].as_str().context("the new stack has no id")?.to_owned())
    }

    /// Publishes a document of ten services that differs from the one of any other round; returns its number.
    pub(crate) async fn publish(&self, stack: &str, round: usize) -> Result<u64> {
        let services: Vec<Value> = (0..10)
            .map(|number| {
                json!({
                    "name": format!("service-{number}"), "repo": "https://git.example.com/shop/service",
                    "commit": "1".repeat(40), "run": "./run", "path": format!("/{number}"),
                    "env": {"ROUND": format!("{round}"), "LOG_LEVEL": "info"},
                })
            })
            .collect();
        let document = json!({"schema": 1, "stack": {"name": "fleet"}, "service": services});
        let draft = format!("/stacks/{stack}/draft");
        let revision = self.ask(Method::GET, &draft, Value::Null, None).await?["revision"].as_u64().unwrap_or(0);
        let saved = self.ask(Method::PUT, &draft, document, Some(revision)).await?;
        let revision = saved["revision"].as_u64().context("the saved draft has no revision")?;
        let versions = format!("/stacks/{stack}/versions");
        let published = self.ask(Method::POST, &versions, json!({"reason": "round"}), Some(revision)).await?;
        published["number"].as_u64().context("the published version has no number")
    }

    pub(crate) async fn token(&self, stack: &str) -> Result<JoinString> {
        let made = self.ask(Method::POST, &format!("/stacks/{stack}/tokens"), json!({}), None).await?;
        JoinString::read(made["join"].as_str().context("the new token has no join string")?).context("join string")
    }

    async fn ask(&self, method: Method, path: &str, body: Value, revision: Option<u64>) -> Result<Value> {
        let mut asking = self.operator.request(method, format!("http://controld/api/v1{path}"));
        if !body.is_null() {
            asking = asking.header("content-type", "application/json").body(body.to_string());
        }
        if let Some(revision) = revision {
            asking = asking.header("if-match", format!("\"{revision}\""));
        }
        let answer = asking.send().await.with_context(|| path.to_owned())?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("{path}: {status}: {text:.300}");
        }
        serde_json::from_str(&text).with_context(|| format!("{path}: {text:.300}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended by itself.
            let _ = process.kill().and_then(|()| process.wait());
        }
    }
}

fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        let facts = entry.metadata()?;
        bytes += if facts.is_dir() { bytes_below(&entry.path())? } else { facts.len() };
    }
    Ok(bytes)
}
