//! Every transition is one event, in words (README, "See what happened").

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use agentd_protocol::api::{Event, What};
use agentd_tests::{World, program, web};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for a followed event: as the fixture's own.
const LIMIT: Duration = Duration::from_secs(60);

fn service(repo: &str, path: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"api\"\nrepo = \"{repo}\"\nref = \"main\"\nrun = \"python3 web.py\"\npath = \"{path}\"\n\
         drain = \"1s\"\nhealth = {{ path = \"/healthz\", interval = \"1s\", start_deadline = \"5s\" }}\n{more}\n"
    )
}

fn events(world: &World, arguments: &[&str]) -> Vec<Event> {
    let ran = world.ctl(&[&["events", "--json", "--lines", "1000"], arguments].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn count(world: &World, word: &str) -> usize {
    events(world, &[]).iter().filter(|event| event.what.word() == word).count()
}

/// Waits until so many events of this kind are there; the last one.
fn happened(world: &World, word: &str, times: usize) -> Event {
    world.until(&format!("{word} happened {times} times"), |world| count(world, word) >= times);
    let mut all = events(world, &[]);
    all.retain(|event| event.what.word() == word);
    assert_eq!(all.len(), times, "{all:#?}");
    all.pop().unwrap()
}

fn slay(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_first_deploy_is_told_from_the_file_to_the_route() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service(&repo.url(), "/api", "build = \"true\""));
    world.start();
    world.applied();
    happened(&world, "config.applied", 1);
    let all = events(&world, &[]);
    assert!(all.is_sorted_by_key(|event| event.id), "ids grow");
    assert!(all.windows(2).all(|pair| pair[0].id != pair[1].id));
    let words: Vec<&str> = all.iter().map(|event| event.what.word()).collect();
    for word in [
        "edge.started",
        "host.start",
        "config.seen",
        "config.published",
        "build.started",
        "build.succeeded",
        "deploy.started",
        "run.started",
        "run.ready",
        "route.changed",
        "dns.changed",
        "deploy.done",
        "config.applied",
    ] {
        assert_eq!(words.iter().filter(|found| **found == word).count(), 1, "{word} in {words:?}");
    }
    let ready = all.iter().find(|event| event.what.word() == "run.ready").unwrap();
    let api = world.service("api");
    assert_eq!(ready.instance.as_ref(), Some(&api.instances[0].id));
    assert_eq!((ready.service.as_ref(), ready.release), (Some(&api.name), api.release));
    let routed = all.iter().find(|event| event.what.word() == "route.changed").unwrap();
    assert_eq!(routed.text, "added /api");
    // Nothing was built or started for it, and it is told all the same.
    world.stack(&service(&repo.url(), "/v2", "build = \"true\""));
    assert_eq!(happened(&world, "route.changed", 2).text, "added /v2; removed /api");
    assert_eq!(count(&world, "run.started"), 1);
    world.down();
}

#[test]
fn what_fails_is_told_with_its_cause() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    repo.commit(&[("build.sh", "exit 0\n")]);
    world.stack(&service(&repo.url(), "/api", "build = \"sh build.sh\""));
    world.start();
    world.applied();
    repo.commit(&[("build.sh", "exit 3\n")]);
    let build = happened(&world, "build.failed", 1);
    assert!(build.text.contains("build failed after") && build.text.contains("exit code 3"), "{}", build.text);
    assert_eq!(build.release.unwrap().0, 2);
    let degraded = happened(&world, "config.degraded", 1);
    assert!(degraded.text.contains("version 2 is degraded: api: "), "{}", degraded.text);
    repo.commit(&[("build.sh", "exit 0\n"), ("web.py", "raise SystemExit(9)\n")]);
    let deploy = happened(&world, "deploy.failed", 1);
    assert!(deploy.text.contains("exit code 9; release 1 serves on"), "{}", deploy.text);
    repo.commit(&[("web.py", &web("v2"))]);
    world.serves("/api", "v2");
    happened(&world, "deploy.done", 2);
    world.applied();

    let broken = world.home.join("state/services/api/data/broken");
    std::fs::write(&broken, "").unwrap();
    assert_eq!(happened(&world, "health.failing", 1).text, "failing its health check, 3 times in a row: answers 500");
    std::fs::remove_file(broken).unwrap();
    assert!(happened(&world, "health.recovered", 1).text.starts_with("passes its health check again after "));

    let before = count(&world, "crash.exited");
    // The answer never comes.
    assert!(world.get("/api/exit?code=1").status >= 500);
    let crash = happened(&world, "crash.exited", before + 1);
    assert!(crash.text.contains("exit code 1; starts again"), "{}", crash.text);
    world.serves("/api", "v2");
    // EX_CONFIG: the program itself says that another try is no use.
    assert!(world.get("/api/exit?code=78").status >= 500);
    happened(&world, "crash.loop-entered", 1);
    let severe = events(&world, &["--service", "api"]);
    assert!(severe.iter().all(|event| event.service.is_some()));
    world.down();
}

