//! Private names as plain users have them, and on machines whose /etc/hosts is a link or is replaced: on a copy of /etc
//! in a mount namespace of the test.

use std::path::Path;

use agentd_tests::World;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const NOBODY: u32 = 65_534;
const API: &str = "[[service]]\nname = \"api\"\nref = \"main\"\nrun = \"python3 web.py\"\npath = \"/\"\n";

fn stack(world: &World) {
    let repo = world.web_repo("api", "v1");
    world.stack(&format!("{API}repo = \"{}\"\n", repo.url()));
}

fn resolves(world: &World, name: &str) -> bool {
    world.try_get(&format!("/resolve?name={name}")).is_ok_and(|answer| answer.body.contains("127.0.0.1"))
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("pids fit"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_plain_users_services_have_names_and_outlive_shim_and_manager() {
    let mut world = World::new();
    stack(&world);
    world.start_as(NOBODY, &[("PATH", "/usr/local/bin:/usr/bin:/bin")]);
    let status = world.applied();
    let refused = status.limitations.iter().any(|said| said.contains("in /etc/hosts") && said.contains("to cure it:"));
    assert!(refused || (resolves(&world, "api.svc.internal") && resolves(&world, "api")), "{status:#?}");
    let before = status.services[0].instances[0].clone();
    let pid = before.pid.unwrap();
    let facts = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(facts.contains(line), "{facts}");
    }

    kill(before.shim_pid.unwrap());
    world.until("another shim has adopted it", |world| {
        let now = &world.service("api").instances[0];
        now.shim_pid.is_some() && now.shim_pid != before.shim_pid && now.ready
    });
    world.kill_manager();
    world.start_as(NOBODY, &[("PATH", "/usr/local/bin:/usr/bin:/bin")]);
    world.applied();
    assert_eq!(world.service("api").instances[0].pid, Some(pid), "the very process");
    assert!(refused || resolves(&world, "api"));

    assert_eq!(world.ctl(&["restart", "api"]).code, 0);
    let again = world.service("api").instances[0].clone();
    assert_ne!(again.pid, Some(pid));
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the old one was found and ended");
    kill(again.pid.unwrap());
    world.until("it is started again", |world| {
        let now = &world.service("api").instances[0];
        now.ready && now.pid.is_some() && now.pid != again.pid
    });
    // The proxy is told after the status.
    world.serves("/", "v1");
    assert!(refused || resolves(&world, "api"), "a restart by the shim has names too");
    world.down();
}

#[test]
fn a_host_that_refuses_says_so_and_runs_the_services() {
    let mut world = World::new();
    stack(&world);
    let mut command = std::process::Command::new("unshare");
    let script = "echo 0 > /proc/sys/user/max_mnt_namespaces && exec \"$0\" \"$@\"";
    command.args(["--map-root-user", "sh", "-c", script]).arg(agentd_tests::program("agentd"));
    let arguments = ["--run-as", "root"];
    world.start_program(&mut command, &arguments, &[]);
    let status = world.applied();
    let said = status.limitations.iter().find(|said| said.contains("in /etc/hosts"));
    let said = said.unwrap_or_else(|| panic!("{:#?}", status.limitations));
    assert!(said.contains("raise user.max_mnt_namespaces"), "{said}");
    assert_eq!(world.get("/hosts").body, std::fs::read_to_string("/etc/hosts").unwrap());
    world.down();
}

#[test]
fn names_outlive_a_replaced_hosts_file_and_follow_a_link() {
    let mut world = World::new();
    stack(&world);
    let copy = world.dir().join("etc");
    let copied = std::process::Command::new("cp").arg("-a").arg("/etc").arg(&copy).status().unwrap();
    assert!(copied.success());
    let body = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may unshare");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some(&copy), "/etc", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        std::fs::rename("/etc/hosts", "/etc/hosts.linked").unwrap();
        std::os::unix::fs::symlink("/etc/hosts.linked", "/etc/hosts").unwrap();
        world.start();
        world.applied();
        assert!(resolves(&world, "api.svc.internal"), "over what the link leads to");
        assert!(!std::fs::read_to_string("/etc/hosts").unwrap().contains("svc.internal"), "not for the machine");

        // Twice: over the link, then over the file, both the way editors do it.
        for marker in ["first.test", "second.test"] {
            std::fs::write("/etc/hosts.new", format!("127.0.0.1 localhost\n127.0.0.1 {marker}\n")).unwrap();
            std::fs::rename("/etc/hosts.new", "/etc/hosts").unwrap();
            world.until("the machine's new lines are seen beside the names", |world| {
                let seen = world.get("/hosts").body;
                seen.contains(marker) && seen.contains("127.0.0.1 api\n")
            });
        }
        assert!(!std::fs::read_to_string("/etc/hosts").unwrap().contains("svc.internal"), "not for the machine");
        world.down();
    };
    std::thread::scope(|scope| scope.spawn(body).join().unwrap());
}
