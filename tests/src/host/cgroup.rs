//! A cgroup of its own for each boot: the root of what systemd sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Boots of this process so far: a cgroup is never used twice.
static BOOTS: AtomicU32 = AtomicU32::new(0);

#[derive(Debug)]
pub(super) struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    pub(super) fn create() -> Self {
        let name = format!("agentd-test-{}-{}", std::process::id(), BOOTS.fetch_add(1, Ordering::Relaxed));
        let dir = unified().join(name);
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        Self { dir }
    }

    /// A process that writes its pid here moves in.
    pub(super) fn processes_file(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// Where the unified hierarchy is mounted: /sys/fs/cgroup, or below it on a machine that has both.
fn unified() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("procfs is there");
    let cgroup2 = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("the kernel has cgroup v2 mounted");
    PathBuf::from(cgroup2.split(' ').nth(4).expect("mountinfo has a mount point in its fifth field"))
}

/// Children first. What cannot be removed has processes still; the next run of the machine's own cleaner finds it.
fn remove(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for child in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&child.path());
    }
    let _ = fs::remove_dir(dir); // see above
}
