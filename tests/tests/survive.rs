//! kill -9 of every process, alone, in pairs and all at once: what must survive survives.

use agentd_tests::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SERVICE: &str = "[[service]]\nname = \"api\"\nref = \"main\"\nrun = \"python3 web.py\"\npath = \"/\"\n\
                       health = { path = \"/healthz\", interval = \"1s\" }\n";

fn started() -> World {
    started_with(&[])
}

fn started_with(env: &[(&str, &str)]) -> World {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&(SERVICE.to_owned() + &format!("repo = \"{}\"\n", repo.url())));
    world.start_with(&[], env);
    world.applied();
    world
}

fn slay(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Pids {
    keeper: u32,
    shim: u32,
    program: u32,
    edge: u32,
}

fn pids(world: &World) -> Option<Pids> {
    let status = world.try_status().ok()?;
    let instance = status.services.first()?.instances.first()?.clone();
    Some(Pids {
        keeper: status.agent.keeper_pid?,
        shim: instance.shim_pid?,
        program: instance.pid?,
        edge: status.edge.pid?,
    })
}

/// Waits until everything runs and is routed.
fn whole(world: &World) -> Pids {
    world.until("everything runs again", |world| pids(world).is_some() && world.service("api").ready == 1);
    world.serves("/", "v1");
    pids(world).unwrap()
}

#[test]
fn manager() {
    let mut world = started();
    let before = whole(&world);
    world.kill_manager();
    assert_eq!(world.get("/").status, 200, "requests are served without a manager");
    world.start();
    assert_eq!(whole(&world), before, "all pids are unchanged");
    world.down();
}

#[test]
fn a_manager_that_is_asked_to_end_leaves_everything_running() {
    let mut world = started();
    let before = whole(&world);
    world.end_manager();
    assert_eq!(world.get("/").status, 200);
    world.start();
    assert_eq!(whole(&world), before);
    world.down();
}

#[test]
fn instance() {
    let mut world = started();
    let before = whole(&world);
    slay(before.program);
    world.until("a new program runs", |world| pids(world).is_some_and(|now| now.program != before.program));
    let after = whole(&world);
    assert_eq!((after.shim, after.keeper, after.edge), (before.shim, before.keeper, before.edge));
    let api = world.service("api");
    assert_eq!(api.restarts, 1);
    assert_eq!(api.instances[0].last_exit.as_deref(), Some("killed by SIGKILL"));
    world.down();
}

#[test]
fn instance_while_no_manager_runs() {
    let mut world = started();
    let before = whole(&world);
    world.kill_manager();
    slay(before.program);
    world.serves("/", "v1");
    world.start();
    let after = whole(&world);
    assert_ne!(after.program, before.program);
    assert_eq!(world.service("api").restarts, 1, "the restart was counted while the manager was away");
    world.down();
}

#[test]
fn shim() {
    let mut world = started();
    let before = whole(&world);
    slay(before.shim);
    world.until("a new shim has adopted", |world| pids(world).is_some_and(|now| now.shim != before.shim));
    let after = whole(&world);
    assert_eq!(after.program, before.program, "the program lived on");
    slay(after.program);
    world
        .until("the adopted program is restarted", |world| pids(world).is_some_and(|now| now.program != after.program));
    assert_eq!(world.service("api").instances[0].last_exit.as_deref(), Some("killed by SIGKILL"));
    world.down();
}

#[test]
fn keeper() {
    let mut world = started();
    let before = whole(&world);
    slay(before.keeper);
    world.until("a new keeper runs", |world| pids(world).is_some_and(|now| now.keeper != before.keeper));
    let after = whole(&world);
    assert_eq!((after.program, after.shim, after.edge), (before.program, before.shim, before.edge));
    slay(after.shim);
    world.until("the new keeper starts shims", |world| pids(world).is_some_and(|now| now.shim != after.shim));
    assert_eq!(whole(&world).program, before.program);
    world.down();
}

#[test]
fn edge() {
    let mut world = started();
    let before = whole(&world);
    slay(before.edge);
    // The listening socket lives on in shim and keeper: a connection waits, it is not refused.
    assert_eq!(world.get("/").status, 200);
    world.until("a new edge runs", |world| pids(world).is_some_and(|now| now.edge != before.edge));
    let after = whole(&world);
    assert_eq!((after.program, after.shim, after.keeper), (before.program, before.shim, before.keeper));
    world.down();
}

#[test]
fn edge_while_no_manager_runs() {
    let mut world = started();
    let before = whole(&world);
    world.kill_manager();
    slay(before.edge);
    assert_eq!(world.get("/").json()["version"], "v1", "the edge starts from its snapshot on disk");
    world.start();
    whole(&world);
    world.down();
}

/// One of the pids.
type Pick = fn(&Pids) -> u32;

/// Pairs. What the program's pid must be afterwards: unchanged unless the program itself was killed.
#[test]
fn every_pair() {
    let mut world = started();
    let pick: [(&str, Pick); 4] = [
        ("keeper", |pids| pids.keeper),
        ("shim", |pids| pids.shim),
        ("program", |pids| pids.program),
        ("edge", |pids| pids.edge),
    ];
    for (at, (first_name, first)) in pick.iter().enumerate() {
        for (second_name, second) in &pick[at + 1..] {
            let before = whole(&world);
            slay(first(&before));
            slay(second(&before));
            world.until(&format!("{first_name} and {second_name} are back"), |world| {
                pids(world).is_some_and(|now| first(&now) != first(&before) && second(&now) != second(&before))
            });
            let after = whole(&world);
            if ![*first_name, *second_name].contains(&"program") {
                assert_eq!(after.program, before.program, "{first_name} and {second_name}");
            }
        }
        // And each with the manager.
        let before = whole(&world);
        world.kill_manager();
        slay(first(&before));
        world.start();
        world.until(&format!("manager and {first_name} are back"), |world| {
            pids(world).is_some_and(|now| first(&now) != first(&before))
        });
        whole(&world);
    }
    world.down();
}

#[test]
fn everything_at_once_without_a_network() {
    let mut world = started();
    whole(&world);
    world.kill_manager();
    for pid in world.processes() {
        slay(pid);
    }
    world.until("nothing is left", |world| world.processes().is_empty());
    // No network: the repository cannot be reached any more.
    std::fs::rename(world.dir().join("repos"), world.dir().join("away")).unwrap();
    world.start();
    world.serves("/", "v1");
    world.down();
}

#[test]
fn kernels_without_exit_status_by_pidfd() {
    let mut world = started_with(&[("AGENTD_NO_PIDFD_INFO", "1")]);
    let before = whole(&world);
    slay(before.shim);
    world.until("a new shim has adopted", |world| pids(world).is_some_and(|now| now.shim != before.shim));
    let after = whole(&world);
    assert_eq!(after.program, before.program);
    slay(after.program);
    world
        .until("the adopted program is restarted", |world| pids(world).is_some_and(|now| now.program != after.program));
    assert_eq!(world.service("api").instances[0].last_exit.as_deref(), Some("killed by SIGKILL"));
    world.down();
}

#[test]
fn stop_start_and_restart() {
    let mut world = started();
    let before = whole(&world);
    let stopped = world.ctl(&["stop", "api"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert_eq!(world.get("/").status, 503);
    assert!(world.service("api").instances.is_empty());
    let started = world.ctl(&["start", "api"]);
    assert_eq!(started.code, 0, "{started:?}");
    let between = whole(&world);
    assert_ne!(between.program, before.program);
    let restarted = world.ctl(&["restart", "api"]);
    assert_eq!(restarted.code, 0, "{restarted:?}");
    assert_ne!(whole(&world).program, between.program);
    assert_eq!(world.ctl(&["stop", "nobody"]).code, 5);
    world.down();
}

#[test]
fn down_leaves_nothing_and_a_new_start_brings_it_back() {
    let mut world = started();
    whole(&world);
    world.down();
    world.start();
    whole(&world);
    world.down();
}

#[test]
fn manager_at_many_moments_of_a_deploy() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v0");
    world.stack(&(SERVICE.to_owned() + &format!("repo = \"{}\"\n", repo.url())));
    world.start();
    world.applied();
    for round in 1..=8_u64 {
        repo.commit(&[("web.py", &agentd_tests::web(&format!("v{round}")))]);
        // The moments of the kills are spread over the steps of a deploy.
        std::thread::park_timeout(std::time::Duration::from_millis(150 + round * 97));
        world.kill_manager();
        assert_eq!(world.get("/").status, 200, "round {round}");
        world.start();
        world.serves("/", &format!("v{round}"));
        world.applied();
        assert_eq!(world.service("api").instances.len(), 1, "round {round}");
    }
    world.down();
}

#[test]
fn what_is_not_ready_in_time_after_a_power_cut_is_served_once_it_is() {
    let mut world = World::new();
    let repo = world.repo("api");
    let gate = world.dir().join("dependency");
    std::fs::write(&gate, "").unwrap();
    let waits = format!(
        "import os, time\nwhile not os.path.exists({:?}):\n    time.sleep(0.05)\n{}",
        gate.display().to_string(),
        agentd_tests::web("v1")
    );
    repo.commit(&[("web.py", &waits)]);
    let service = SERVICE.replace("interval = \"1s\"", "interval = \"1s\", start_deadline = \"1s\"");
    world.stack(&(service + &format!("repo = \"{}\"\n", repo.url())));
    world.start();
    world.applied();
    world.kill_manager();
    for pid in world.processes() {
        slay(pid);
    }
    world.until("nothing is left", |world| world.processes().is_empty());
    std::fs::remove_file(&gate).unwrap();
    world.start();
    world.until("the start deadline is over", |world| world.service("api").last_error.is_some());
    std::fs::write(&gate, "").unwrap();
    world.serves("/", "v1");
    world.applied();
    world.down();
}

#[test]
fn a_manager_killed_while_it_takes_everything_down_brings_it_back() {
    let mut world = started();
    whole(&world);
    // What `down` had come to: the instance stopped, its folder still there.
    let stopped = std::process::Command::new(agentd_tests::program("agentctl"))
        .args(["--home"])
        .arg(&world.home)
        .arg("down")
        .spawn();
    let mut stopped = stopped.unwrap();
    world.until("the program has ended", |world| pids(world).is_none());
    world.kill_manager();
    stopped.wait().unwrap();
    world.start();
    whole(&world);
    world.down();
}
