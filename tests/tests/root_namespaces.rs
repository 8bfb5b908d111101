//! The ground the tests behind this door stand on: root may make a private world. Goal: a host's links and mounts are
//! neither seen nor touched from a namespace of ours. Method: a thread, as `unshare` acts on the calling thread alone
//! (unshare(2)), leaves the host's namespaces, looks around and mounts something; the others stay where they are.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Names of the links in the calling thread's network namespace, from procfs: two lines of head, then `name: …`.
fn links() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    table.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect()
}

fn namespace(kind: &str) -> String {
    fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap().display().to_string()
}

fn namespaces() -> [String; 2] {
    ["net", "mnt"].map(namespace)
}

/// Runs `act` on a thread that has left the host's mount and network namespaces, and ends with it.
fn in_private_namespaces<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let body = || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("root may unshare");
        // A new mount namespace still shares propagation with the host's: without this our mounts would show there.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        act()
    };
    std::thread::scope(|scope| scope.spawn(body).join().unwrap())
}

#[test]
fn a_private_network_namespace_has_loopback_and_none_of_the_hosts_links() {
    let outer = in_private_namespaces(|| {
        assert_eq!(links(), ["lo"], "a new network namespace holds loopback alone");
        // A host of its own with a link of its own: whatever machine runs this, there is something not to be seen.
        let added =
            std::process::Command::new("ip").args(["link", "add", "hostlink", "type", "dummy"]).status().unwrap();
        let added = added.success()
            || std::process::Command::new("ip")
                .args(["link", "add", "hostlink", "type", "veth"])
                .status()
                .unwrap()
                .success();
        assert!(added, "no dummy and no veth link could be made");
        let outer = (namespaces(), links());
        assert!(outer.1.contains(&"hostlink".to_owned()), "{:?}", outer.1);
        let inner = in_private_namespaces(|| (namespaces(), links()));
        assert_ne!(inner.0[0], outer.0[0], "the network namespace is another one");
        assert_eq!(inner.1, ["lo"], "the host's links {:?} are out of sight", outer.1);
        assert_eq!((namespaces(), links()), outer, "the host is as before");
        outer
    });
    assert_ne!(outer.0, namespaces(), "this thread never left");
    assert!(!links().contains(&"hostlink".to_owned()), "the machine itself got no link");
}

#[test]
fn a_mount_in_a_private_namespace_is_seen_there_alone() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("marker");
    in_private_namespaces(|| {
        let size = Some("size=64k");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), size).unwrap();
        fs::write(&marker, "inside").unwrap();
        assert!(is_mounted(dir.path()), "the mount is seen inside");
    });
    assert!(!is_mounted(dir.path()), "the mount is not seen outside");
    assert!(!marker.exists(), "nor is what was written to it");
}

/// Fifth field of mountinfo (proc_pid_mountinfo(5)) is the mount point.
fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    table.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| Path::new(point) == dir)
}
