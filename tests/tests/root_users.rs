//! Started as root: what builds, services and the edge may do.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use agentd_tests::World;

/// The uid of `nobody`, whom services run as until they have users of their own.
const NOBODY: &str = "65534";

fn proc_status(pid: u32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn services_builds_and_edge_have_no_privilege() {
    assert!(nix::unistd::geteuid().is_root(), "run by `cargo xtask test-root`");
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&format!(
        "[[service]]\nname = \"api\"\nrepo = \"{}\"\nref = \"main\"\nbuild = \"id -u > built-by\"\n\
         run = \"python3 web.py\"\npath = \"/\"\n",
        repo.url()
    ));
    world.start();
    let status = world.applied();
    let service = status.services[0].instances[0].pid.unwrap();
    for pid in [service, status.edge.pid.unwrap()] {
        let facts = proc_status(pid);
        for ids in ["Uid", "Gid"] {
            assert!(facts[ids].split_whitespace().all(|id| id == NOBODY), "{ids} {facts:?}");
        }
        assert_eq!(facts["Groups"], NOBODY, "its own group alone");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(facts[set].chars().all(|digit| digit == '0'), "{set} {facts:?}");
        }
        assert_eq!(facts["NoNewPrivs"], "1");
    }
    let release = world.home.join("state/services/api/current");
    assert_eq!(std::fs::read_to_string(release.join("built-by")).unwrap().trim(), NOBODY);
    let data = std::fs::metadata(world.home.join("state/services/api/data")).unwrap();
    assert_eq!((data.uid().to_string().as_str(), data.mode() & 0o777), (NOBODY, 0o700));
    for private in ["state/agentd.db", "run/agentd.sock"] {
        let facts = std::fs::metadata(world.home.join(private)).unwrap();
        assert_eq!((facts.uid(), facts.mode() & 0o077), (0, 0), "{private}");
    }
    world.down();
}

#[test]
fn a_home_the_services_cannot_reach_is_refused_at_start() {
    let world = World::at("closed/home");
    let closed = world.dir().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    world.stack("");
    let refused = world.run_to_end(&[]);
    assert_eq!(refused.code, 8, "{refused:?}");
    assert!(refused.stderr.contains("user `nobody` cannot enter"), "{refused:?}");
}
