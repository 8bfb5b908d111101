//! Faults of builds. That a build's time limit ends it is tested with the shim, which enforces it.

use agentd_protocol::api::{DeployPhase, ServiceState};
use agentd_tests::{World, web};

use super::{good, healthy, service, trouble, undisturbed};

const BUILD: &str = "build = \"sh build.sh\"";
/// Long beyond every limit of a test, and found by nobody else's `ps`.
const HANGS: &str = "echo building for ever\nsleep 86397\n";

#[test]
fn a_build_that_fails_is_shown_with_its_last_lines() {
    let mut world = healthy();
    let repo = world.web_repo("bad", "b1");
    let broken = repo.commit(&[("build.sh", "echo one >&2\necho the compiler is unhappy >&2\nexit 7\n")]);
    world.stack(&(good(&world) + &service("bad", &repo.url(), BUILD)));
    let problem = trouble(&world, &["the build failed", "exit code 7"]);
    assert_eq!(problem.phase, DeployPhase::Build);
    assert_eq!(problem.commit.unwrap().as_str(), broken);
    assert!(problem.log_tail.iter().any(|line| line == "the compiler is unhappy"), "{:?}", problem.log_tail);
    assert_eq!(world.service("bad").state, ServiceState::Failing);
    repo.commit(&[("build.sh", "exit 0\n")]);
    world.serves("/bad", "b1");
    world.applied();
    world.down();
}

/// A build that hangs, seen as such; the pids of its processes.
fn hanging(world: &World) -> Vec<u32> {
    world.until("the build runs", |world| state(world) == Some(ServiceState::Building) && !sleepers(world).is_empty());
    let told = world.ctl(&["status"]);
    assert!(told.stdout.lines().any(|line| line.starts_with("bad") && line.contains("building")), "{told:?}");
    undisturbed(world);
    sleepers(world)
}

/// `None`: no version with it yet.
fn state(world: &World) -> Option<ServiceState> {
    world.status().services.into_iter().find(|service| service.name.as_str() == "bad").map(|service| service.state)
}

fn sleepers(world: &World) -> Vec<u32> {
    let sleeps =
        |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x0086397\0");
    world.processes().into_iter().filter(sleeps).collect()
}

#[test]
fn a_build_that_never_ends_is_ended_by_a_stop_and_by_a_newer_commit() {
    let mut world = healthy();
    let repo = world.web_repo("bad", "b1");
    repo.commit(&[("build.sh", HANGS)]);
    world.stack(&(good(&world) + &service("bad", &repo.url(), BUILD)));
    hanging(&world);
    let stopped = world.ctl(&["stop", "bad"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert_eq!(world.service("bad").state, ServiceState::Stopped);
    assert!(sleepers(&world).is_empty(), "nothing of the build is left");
    repo.commit(&[("note", "another")]);
    world.until("the new commit is known", |world| world.status().stack.version.is_some_and(|v| v.0 >= 3));
    // Started, it hangs again; `start` waits for it, so it is given up in favour of the newer commit.
    let starting = std::thread::scope(|scope| {
        let world = &world;
        let start = std::thread::Builder::new()
            .name("start".into())
            .spawn_scoped(scope, move || world.ctl(&["start", "bad"]))
            .unwrap();
        hanging(world);
        repo.commit(&[("build.sh", "exit 0\n"), ("web.py", &web("b2"))]);
        start.join().unwrap()
    });
    assert_eq!(starting.code, 0, "{starting:?}");
    world.serves("/bad", "b2");
    assert!(sleepers(&world).is_empty());
    world.applied();
    world.down();
}

#[test]
fn a_service_without_a_build_does_not_wait_for_anothers() {
    let mut world = healthy();
    let repo = world.web_repo("bad", "b1");
    repo.commit(&[("build.sh", HANGS)]);
    world.stack(&(good(&world) + &service("bad", &repo.url(), BUILD)));
    hanging(&world);
    let more = world.web_repo("more", "m1");
    world.stack(&(good(&world) + &service("bad", &repo.url(), BUILD) + &service("more", &more.url(), "")));
    world.serves("/more", "m1");
    undisturbed(&world);
    world.down();
}