#[test]
fn orders_of_the_operator_and_bad_files_are_told() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    let good = service(&repo.url(), "/api", "");
    world.stack(&good);
    world.start();
    world.applied();
    repo.commit(&[("web.py", &web("v2"))]);
    world.serves("/api", "v2");
    world.applied();
    for (verb, word) in [
        ("stop", "service.stopped"),
        ("start", "service.started"),
        ("restart", "service.restarted"),
        ("rollback", "service.pinned"),
        ("unpin", "service.unpinned"),
    ] {
        let ran = world.ctl(&[verb, "api"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        happened(&world, word, 1);
    }
    assert!(happened(&world, "deploy.rolled-back", 1).text.ends_with("instead of release 2"));
    let seen = count(&world, "config.seen");
    world.stack("nonsense = 1\n");
    assert!(happened(&world, "config.rejected", 1).text.contains("nonsense"));
    world.stack(&good.replace("\"main\"", "\"no-such-branch\""));
    let unresolved = happened(&world, "config.unresolved", 1);
    assert_eq!(unresolved.service.unwrap().as_str(), "api");
    world.stack(&good);
    happened(&world, "config.resolved", 1);
    assert!(count(&world, "config.seen") > seen);
    let other = world.web_repo("other", "o1");
    world.stack(&service(&other.url(), "/other", "").replace("\"api\"", "\"other\""));
    happened(&world, "service.removed", 1);
    world.until("the names are others", |world| {
        events(world, &[])
            .iter()
            .any(|event| matches!(&event.what, What::DnsChanged { removed, .. } if removed.len() == 1))
    });
    assert_eq!(world.ctl(&["prune", "api"]).code, 0);
    happened(&world, "service.pruned", 1);
    world.down();
}

#[test]
fn the_ends_and_returns_of_manager_keeper_and_edge_are_told_once_each() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service(&repo.url(), "/api", ""));
    world.start();
    world.applied();
    happened(&world, "config.applied", 1);
    slay(world.status().edge.pid.unwrap());
    assert!(happened(&world, "edge.lost", 1).text.contains("killed by SIGKILL"));
    happened(&world, "edge.started", 2);
    slay(world.status().agent.keeper_pid.unwrap());
    happened(&world, "host.keeper-replaced", 1);
    world.serves("/api", "v1");
    let before = events(&world, &[]);
    world.end_manager();
    world.start();
    assert_eq!(happened(&world, "host.stop", 1).text, "the manager ended on SIGTERM; services run on");
    let start = happened(&world, "host.start", 2);
    assert!(matches!(start.what, What::HostStart { adopted: 1, .. }), "{start:?}");
    world.applied();
    world.kill_manager();
    world.start();
    happened(&world, "host.start", 3);
    world.applied();
    let after = events(&world, &[]);
    assert_eq!(after[..before.len()], before, "history is history");
    for word in ["run.started", "run.ready", "route.changed", "dns.changed", "edge.lost", "config.applied"] {
        let of = |all: &[Event]| all.iter().filter(|event| event.what.word() == word).count();
        assert_eq!(of(&after), of(&before), "{word} is not told again by a manager that finds everything running");
    }
    world.down();
    world.start();
    happened(&world, "host.down", 1);
    happened(&world, "run.stopped", 1);
    world.down();
}

/// `agentctl events --follow`, its lines handed over as they come.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(world: &World, arguments: &[&str]) -> Self {
        let mut child = Command::new(program("agentctl"))
            .arg("--home")
            .arg(&world.home)
            .args(["events", "--follow"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::Builder::new()
            .name("follow".into())
            .spawn(move || output.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()))
            .unwrap();
        Self { child, lines }
    }

    fn until(&self, word: &str) -> Event {
        loop {
            let line = self.lines.recv_timeout(LIMIT).unwrap_or_else(|error| panic!("no {word}: {error}"));
            let event: Event = serde_json::from_str(&line).unwrap();
            if event.what.word() == word {
                return event;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait(); // reaped
    }
}

#[test]
fn a_follower_sees_what_happens_across_a_restart_of_the_manager() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service(&repo.url(), "/api", ""));
    world.start();
    world.applied();
    happened(&world, "config.applied", 1);
    let follower = Follower::start(&world, &["--json", "--lines", "1"]);
    assert_eq!(follower.until("config.applied").what.word(), "config.applied");
    assert_eq!(world.ctl(&["stop", "api"]).code, 0);
    let stopped = follower.until("service.stopped");
    world.kill_manager();
    world.start();
    let back = follower.until("host.start");
    assert!(back.id > stopped.id);
    assert_eq!(world.ctl(&["start", "api"]).code, 0);
    assert!(follower.until("service.started").id > back.id);
    drop(follower);
    world.down();
}

#[test]
fn events_read_well_in_a_pipe() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service(&repo.url(), "/api", ""));
    world.start();
    world.applied();
    happened(&world, "config.applied", 1);
    let text = world.ctl(&["events"]);
    assert!(text.stdout.lines().any(|line| line.contains("api r1") && line.contains("run.ready")), "{text:?}");
    assert!(!text.stdout.contains('\u{1b}'), "no colours in a pipe");
    let one = world.ctl(&["events", "--lines", "1"]);
    assert_eq!(one.stdout.lines().count(), 1, "{one:?}");
    assert_eq!(events(&world, &["--since", "1h"]).len(), events(&world, &[]).len());
    assert_eq!(world.ctl(&["events", "--since", "2100-01-01T00:00:00Z"]).stdout, "");
    assert_eq!(world.ctl(&["events", "--since", "yesterday"]).code, 2);
    let piped = Command::new("sh")
        .args(["-c", "\"$0\" --home \"$1\" events --json | head -n 1"])
        .arg(program("agentctl"))
        .arg(&world.home)
        .output()
        .unwrap();
    assert_eq!((piped.stdout.split(|byte| *byte == b'\n').count(), piped.stderr.len()), (2, 0), "{piped:?}");
    world.down();
}
