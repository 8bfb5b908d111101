//! A fresh host, a control server on another machine, TLS by a private authority: the command that the server shows is
//! pasted, and the rest follows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentd_tests::host::{Host, OUTSIDE_V4, Package};
use agentd_tests::{program, web};
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
const PORT: u16 = 9443;

/// On the machine outside.
struct Server {
    dir: TempDir,
    process: Option<Child>,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("home")).unwrap();
        certificates(dir.path());
        Self { dir, process: None }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn start(&mut self, host: &Host) {
        let log = fs::File::options().append(true).create(true).open(self.dir.path().join("log")).unwrap();
        let address = format!("{OUTSIDE_V4}:{PORT}");
        let mut command = host.command_outside(&[program("controld").to_str().unwrap(), "serve"]);
        command.arg("--home").arg(self.home()).args([
            "--listen",
            &address,
            "--public-url",
            &format!("https://{address}"),
        ]);
        command.arg("--tls-cert").arg(self.dir.path().join("tls.crt"));
        command.arg("--tls-key").arg(self.dir.path().join("tls.key"));
        self.process = Some(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        until("the server answers", || self.try_ask(&["stack", "list"]).is_ok());
    }

    fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn try_ask(&self, words: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(program("controld"));
        let output = command.args(words).arg("--json").arg("--home").arg(self.home()).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    }

    fn ask(&self, words: &[&str]) -> Value {
        self.try_ask(words).unwrap_or_else(|said| panic!("controld {words:?}: {said}"))
    }

    fn publish(&self, commit: &str) {
        let file = self.dir.path().join("stack.toml");
        fs::write(&file, stack(commit)).unwrap();
        self.ask(&["stack", "draft", "shop", file.to_str().unwrap()]);
        self.ask(&["stack", "publish", "shop", "--reason", "test"]);
    }

    fn applied(&self) -> u64 {
        self.ask(&["host", "list"])[0]["applied"].as_u64().unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

fn stack(commit: &str) -> String {
    format!(
        "schema = 1\n[stack]\nname = \"shop\"\npoll_interval = \"5s\"\n[proxy]\nport = 8085\n[[service]]\nname = \"api\"\n\
         repo = \"file:///srv/api\"\ncommit = \"{commit}\"\nrun = \"python3 web.py\"\npath = \"/\"\n\
         env = {{ GREETING = \"hunter2-is-no-password\" }}\nhealth = {{ path = \"/healthz\" }}\n"
    )
}

/// An authority, and by it a certificate for the machine outside.
fn certificates(dir: &Path) {
    let script = format!(
        "set -e
         key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
         openssl req -x509 $key -keyout ca.key -out ca.crt -subj /CN=test-authority -days 2
         openssl req $key -keyout tls.key -out tls.csr -subj /CN=control
         echo subjectAltName=IP:{OUTSIDE_V4} >names
         openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out tls.crt"
    );
    let made = Command::new("sh").args(["-c", &script]).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "waited {LIMIT:?} until {what}");
        std::thread::park_timeout(POLL);
    }
}

fn commit(host: &Host, version: &str) -> String {
    host.put("/srv/api/web.py", &web(version));
    host.must(
        "cd /srv/api && { [ -d .git ] || git init --quiet --initial-branch=main; } && git add --all && \
         git -c user.name=t -c user.email=t@example.com commit --quiet --message change && git rev-parse HEAD",
    )
    .trim()
    .to_owned()
}

fn serves(host: &Host, version: &str) {
    let command = format!("curl --silent --fail http://127.0.0.1:8085/ | grep -q {version}");
    host.until(&format!("{version} is served"), &command);
}

#[test]
fn the_pasted_command_joins_and_applies() {
    let host = Host::new();
    let mut server = Server::new();
    server.start(&host);
    Package::build("").hand_out(&server.home().join("packages"));
    let first = commit(&host, "v1");
    server.ask(&["stack", "create", "shop"]);
    server.publish(&first);
    let made = server.ask(&["token", "create", "shop"]);
    let (command, join) = (made["command"].as_str().unwrap(), made["join"].as_str().unwrap());

    // Nobody on the way is believed before the authority is.
    let untrusted = host.run(&format!("{command} --yes"));
    assert!(untrusted.code != 0, "{untrusted:?}");
    fs::copy(server.dir.path().join("ca.crt"), host.path("/usr/local/share/ca-certificates/test.crt")).unwrap();
    host.must("update-ca-certificates 2>&1");
    let plan = host.must(&format!("cd /var/tmp && {command} --dry-run"));
    assert!(plan.contains("join the control server") && plan.contains("nothing was changed"), "{plan}");
    assert!(host.run("command -v agentd").code != 0);
    host.must(&format!("cd /var/tmp && {command} --yes 2>&1"));
    serves(&host, "v1");
    until("the server knows", || server.applied() == 1);
    let status = host.must("agentctl status");
    assert!(status.contains("control: connected") && status.contains("newest version 1, applied 1"), "{status}");
    let identity = host.must("stat --format '%a %U' /var/lib/agentd/identity");
    assert_eq!(identity.trim(), "600 root");

    // Again it is the same host; another one does not come in by the same string.
    assert_eq!(host.must(&format!("cd /var/tmp && {command} --yes 2>/dev/null")).lines().last(), Some("nothing to do"));
    let other = host.run(&format!("mkdir -p /var/tmp/other && echo {join} | agentd join - --home /var/tmp/other"));
    assert!(other.code == 11 && other.stderr.contains("used"), "{other:?}");

    // Away, and killed at that: nothing stops, also when the manager starts anew.
    let pid = "pgrep --full --oldest 'python3 web.py'";
    let (served_by, second) = (host.must(pid), commit(&host, "v2"));
    server.kill();
    host.must("systemctl restart agentd");
    serves(&host, "v1");
    assert_eq!(host.must(pid), served_by);
    host.must("agentctl restart api");
    server.start(&host);
    server.publish(&second);
    serves(&host, "v2");
    until("the server knows", || server.applied() == 2);
    let events = server.ask(&["events", "--limit", "200"]).to_string();
    assert!(events.contains("run.stopped"), "what happened meanwhile has arrived: {events}");
    for secret in ["hunter2-is-no-password", join] {
        let mut grep = Command::new("grep");
        let found =
            grep.args(["--recursive", "--text", "--files-with-matches", "--", secret]).arg(server.home()).output();
        assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "", "a secret lies in the server's folder");
    }
    host.must("sh /var/tmp/install.sh --uninstall --purge --yes");
    assert!(host.run("test -e /var/lib/agentd").code != 0);
}
