//! Every process that belongs to an instance, wherever it hides, and the end of all of them.
//!
//! Found by four traces, for each alone can be shaken off: descent from the program or from us (we are the subreaper),
//! the program's session, and INSTANCE_ENV in the environment, which survives setsid, double forks and our own death.

use std::collections::BTreeMap;
use std::io;

use agentd_protocol::shim::INSTANCE_ENV;
use agentd_sys::process::{self, PidFd, Stat};

/// What is known of the program whose tree is looked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Root {
    /// The program's pid, which is also its session and its process group; 0 when it is not known.
    pub(crate) pid: u32,
    /// Its start: nothing of its tree is older. 0 when it is not known.
    pub(crate) start_ticks: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) group: u32,
}

/// Every living member; dead ones that wait to be reaped hold nothing and do not count.
pub(crate) fn survey(root: Root, instance: &str) -> Vec<Member> {
    let all = processes();
    let own = std::process::id();
    let entry = format!("{INSTANCE_ENV}={instance}");
    let is_origin = |pid: u32, stat: &Stat| {
        pid == root.pid
            || stat.parent == own
            || (root.pid != 0 && stat.session == root.pid)
            || (stat.start_ticks >= root.start_ticks && carries(pid, entry.as_bytes()))
    };
    let mut found: BTreeMap<u32, Stat> = BTreeMap::new();
    for (pid, stat) in &all {
        if *pid != own && stat.start_ticks >= root.start_ticks && is_origin(*pid, stat) {
            found.insert(*pid, stat.clone());
        }
    }
    // Descendants of members, generation by generation; each round adds at least one or ends.
    loop {
        let before = found.len();
        for (pid, stat) in &all {
            if *pid != own && found.contains_key(&stat.parent) {
                found.entry(*pid).or_insert_with(|| stat.clone());
            }
        }
        if found.len() == before {
            break;
        }
    }
    let living = found.into_iter().filter(|(pid, stat)| is_alive(*pid, stat));
    living.map(|(pid, stat)| Member { pid, start_ticks: stat.start_ticks, group: stat.group }).collect()
}

/// Sends to one member, if it is still the same process.
pub(crate) fn signal(member: Member, number: i32) -> io::Result<()> {
    let pidfd = match PidFd::open(member.pid) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        opened => opened?,
    };
    if process::stat(member.pid).is_none_or(|stat| stat.start_ticks != member.start_ticks) {
        return Ok(());
    }
    match pidfd.signal(number) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        sent => sent,
    }
}

fn processes() -> BTreeMap<u32, Stat> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, process::stat(pid)?))).collect()
}

/// Whether the environment a process was started with has this entry. One we may not read is not of our user's tree.
fn carries(pid: u32, entry: &[u8]) -> bool {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|found| found == entry)
}

/// A thread group whose first thread has ended is shown as a zombie while others run on.
fn is_alive(pid: u32, stat: &Stat) -> bool {
    match stat.state {
        'Z' | 'X' => std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() > 1),
        _ => true,
    }
}
