//! What procfs says of a process.

use std::fs;

use anyhow::{Context, Result};

/// Resident memory, KiB: whole pages, and with pages shared by several processes divided among them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub(super) rss_kib: u64,
    pub(super) pss_kib: u64,
}

pub(super) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path} (root may)"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("find {name} in {path}"))
    };
    Ok(Memory { rss_kib: field("Rss:")?, pss_kib: field("Pss:")? })
}

/// Clock ticks it has used, in user and kernel mode together.
pub(super) fn ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    ticks_in(&text).with_context(|| format!("find utime and stime in {path}"))
}

/// The name in parentheses may hold anything; utime and stime are the 12th and 13th field after it (proc(5)).
fn ticks_in(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut times = rest.split(' ').skip(11).map(|field| field.parse::<u64>().ok());
    Some(times.next()?? + times.next()??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_blanks_and_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(ticks_in(stat), Some(300));
        assert!(memory(std::process::id()).unwrap().rss_kib > 0);
    }
}
