//! Started as root: what builds, services and the edge may do.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agentd_protocol::api::{DeployPhase, ServiceStatus};
use agentd_tests::{Repo, World};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

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

const EACH: [&str; 2] = ["--run-as", "each-service"];
/// Ids of services when agentd.toml says nothing.
const IDS: std::ops::RangeInclusive<u32> = 2_100_000_000..=2_100_009_999;

/// With an empty disk at /mnt that nobody else sees: a home below /tmp is out of sight of services with their own /tmp.
fn on_a_disk_of_its_own(body: impl FnOnce(&Path) + Send) {
    assert!(nix::unistd::geteuid().is_root(), "run by `cargo xtask test-root`");
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may unshare");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
        body(Path::new("/mnt"));
    };
    std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
}

fn reach(version: &str) -> String {
    include_str!("../apps/reach.py").replace("VERSION_MARK", version)
}

fn repo(world: &World, name: &str) -> Repo {
    let repo = world.repo(name);
    repo.commit(&[("reach.py", &reach("v1")), ("secret", "of the release")]);
    repo
}

fn entry(name: &str, repo: &Repo, build: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nrepo = \"{}\"\nref = \"main\"\nbuild = \"{build}\"\n\
         run = \"python3 reach.py\"\npath = \"/{name}\"\nenv = {{ SECRET = \"of-{name}\" }}\n",
        repo.url()
    )
}

fn ask(world: &World, service: &str, deed: &str, path: &str) -> serde_json::Value {
    world.get(&format!("/{service}/{deed}?path={path}")).json()
}

/// The service was refused, by the kernel's rights and nothing else.
fn assert_refused(world: &World, service: &str, deed: &str, path: &str) {
    let answer = ask(world, service, deed, path);
    let refused = answer["refused"].as_i64().and_then(|errno| i32::try_from(errno).ok());
    let rights = [nix::libc::EACCES, nix::libc::EPERM];
    assert!(refused.is_some_and(|errno| rights.contains(&errno)), "{service} may {deed} {path}: {answer}");
}

fn assert_may(world: &World, service: &str, deed: &str, path: &str) {
    let answer = ask(world, service, deed, path);
    assert!(answer.get("ok").is_some(), "{service} may not {deed} {path}: {answer}");
}

fn release_dir(world: &World, service: &str) -> PathBuf {
    world.home.join(format!("state/services/{service}/current")).canonicalize().unwrap()
}

fn uid(service: &ServiceStatus) -> u32 {
    let pid = service.instances[0].pid.unwrap();
    proc_status(pid)["Uid"].split_whitespace().next().unwrap().parse().unwrap()
}

fn owner(path: &Path) -> (u32, u32, u32) {
    let facts = path.symlink_metadata().unwrap();
    (facts.uid(), facts.gid(), facts.mode() & 0o7777)
}

