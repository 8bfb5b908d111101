//! A controld in a folder of its own, on a port of its own.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{free_port, program};

/// Longest wait for a start.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Controld {
    dir: TempDir,
    pub url: String,
    child: Child,
}

impl Controld {
    /// Starts one, and waits until its socket is there.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("controld-test").tempdir().unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new(program("controld"))
            .args(["serve", "--listen", &listen, "--home"])
            .arg(dir.path().join("home"))
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        let started = Self { dir, url: format!("http://{listen}"), child };
        let since = Instant::now();
        while std::net::TcpStream::connect(&listen).is_err() || !started.home().join("controld.sock").exists() {
            assert!(since.elapsed() < LIMIT, "controld does not answer\n{}", started.log());
            std::thread::park_timeout(POLL);
        }
        started
    }

    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Controld {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}
