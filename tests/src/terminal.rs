//! A program on a terminal of its own.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{Winsize, openpty};

const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    seen: Vec<u8>,
}

impl Terminal {
    /// Standard output is a terminal of that size; input and errors are not.
    pub fn run(command: &mut Command, columns: u16, rows: u16) -> Self {
        let (master, slave) = open(columns, rows);
        Self::start(command.stdin(Stdio::null()).stdout(slave), master)
    }

    /// As a person has it: what is typed comes in there, too.
    pub fn converse(command: &mut Command, columns: u16, rows: u16) -> Self {
        let (master, slave) = open(columns, rows);
        Self::start(command.stdin(slave.try_clone().unwrap()).stdout(slave), master)
    }

    fn start(command: &mut Command, master: File) -> Self {
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        // The program's end is the last of the other side: this one would keep it open.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self { child, master, seen: Vec::new() }
    }

    pub fn type_line(&mut self, line: &str) {
        writeln!(self.master, "{line}").unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything shown so far.
    fn read(&mut self) -> String {
        let mut chunk = [0; 4096];
        loop {
            match self.master.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => self.seen.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nothing more yet, or (EIO) nobody holds the other side any more.
                Err(_) => break,
            }
        }
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits until what was shown is as it should be, and forgets it.
    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let seen = self.read();
            if condition(&seen) {
                self.seen.clear();
                return seen;
            }
            assert!(start.elapsed() < LIMIT, "waited {LIMIT:?} until {what}, saw: {seen}");
            std::thread::park_timeout(POLL);
        }
    }

    /// Waits for the end: its code, and what was shown since.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        loop {
            let seen = self.read();
            if let Some(status) = self.child.try_wait().unwrap() {
                // What came between the two looks.
                return (status.code(), self.read());
            }
            assert!(start.elapsed() < LIMIT, "waited {LIMIT:?} for the end, saw: {seen}");
            std::thread::park_timeout(POLL);
        }
    }
}

fn open(columns: u16, rows: u16) -> (File, OwnedFd) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).unwrap();
    fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    (pty.master.into(), pty.slave)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait(); // as above
    }
}
