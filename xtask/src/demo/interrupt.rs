//! Ctrl-C, and what else asks a program to end, as messages.

use std::sync::mpsc::{Receiver, channel};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

/// From here on these signals end nothing: they arrive in the queue. To be called before any other thread is started,
/// which would not have them blocked. Programs we start have them blocked too, and undo that (ours) or are not sent any.
pub(super) fn queue() -> Result<Receiver<Signal>> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("block signals")?;
    let (sender, receiver) = channel();
    let wait = move || {
        while let Ok(signal) = signals.wait() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).context("start a thread")?;
    Ok(receiver)
}