#[test]
fn each_service_has_a_user_and_nothing_of_anothers() {
    on_a_disk_of_its_own(|disk| {
        let mut world = World::below(disk, "home");
        let (one, two) = (repo(&world, "one"), repo(&world, "two"));
        let build = "echo built > made; ln -s secret link; chmod 600 secret; echo x > /tmp/of-the-build";
        let stack = entry("one", &one, build) + &entry("two", &two, build);
        world.stack(&stack);
        world.start_with(&EACH, &[]);
        let status = world.applied();
        assert!(
            !status.limitations.iter().any(|said| said.contains("/tmp") || said.contains("one user")),
            "{status:#?}"
        );
        let uids = [uid(&world.service("one")), uid(&world.service("two"))];
        let edge = proc_status(status.edge.pid.unwrap());
        let edge_uid: u32 = edge["Uid"].split_whitespace().next().unwrap().parse().unwrap();
        assert!(
            uids.iter().all(|uid| IDS.contains(uid)) && uids[0] != uids[1] && !uids.contains(&edge_uid),
            "{uids:?}"
        );
        assert_ne!(edge_uid, 0);

        for (own, other) in [("one", "two"), ("two", "one")] {
            let pid = world.service(own).instances[0].pid.unwrap();
            let facts = proc_status(pid);
            assert_eq!(facts["Groups"], uid(&world.service(own)).to_string(), "its own group alone");
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert!(facts[set].chars().all(|digit| digit == '0'), "{set} {facts:?}");
            }
            assert_eq!(facts["NoNewPrivs"], "1");

            let (home, release) = (world.home.display().to_string(), release_dir(&world, other));
            let other_status = world.service(other);
            let instance = &other_status.instances[0];
            let (pid, id) = (instance.pid.unwrap(), &instance.id);
            let foreign = [
                ("list", release.display().to_string()),
                ("read", release.join("secret").display().to_string()),
                ("list", format!("{home}/state/services/{other}/data")),
                ("list", format!("{home}/state/services/{other}/cache")),
                ("read", format!("/proc/{pid}/environ")),
                ("list", format!("/proc/{pid}/cwd/")),
                ("list", format!("{home}/log/{other}")),
                ("list", format!("{home}/run/instances/{id}")),
                ("list", format!("{home}/state/tmp/{id}")),
                ("list", format!("{home}/state/git")),
                ("read", format!("{home}/state/agentd.db")),
                ("read", format!("{home}/run/status.json")),
                // Nor may it change what is its own to run.
                ("write", "reach.py".to_owned()),
                ("write", "new".to_owned()),
                ("change", "reach.py".to_owned()),
                ("change", ".".to_owned()),
                ("write", format!("{home}/state/services/{own}/new")),
            ];
            for (deed, path) in foreign {
                assert_refused(&world, own, deed, &path);
            }
            // The control: the same deeds, where they are to succeed.
            for (deed, path) in [
                ("list", "."),
                ("read", "secret"),
                ("read", "link"),
                ("read", "made"),
                ("read", "/proc/self/environ"),
                ("list", "$DATA_DIR"),
                ("write", "$DATA_DIR/kept"),
                ("write", "$HOME/kept"),
                ("write", "/tmp/mine"),
                ("write", "/var/tmp/mine"),
            ] {
                assert_may(&world, own, deed, path);
            }
            assert_eq!(ask(&world, own, "list", "/tmp")["ok"], serde_json::json!(["mine"]), "nobody else's is seen");
            assert_eq!(ask(&world, own, "list", "/var/tmp")["ok"], serde_json::json!(["mine"]));
            assert!(!Path::new("/tmp/mine").exists() && !Path::new("/tmp/of-the-build").exists(), "nor by the host");
            let id = uid(&world.service(own));
            let release = release_dir(&world, own);
            for (file, mode) in [("", 0o750), ("reach.py", 0o640), ("made", 0o640), ("secret", 0o640)] {
                assert_eq!(owner(&release.join(file)), (0, id, mode), "{file}");
            }
            assert_eq!(owner(&world.home.join(format!("state/services/{own}/data"))), (id, id, 0o700));
        }
        world.down();
        let left: Vec<_> = std::fs::read_dir(world.home.join("state/tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn a_service_keeps_its_user_through_restart_redeploy_rollback_and_a_new_manager() {
    on_a_disk_of_its_own(|disk| {
        let mut world = World::below(disk, "home");
        let one = repo(&world, "one");
        world.stack(&entry("one", &one, "true"));
        world.start_with(&EACH, &[]);
        world.applied();
        let id = uid(&world.service("one"));
        assert_may(&world, "one", "write", "$DATA_DIR/kept");

        assert_eq!(world.ctl(&["restart", "one"]).code, 0);
        one.commit(&[("reach.py", &reach("v2"))]);
        world.serves("/one", "v2");
        assert_eq!(uid(&world.service("one")), id);
        assert_eq!(ask(&world, "one", "read", "$DATA_DIR/kept")["ok"], "one");
        let ran = world.ctl(&["rollback", "one"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        world.serves("/one", "v1");
        assert_eq!(uid(&world.service("one")), id);

        world.kill_manager();
        // Another comes, the first leaves and comes back: ids are not given anew by order of arrival.
        let two = repo(&world, "two");
        world.stack(&entry("two", &two, "true"));
        world.start_with(&EACH, &[]);
        world.serves("/two", "v1");
        world.stack(&(entry("one", &one, "true") + &entry("two", &two, "true")));
        world.serves("/one", "v2");
        assert_eq!(uid(&world.service("one")), id);
        assert_ne!(uid(&world.service("two")), id);
        assert_eq!(ask(&world, "one", "read", "$DATA_DIR/kept")["ok"], "one");
        world.down();
    });
}

#[test]
fn a_site_is_served_by_a_user_of_its_own() {
    on_a_disk_of_its_own(|disk| {
        let mut world = World::below(disk, "home");
        let site = world.repo("site");
        site.commit(&[("page", "made of <VERSION>\n")]);
        world.stack(&format!(
            "[[service]]\nname = \"site\"\nrepo = \"{}\"\nref = \"main\"\nkind = \"static\"\nroot = \"dist\"\n\
             build = \"umask 077; mkdir dist; sed s/.VERSION./v1/ page > dist/index.html\"\npath = \"/\"\n",
            site.url()
        ));
        world.start_with(&EACH, &[]);
        world.applied();
        assert_eq!(world.get("/").body, "made of v1\n", "whatever mode the build gave it");
        let id = uid(&world.service("site"));
        assert!(IDS.contains(&id));
        assert_eq!(owner(&release_dir(&world, "site").join("dist/index.html")), (0, id, 0o640));
        world.down();
    });
}

#[test]
fn a_hostile_build_changes_nothing_of_others() {
    on_a_disk_of_its_own(|disk| {
        let mut world = World::below(disk, "home");
        let shadow = world.dir().join("shadow");
        std::fs::write(&shadow, "secret").unwrap();
        std::fs::set_permissions(&shadow, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        // A hard link to what a build cannot read: the kernel refuses it where protected_hardlinks is on, so a file that
        // it may write stands for those where it is off.
        let open = world.dir().join("open");
        std::fs::write(&open, "theirs").unwrap();
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let (linked, hard) = (repo(&world, "linked"), repo(&world, "hard"));
        let links = format!(
            "ln -s {0} shadow; ln -s {0} a; ln -s ../../.. up; mkdir d; ln -s / d/root; ln {0} stolen || true; mkfifo f; \
             echo x > $HOME/shared; ln $HOME/shared shared",
            shadow.display()
        );
        let stack = entry("linked", &linked, &links) + &entry("hard", &hard, &format!("ln {} got", open.display()));
        world.stack(&stack);
        world.start_with(&EACH, &[]);
        world.serves("/linked", "v1");
        let problem = |world: &World| {
            let problems = world.status().stack.problems;
            problems.into_iter().find(|problem| problem.service.as_ref().is_some_and(|name| name.as_str() == "hard"))
        };
        world.until("the other build is refused", |world| {
            problem(world).is_some_and(|problem| problem.phase == DeployPhase::Build)
        });
        let cause = problem(&world).unwrap().cause;
        assert!(cause.contains("belongs to another user") && cause.contains("got"), "{cause}");
        assert_eq!(owner(&shadow), (0, 0, 0o600));
        assert_eq!(owner(&open), (0, 0, 0o666));
        let service_dir = world.home.join("state/services/linked");
        assert_eq!((owner(&service_dir).0, owner(&service_dir).2), (0, 0o711));
        let id = uid(&world.service("linked"));
        assert_eq!(owner(&service_dir.join("cache/shared")).0, id, "the cache keeps its file");
        assert_eq!(owner(&release_dir(&world, "linked").join("shared")), (0, id, 0o640), "the release has a copy");
        assert_refused(&world, "linked", "read", "shadow");
        world.down();
    });
}

#[test]
fn a_home_of_one_user_becomes_one_of_many_and_goes_back() {
    on_a_disk_of_its_own(|disk| {
        let mut world = World::below(disk, "home");
        let one = repo(&world, "one");
        world.stack(&entry("one", &one, "true"));
        world.start();
        world.applied();
        assert_eq!(uid(&world.service("one")).to_string(), NOBODY);
        assert_may(&world, "one", "write", "$DATA_DIR/kept");
        world.down();

        world.start_with(&EACH, &[]);
        world.serves("/one", "v1");
        let id = uid(&world.service("one"));
        assert!(IDS.contains(&id));
        assert_may(&world, "one", "write", "$DATA_DIR/kept");
        assert_refused(&world, "one", "write", "reach.py");
        world.down();

        world.start();
        world.serves("/one", "v1");
        assert_eq!(uid(&world.service("one")).to_string(), NOBODY);
        assert_may(&world, "one", "write", "$DATA_DIR/kept");
        world.down();
    });
}

#[test]
fn ids_of_others_are_refused_and_a_home_below_tmp_says_what_it_costs() {
    let mut world = World::new();
    std::fs::create_dir_all(&world.home).unwrap();
    let ports = format!("[ports]\ninternal = {}\ndns = {}\n", world.internal_port, world.dns_port);
    std::fs::write(world.home.join("agentd.toml"), format!("{ports}[users]\nids = [1000, 1999]\n")).unwrap();
    world.stack("");
    let refused = world.run_to_end(&EACH);
    assert_eq!(refused.code, 8, "{refused:?}");
    assert!(refused.stderr.contains("user ids 1000 to 1999") && refused.stderr.contains("people"), "{refused:?}");

    std::fs::write(world.home.join("agentd.toml"), ports).unwrap();
    world.start_with(&EACH, &[]);
    let said = world.status().limitations;
    assert!(said.iter().any(|said| said.contains("share /tmp") && said.contains("home lies below")), "{said:?}");
    world.down();
}
