//! A controld in a folder of its own, on a port of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::{free_port, program};

/// Longest wait for a start.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Controld {
    dir: TempDir,
    pub url: String,
    listen: String,
    home: PathBuf,
    arguments: Vec<String>,
    /// `None`: it was killed.
    child: Option<Child>,
}

impl Controld {
    /// Starts one, and waits until its socket is there.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("controld-test").tempdir().unwrap();
        let (listen, home) = (format!("127.0.0.1:{}", free_port()), dir.path().join("home"));
        let mut made = Self { url: format!("http://{listen}"), listen, home, arguments: Vec::new(), child: None, dir };
        made.start_again();
        made
    }

    /// With TLS, by an authority that nobody knows; its certificate.
    pub fn start_with_tls() -> (Self, PathBuf) {
        let mut made = Self::start();
        made.kill();
        let dir = made.dir.path();
        let script = "set -e
            key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
            openssl req -x509 $key -keyout ca.key -out ca.crt -subj /CN=test-authority -days 2
            openssl req $key -keyout tls.key -out tls.csr -subj /CN=control
            echo subjectAltName=IP:127.0.0.1 >names
            openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out tls.crt";
        let ran = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let path = |name: &str| dir.join(name).display().to_string();
        made.url = format!("https://{}", made.listen);
        made.arguments = ["--tls-cert", &path("tls.crt"), "--tls-key", &path("tls.key"), "--public-url", &made.url]
            .map(str::to_owned)
            .to_vec();
        let authority = dir.join("ca.crt");
        made.start_again();
        (made, authority)
    }

    /// Where it was, with what it has.
    pub fn start_again(&mut self) {
        let log = File::options().append(true).create(true).open(self.dir.path().join("log")).unwrap();
        let child = Command::new(program("controld"))
            .args(["serve", "--listen", &self.listen, "--home"])
            .arg(&self.home)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self.child = Some(child);
        let since = Instant::now();
        while std::net::TcpStream::connect(&self.listen).is_err() || !self.home.join("controld.sock").exists() {
            assert!(since.elapsed() < LIMIT, "controld does not answer\n{}", self.log());
            std::thread::park_timeout(POLL);
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
        // What a killed one leaves is not the sign that the next one is there.
        std::fs::remove_file(self.home.join("controld.sock")).unwrap();
    }

    /// The machine is lost, and another one is set up by the backup and the key file.
    pub fn restore(&mut self, backup: &Path) {
        if self.child.is_some() {
            self.kill();
        }
        let key = self.home.join("controld.key");
        let home = self.home.with_extension(format!("restored-{}", free_port()));
        std::fs::create_dir(&home).unwrap();
        std::fs::copy(key, home.join("controld.key")).unwrap();
        self.home = home;
        self.ask(&["restore", backup.to_str().unwrap()]);
        self.start_again();
    }

    pub fn home(&self) -> PathBuf {
        self.home.clone()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The command line's answer in JSON.
    pub fn ask(&self, words: &[&str]) -> Value {
        let mut command = Command::new(program("controld"));
        let output = command.args(words).arg("--json").arg("--home").arg(&self.home).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "controld {words:?}: {said}\n{}", self.log());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A new token of that stack.
    pub fn join_string(&self, stack: &str) -> String {
        self.ask(&["token", "create", stack])["join"].as_str().unwrap().to_owned()
    }

    /// The version as it was published.
    pub fn publish(&self, stack: &str, document: &str) -> Value {
        let file = self.dir.path().join("draft.toml");
        std::fs::write(&file, document).unwrap();
        self.ask(&["stack", "draft", stack, file.to_str().unwrap()]);
        self.ask(&["stack", "publish", stack])
    }
}

impl Drop for Controld {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}
