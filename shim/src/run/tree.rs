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
    let entry = format!("{INSTANCE_ENV}={instance}");
    let found = members(&processes(), root, std::process::id(), |pid| carries(pid, entry.as_bytes()));
    let living = found.into_iter().filter(|(pid, stat)| is_alive(*pid, stat));
    living.map(|(pid, stat)| Member { pid, start_ticks: stat.start_ticks, group: stat.group }).collect()
}

fn members(all: &BTreeMap<u32, Stat>, root: Root, own: u32, carries: impl Fn(u32) -> bool) -> BTreeMap<u32, Stat> {
    // While a session has members nobody gets its number as a pid: a stranger with it means that the session is over.
    let taken_over = all.get(&root.pid).is_some_and(|stat| stat.start_ticks != root.start_ticks);
    let in_session = |stat: &Stat| root.pid != 0 && !taken_over && stat.session == root.pid;
    let is_origin = |pid: u32, stat: &Stat| {
        stat.start_ticks >= root.start_ticks
            && ((pid == root.pid && !taken_over) || stat.parent == own || in_session(stat) || carries(pid))
    };
    let mut found = BTreeMap::new();
    for (pid, stat) in all {
        if *pid != own && is_origin(*pid, stat) {
            found.insert(*pid, stat.clone());
        }
    }
    // Descendants of members, generation by generation; each round adds at least one or ends.
    loop {
        let before = found.len();
        for (pid, stat) in all {
            if *pid != own && found.contains_key(&stat.parent) {
                found.entry(*pid).or_insert_with(|| stat.clone());
            }
        }
        if found.len() == before {
            return found;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 10;
    const ROOT: Root = Root { pid: 20, start_ticks: 500 };

    fn found(processes: &[(u32, u32, u32, u64)], carriers: &[u32]) -> Vec<u32> {
        let all = processes.iter().map(|(pid, parent, session, start_ticks)| {
            let stat = Stat {
                state: 'S',
                parent: *parent,
                group: *session,
                session: *session,
                start_ticks: *start_ticks,
                exit_code: 0,
            };
            (*pid, stat)
        });
        members(&all.collect(), ROOT, OWN, |pid| carriers.contains(&pid)).into_keys().collect()
    }

    #[test]
    fn each_trace_alone_is_enough() {
        let strangers = [(1, 0, 1, 1), (9, 1, 9, 2), (OWN, 9, OWN, 400), (11, 9, 11, 600)];
        let tree = [
            (20, OWN, 20, 500), // the program
            (21, 20, 20, 501),  // its child
            (22, 1, 20, 502),   // forked twice, still in its session
            (23, OWN, 23, 503), // forked twice, own session, ours as subreaper
            (24, 9, 24, 504),   // the same after another shim's death: known by its environment
            (25, 24, 25, 505),  // its child, own session, without the environment
        ];
        assert_eq!(found(&[&strangers[..], &tree[..]].concat(), &[24]), [20, 21, 22, 23, 24, 25]);
    }

    #[test]
    fn a_number_given_to_somebody_else_makes_nobody_a_member() {
        let strangers = [(20, 1, 20, 900), (30, 20, 20, 901), (31, 1, 31, 499)];
        assert_eq!(found(&strangers, &[31]), [0; 0], "older than the program, or in a stranger's session");
    }
}
