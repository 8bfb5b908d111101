//! CPU and memory of instances, and of the host. Looked at when somebody asks, never by a timer: one look reads all of
//! /proc. A process counts for the instance whose program or shim it descends from, so workers and what forked twice
//! are in it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentd_protocol::api::Host;
use agentd_protocol::ids::InstanceId;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::time::{Instant, sleep};

use super::room::Views;
use crate::lifecycle;

/// Who asks again this soon is told the same, unless something has started meanwhile.
const FRESH: Duration = Duration::from_secs(1);
/// A look this old is no longer what "now" is compared with.
const BASELINE_MAX: Duration = Duration::from_secs(10);
/// Between two looks where there is none to compare with: the kernel counts in steps of 10 ms.
const GAP: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Without those none of whose processes was seen.
    pub instances: BTreeMap<InstanceId, Used>,
    pub host: Option<Host>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Thousandths of one CPU.
    pub cpu_millicores: u32,
    /// Resident set sizes added up: cheap, and without a lock on the programs' memory as PSS would take.
    pub memory_bytes: u64,
}

/// The last look.
#[derive(Debug, Default)]
pub(super) struct Sampler(Mutex<Option<Arc<Look>>>);

#[derive(Debug)]
struct Look {
    at: Instant,
    processes: Processes,
    usage: Usage,
}

type Processes = HashMap<u32, Process>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// Unix time, s: tells a pid from its successor.
    started_s: u64,
    cpu_ms: u64,
    memory_bytes: u64,
}

/// What an instance's processes descend from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Roots {
    program: Option<u32>,
    /// Its descendants count, it does not.
    shim: Option<u32>,
}

impl Sampler {
    /// Takes 200 ms where nobody asked within the last ten seconds. `home` names the disk.
    pub(super) async fn usage(&self, views: Views, home: PathBuf) -> Usage {
        let last = self.0.lock().expect("no holder panics").clone();
        let knows_all = |last: &Look| {
            views.values().all(|view| view.pid().is_none() || last.usage.instances.contains_key(&view.id))
        };
        let is_fresh = |last: &Look| last.at.elapsed() < if knows_all(last) { FRESH } else { GAP };
        if let Some(last) = last.as_ref().filter(|last| is_fresh(last)) {
            return last.usage.clone();
        }
        let before = match last.filter(|last| (GAP..=BASELINE_MAX).contains(&last.at.elapsed())) {
            Some(last) => (last.at, last.processes.clone()),
            None => {
                let first = (Instant::now(), processes().await);
                sleep(GAP).await;
                first
            }
        };
        let at = Instant::now();
        let after = processes().await;
        let host = lifecycle::spawn_blocking("look at the host", move || host(&home));
        let elapsed = at.duration_since(before.0);
        let instances = views.values().map(|view| {
            let roots = Roots { program: view.pid(), shim: view.shim_pid };
            (view.id.clone(), roots)
        });
        let usage = Usage {
            instances: used(&instances.collect(), &before.1, &after, elapsed),
            host: host.await.expect("reading what the kernel tells does not panic"),
        };
        let look = Look { at, processes: after, usage: usage.clone() };
        *self.0.lock().expect("no holder panics") = Some(Arc::new(look));
        usage
    }
}

async fn processes() -> Processes {
    let looked = lifecycle::spawn_blocking("look at processes", || {
        // Where the kernel tells nothing there is nothing to say.
        let Ok(mut system) = System::new() else { return Processes::new() };
        let kind = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
        let row = |process: &sysinfo::Process| Process {
            parent: process.parent().map_or(0, sysinfo::Pid::as_u32),
            started_s: process.start_time(),
            cpu_ms: process.accumulated_cpu_time(),
            memory_bytes: process.memory(),
        };
        system.processes().iter().map(|(pid, process)| (pid.as_u32(), row(process))).collect()
    });
    looked.await.expect("reading what the kernel tells does not panic")
}

fn host(home: &Path) -> Option<Host> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    let load = System::load_average().ok()?;
    let disk = nix::sys::statvfs::statvfs(home).ok();
    let blocks = |count: u64, size: u64| count.saturating_mul(size);
    Some(Host {
        cpus: std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX)),
        load_1m_milli: milli(load.one),
        load_5m_milli: milli(load.five),
        load_15m_milli: milli(load.fifteen),
        memory_total_bytes: system.total_memory(),
        memory_available_bytes: system.available_memory(),
        disk_total_bytes: disk.map(|disk| blocks(disk.blocks(), disk.fragment_size())),
        disk_free_bytes: disk.map(|disk| blocks(disk.blocks_available(), disk.fragment_size())),
    })
}

