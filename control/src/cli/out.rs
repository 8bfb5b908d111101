//! The one writer. A reader that went away ends the output, not the program.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};

use serde::Serialize;

use crate::plain;

#[derive(Debug)]
pub(super) struct Out {
    stdout: BufWriter<Stdout>,
    /// The first failure; nothing is written after it.
    failed: Option<io::Error>,
    json: bool,
}

impl Out {
    pub(super) fn new(json: bool) -> Self {
        Self { stdout: BufWriter::new(io::stdout()), failed: None, json }
    }

    /// As JSON where that was asked for; `true`: it was.
    pub(super) fn json(&mut self, value: &impl Serialize) -> bool {
        if self.json {
            let text = serde_json::to_string_pretty(value).expect("texts and numbers are JSON");
            self.write(&plain::json(&text));
            self.write("\n");
        }
        self.json
    }

    /// Hosts' texts among it are hostile: what a terminal would act on is written out.
    pub(super) fn line(&mut self, text: impl Display) {
        self.write(&plain::line(&text.to_string()));
        self.write("\n");
    }

    /// As it is into a pipe or a file; a terminal gets what is unseen written out.
    pub(super) fn text(&mut self, text: &str) {
        if Self::is_terminal() {
            self.write(&plain::lines(text));
        } else {
            self.write(text);
        }
    }

    fn write(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = self.stdout.write_all(text.as_bytes()).err();
        }
    }

    /// Columns as wide as their widest cell.
    pub(super) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
        let width = |column: usize| {
            let cells = std::iter::once(&head).chain(rows).filter_map(|row| row.get(column));
            cells.map(|cell| plain::line(cell).chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        for row in std::iter::once(&head).chain(rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:<width$}", plain::line(cell)));
            self.line(cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }

    /// For a person at a terminal: what to do next. A pipe gets the answer alone.
    pub(super) fn hint(&mut self, text: impl Display) {
        if io::stdout().is_terminal() && !self.json {
            self.line(text);
        }
    }

    pub(super) fn is_terminal() -> bool {
        io::stdout().is_terminal()
    }

    /// There is nowhere to report a failure to write it.
    pub(super) fn complain(&mut self, text: impl Display) {
        self.stdout.flush().unwrap_or_default();
        writeln!(io::stderr(), "{}", plain::lines(&text.to_string())).unwrap_or_default();
    }

    /// Fails for a full disk, not for a closed pipe.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.failed.is_none() {
            self.failed = self.stdout.flush().err();
        }
        match self.failed.take() {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }
}

/// As people read it, by the machine's own zone.
pub(super) fn time(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let zoned = jiff::Timestamp::from_millisecond(ms).map(|time| time.to_zoned(jiff::tz::TimeZone::system()));
    zoned.map_or_else(|_| "-".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}
