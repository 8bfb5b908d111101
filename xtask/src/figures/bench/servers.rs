//! The programs measured beside ours: each with the plainest configuration that does the same work, in our temp folder,
//! on a free port of loopback, ended with its value.

use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::super::{host, process};

/// A name of each program, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] =
    &[("nginx", "nginx-light"), ("caddy", "caddy"), ("unbound", "unbound"), ("wrk", "wrk"), ("dnsperf", "dnsperf")];
/// Longest wait for a server to listen.
const START_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) port: u16,
    pid: u32,
    /// Ends with this value; ours is the host's.
    child: Option<Child>,
}

impl Server {
    pub(super) fn ours(name: &'static str, pid: u32, port: u16) -> Self {
        Self { name, port, pid, child: None }
    }

    /// CPU time of the process and its children, clock ticks.
    pub(super) fn ticks(&self) -> Result<u64> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(self.pid).chain(children).map(process::ticks).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // SIGTERM first: nginx's master ends its workers.
        let asked = Command::new("kill").arg(child.id().to_string()).status();
        if asked.is_err() {
            let _ = child.kill(); // it ends with us otherwise
        }
        let _ = child.wait(); // gone either way
    }
}

/// None is installed by us: a package of a server starts that server.
pub(super) fn check_programs() -> Result<()> {
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| crate::setup::find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        let names = missing.join(" ");
        bail!(
            "missing, to be measured beside: {names}; run: sudo apt-get install --no-install-recommends -y {names} \
             (a server's package may start the server: stop it again)"
        );
    }
    Ok(())
}

pub(super) fn nginx(dir: &Path, upstream: u16) -> Result<Server> {
    let ([port], dir) = (host::free_ports()?, folder(dir, "nginx")?);
    let text = format!(
        "worker_processes 1; daemon off; pid {0}/pid; error_log {0}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; {1}\n\
         upstream app {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000; }}\n\
         server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000;\n\
         location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Forwarded-Proto $scheme; }} }} }}\n",
        dir.display(),
        temp_paths(&dir)
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, text)?;
    start("nginx", port, Command::new("nginx").arg("-p").arg(&dir).arg("-c").arg(&file).arg("-e").arg(dir.join("log")))
}

/// Where nginx keeps bodies; its built-in folders are a packaged host's.
pub(super) fn temp_paths(dir: &Path) -> String {
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    kinds.map(|kind| format!("{kind}_temp_path {}/{kind};", dir.display())).join(" ")
}

pub(super) fn caddy(dir: &Path, upstream: u16) -> Result<Server> {
    let ([port], dir) = (host::free_ports()?, folder(dir, "caddy")?);
    let file = dir.join("Caddyfile");
    let text = format!(
        "{{\n\tadmin off\n\tauto_https off\n}}\nhttp://127.0.0.1:{port} {{\n\treverse_proxy 127.0.0.1:{upstream}\n}}\n"
    );
    fs::write(&file, text)?;
    let mut caddy = Command::new("caddy");
    caddy.env("HOME", &dir).env("XDG_DATA_HOME", &dir).env("XDG_CONFIG_HOME", &dir);
    start("Caddy", port, caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file))
}

pub(super) fn unbound(dir: &Path) -> Result<Server> {
    let ([port], dir) = (host::free_ports()?, folder(dir, "unbound")?);
    let file = dir.join("unbound.conf");
    let text = format!(
        "server:\n  interface: 127.0.0.1@{port}\n  num-threads: 1\n  do-daemonize: no\n  use-syslog: no\n  \
         verbosity: 0\n  username: \"\"\n  chroot: \"\"\n  directory: \"{0}\"\n  pidfile: \"{0}/pid\"\n  \
         local-zone: \"svc.internal.\" static\n  local-data: \"upstream.svc.internal. 5 IN A 127.0.0.1\"\n\
         remote-control:\n  control-enable: no\n",
        dir.display()
    );
    fs::write(&file, text)?;
    start("Unbound", port, Command::new("unbound").arg("-d").arg("-c").arg(&file))
}

/// Open to the users these servers drop to.
fn folder(dir: &Path, name: &str) -> Result<std::path::PathBuf> {
    let dir = dir.join(name);
    fs::DirBuilder::new().mode(0o777).create(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

fn start(name: &'static str, port: u16, command: &mut Command) -> Result<Server> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("start {name}"))?;
    let started = Instant::now();
    loop {
        // Unbound listens on TCP too.
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        if let Some(status) = child.try_wait()? {
            bail!("{name} ended with {status}; its own log lies in the temp folder");
        }
        if started.elapsed() > START_LIMIT {
            let _ = child.kill(); // said below
            bail!("{name} does not listen on port {port} within {} s", START_LIMIT.as_secs());
        }
        thread::park_timeout(POLL);
    }
    // Nobody else may take the port of a resolver by UDP meanwhile.
    if name == "Unbound" && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
        bail!("{name} does not listen by UDP");
    }
    Ok(Server { name, port, pid: child.id(), child: Some(child) })
}