/// Through text, since floats have no checked way to integers; a load has two digits behind the point.
fn milli(load: f64) -> u64 {
    format!("{:.0}", load * 1_000.0).parse().unwrap_or(0)
}

fn used(
    instances: &BTreeMap<InstanceId, Roots>,
    before: &Processes,
    after: &Processes,
    elapsed: Duration,
) -> BTreeMap<InstanceId, Used> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, process) in after {
        children.entry(process.parent).or_default().push(*pid);
    }
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let one = |roots: &Roots| {
        let mut total = Used::default();
        let mut cpu_ms = 0;
        let mut seen = false;
        for pid in tree(*roots, &children) {
            let Some(now) = after.get(&pid) else { continue };
            seen = true;
            // A process that was not there before has used all of it since.
            let was = before.get(&pid).filter(|was| was.started_s == now.started_s).map_or(0, |was| was.cpu_ms);
            cpu_ms += now.cpu_ms.saturating_sub(was);
            total.memory_bytes += now.memory_bytes;
        }
        total.cpu_millicores = u32::try_from(cpu_ms.saturating_mul(1_000) / elapsed_ms).unwrap_or(u32::MAX);
        seen.then_some(total)
    };
    instances.iter().filter_map(|(id, roots)| Some((id.clone(), one(roots)?))).collect()
}

/// Every process of an instance once.
fn tree(roots: Roots, children: &HashMap<u32, Vec<u32>>) -> HashSet<u32> {
    let below = |pid: u32| children.get(&pid).into_iter().flatten().copied();
    let mut open: Vec<u32> = roots.program.into_iter().chain(roots.shim.into_iter().flat_map(below)).collect();
    let mut found = HashSet::new();
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(below(pid));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(parent: u32, cpu_ms: u64) -> Process {
        Process { parent, started_s: 1, cpu_ms, memory_bytes: 10 }
    }

    fn one(roots: Roots, before: &[(u32, Process)], after: &[(u32, Process)]) -> Option<Used> {
        let id = InstanceId::new("abcdef012345").unwrap();
        let instances = BTreeMap::from([(id.clone(), roots)]);
        let (before, after) = (before.iter().copied().collect(), after.iter().copied().collect());
        used(&instances, &before, &after, Duration::from_millis(500)).get(&id).copied()
    }

    #[test]
    fn a_whole_tree_counts_and_nothing_beside_it() {
        // 5 is the shim, 9 its program, 11 a worker of it, 12 forked twice and came to the shim; 7 is a stranger.
        let before = [(5, process(1, 90)), (9, process(5, 100)), (11, process(9, 0)), (7, process(1, 0))];
        let after = [
            (5, process(1, 900)),
            (9, process(5, 200)),
            (11, process(9, 50)),
            (12, process(5, 100)),
            (7, process(1, 400)),
        ];
        let used = one(Roots { program: Some(9), shim: Some(5) }, &before, &after);
        assert_eq!(used, Some(Used { cpu_millicores: 500, memory_bytes: 30 }), "250 ms of 500 ms");
    }

    #[test]
    fn a_program_whose_shim_died_still_counts() {
        let used = one(Roots { program: Some(9), shim: Some(6) }, &[(9, process(2, 0))], &[(9, process(2, 500))]);
        assert_eq!(used, Some(Used { cpu_millicores: 1_000, memory_bytes: 10 }));
        assert_eq!(one(Roots { program: None, shim: None }, &[], &[(9, process(2, 500))]), None);
    }

    #[test]
    fn a_pid_used_again_starts_at_nothing() {
        let old = Process { started_s: 0, ..process(5, 10_000) };
        let used = one(Roots { program: Some(9), shim: None }, &[(9, old)], &[(9, process(5, 250))]);
        assert_eq!(used.unwrap().cpu_millicores, 500);
    }

    #[tokio::test]
    async fn this_very_process_is_seen_with_its_memory() {
        let seen = processes().await;
        let own = seen[&std::process::id()];
        assert!(own.memory_bytes > 1024 * 1024, "{own:?}");
        let host = host(Path::new("/")).unwrap();
        assert!(host.cpus > 0 && host.memory_total_bytes > host.memory_available_bytes, "{host:?}");
        assert!(host.disk_total_bytes >= host.disk_free_bytes && host.disk_total_bytes > Some(0), "{host:?}");
        assert_eq!((milli(0.0), milli(1.25)), (0, 1_250));
    }
}
