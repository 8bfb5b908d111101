//! The one writer. A reader that went away (`agentctl explain | head`) ends the output, not the program.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, Stdout, Write};
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Lines to standard output, complaints to standard error.
#[derive(Debug)]
pub(crate) struct Out {
    stdout: BufWriter<Stdout>,
    /// The first failure; nothing is written after it.
    failed: Option<io::Error>,
}

impl Out {
    pub(crate) fn new() -> Self {
        Self { stdout: BufWriter::new(io::stdout()), failed: None }
    }

    pub(crate) fn line(&mut self, text: impl Display) {
        if self.failed.is_none() {
            self.failed = writeln!(self.stdout, "{text}").err();
        }
    }

    /// As it is, without a line's end of ours.
    pub(crate) fn text(&mut self, text: impl Display) {
        if self.failed.is_none() {
            self.failed = write!(self.stdout, "{text}").err();
        }
    }

    /// As it is and at once.
    pub(crate) fn raw(&mut self, text: impl Display) {
        self.text(text);
        self.flush();
    }

    /// Brings what was written to the reader now, for output that goes on. `Break`: nobody reads any more.
    pub(crate) fn sync(&mut self) -> ControlFlow<()> {
        self.flush();
        if self.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// For what went wrong with the command itself. There is nowhere to report a failure to write it.
    pub(crate) fn complain(&mut self, text: impl Display) {
        self.flush();
        writeln!(io::stderr(), "{text}").unwrap_or_default();
    }

    /// Writes out what is left. Fails for a full disk, not for a closed pipe.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        self.flush();
        match self.failed.take() {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the output"),
            _ => Ok(()),
        }
    }

    /// Whether whoever read our output through a pipe has closed it; to be asked while there is nothing to write.
    pub(crate) fn reader_is_gone(&self) -> bool {
        let mut stdout = [PollFd::new(self.stdout.get_ref().as_fd(), PollFlags::empty())];
        let asked = poll(&mut stdout, PollTimeout::ZERO);
        asked.is_ok() && stdout[0].revents().is_some_and(|told| told.contains(PollFlags::POLLERR))
    }

    pub(crate) fn flush(&mut self) {
        if self.failed.is_none() {
            self.failed = self.stdout.flush().err();
        }
    }
}
