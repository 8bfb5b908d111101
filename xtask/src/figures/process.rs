//! What procfs says of a process.

use std::fs;

use anyhow::{Context, Result};

/// A clock tick as the kernel shows it on every machine we build for (USER_HZ is 100), ns.
pub(super) const TICK_NS: u64 = 10_000_000;

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

/// Clock ticks used in user and kernel mode together, by it and by the children it has waited for.
pub(super) fn ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    ticks_in(&text).with_context(|| format!("find utime and stime in {path}"))
}

/// The name in parentheses may hold anything; utime, stime, cutime and cstime are the 12th to 15th field after it
/// (proc(5)).
fn ticks_in(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let times: Vec<u64> = rest.split(' ').skip(11).take(4).map(|field| field.parse().ok()).collect::<Option<_>>()?;
    (times.len() == 4).then(|| times.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_blanks_and_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 4 6 20 0";
        assert_eq!(ticks_in(stat), Some(310));
        assert_eq!(ticks_in("7 (a) S 1"), None);
        assert!(memory(std::process::id()).unwrap().rss_kib > 0);
    }
}
