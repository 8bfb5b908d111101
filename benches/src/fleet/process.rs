//! What the kernel says of a process, and how many files this one may open.

use std::fs;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) rss_kib: u64,
    /// With pages that several processes share divided among them.
    pub(crate) pss_kib: u64,
}

pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("find {name} in {path}"))
    };
    Ok(Memory { rss_kib: field("Rss:")?, pss_kib: field("Pss:")? })
}

/// Hundredths of a second in user and kernel mode (USER_HZ is 100 on every machine we build for).
pub(crate) fn ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let (_, rest) = text.rsplit_once(") ").with_context(|| format!("no name in {path}"))?;
    // utime and stime are the 12th and 13th field after the name (proc(5)).
    let times = rest.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().context("a number"));
    times.sum()
}

/// Each held host is a connection here and one in the server, which inherits the limit.
pub(crate) fn allow_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("ask for the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}
