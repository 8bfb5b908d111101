//! Lines that stay, and on a terminal one last line that keeps changing.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a line is said about what takes long, where nothing can be overwritten.
const REPEAT: Duration = Duration::from_secs(15);

/// The changing line must fit: what wraps cannot be overwritten.
const COLUMNS: usize = 78;

#[derive(Debug)]
pub(super) struct Screen {
    started: Instant,
    is_terminal: bool,
    /// The changing line stands there now.
    is_open: bool,
    repeated: Instant,
}

impl Screen {
    pub(super) fn new(started: Instant) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { started, is_terminal, is_open: false, repeated: Instant::now() }
    }

    /// A line that stays, with the seconds since the start.
    pub(super) fn line(&mut self, line: &str) {
        let seconds = self.started.elapsed().as_secs_f32();
        self.write(&format!("{seconds:6.1} s  {line}\n"));
        self.is_open = false;
    }

    /// Plain text that stays.
    pub(super) fn text(&mut self, text: &str) {
        self.write(&format!("{text}\n"));
        self.is_open = false;
    }

    /// What is going on right now; nothing clears it.
    pub(super) fn now(&mut self, line: &str) {
        if line.is_empty() {
            self.repeated = Instant::now();
        }
        if self.is_terminal {
            if self.is_open || !line.is_empty() {
                let line: String = line.chars().take(COLUMNS).collect();
                self.write(&line);
                self.is_open = !line.is_empty();
            }
        } else if self.repeated.elapsed() > REPEAT {
            self.repeated = Instant::now();
            self.line(line);
        }
    }

    fn write(&mut self, text: &str) {
        // Back to the first column, and the rest of the line cleared (ECMA-48 EL).
        let clear = if self.is_open { "\r\x1b[K" } else { "" };
        let mut stderr = std::io::stderr().lock();
        let _ = write!(stderr, "{clear}{text}").and_then(|()| stderr.flush()); // nobody is left to be told
    }
}
