//! Requests without a pause, over kept and over fresh connections, GET and POST, until told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, bail};

use crate::http::{self, Answer, Kept};

/// Body of every POST: larger than a packet, so that it is sent while the answer's fate is open.
const BODY: [u8; 4096] = [b'x'; 4096];

#[derive(Debug)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Count>>,
}

#[derive(Debug)]
pub(super) struct Count {
    pub(super) what: String,
    pub(super) asked: u64,
    pub(super) failed: u64,
    pub(super) first_failure: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connections {
    Kept,
    Fresh,
}

impl Load {
    pub(super) fn start(port: u16, path: &'static str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (method, body) in [("GET", &b""[..]), ("POST", &BODY[..])] {
            for connections in [Connections::Kept, Connections::Fresh] {
                let stop = stop.clone();
                let named = thread::Builder::new().name(format!("{method} {connections:?}"));
                let asking = named.spawn(move || ask_until(&stop, port, path, method, body, connections));
                threads.push(asking.context("start a thread of the load")?);
            }
        }
        Ok(Self { stop, threads })
    }

    pub(super) fn stop(self) -> Result<Vec<Count>> {
        self.stop.store(true, Ordering::SeqCst);
        let counts = self.threads.into_iter().map(|thread| thread.join());
        counts.map(|count| count.map_err(|_| anyhow!("a thread of the load panicked"))).collect()
    }
}

fn ask_until(stop: &AtomicBool, port: u16, path: &str, method: &str, body: &[u8], connections: Connections) -> Count {
    let what = format!("{method}, {} connections", format!("{connections:?}").to_lowercase());
    let mut count = Count { what, asked: 0, failed: 0, first_failure: None };
    let mut kept = Kept::new(port);
    while !stop.load(Ordering::SeqCst) {
        let answer = match connections {
            Connections::Kept => kept.ask(method, path, body),
            Connections::Fresh => http::ask(port, method, path, body),
        };
        count.asked += 1;
        if let Err(error) = answer.and_then(good) {
            count.failed += 1;
            count.first_failure.get_or_insert(format!("{error:#}"));
        }
    }
    count
}

fn good(answer: Answer) -> Result<()> {
    if answer.status != 200 {
        bail!("status {}: {}", answer.status, answer.body.trim());
    }
    Ok(())
}
