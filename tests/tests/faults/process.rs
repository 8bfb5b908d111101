//! Faults of programs that were built well.

use std::net::TcpListener;
use std::path::Path;

use agentd_protocol::api::{DeployPhase, ProbeOutcome, Problem, ServiceState, Verdict};
use agentd_tests::{World, free_port, web};

use super::{good, healthy, service, trouble, undisturbed};

/// Runs `bad` beside the healthy service until it is in trouble with these words, then mends it by an edit.
fn fails(run: &str, more: &str, words: &[&str]) -> Problem {
    let mut world = healthy();
    let repo = world.web_repo("bad", "b1");
    repo.commit(&[("crash.py", "import sys\nsys.exit('cannot go on')\n")]);
    world.stack(&(good(&world) + &service("bad", &repo.url(), &format!("run = \"{run}\"\n{more}"))));
    let problem = trouble(&world, words);
    let answer = world.get("/bad");
    assert_eq!(answer.status, 503, "{answer:?}");
    world.stack(&(good(&world) + &service("bad", &repo.url(), "")));
    world.serves("/bad", "b1");
    world.applied();
    undisturbed(&world);
    world.down();
    problem
}

fn logged(problem: &Problem, word: &str) {
    assert!(problem.log_tail.iter().any(|line| line.contains(word)), "no `{word}` in {:?}", problem.log_tail);
}

#[test]
fn a_command_that_is_not_found() {
    let problem = fails("no-such-program --serve", "", &["127", "command not found"]);
    assert_eq!(problem.phase, DeployPhase::Start);
    logged(&problem, "no-such-program");
}

#[test]
fn a_command_that_is_not_executable() {
    let problem = fails("./web.py", "", &["126", "cannot be executed"]);
    assert_eq!(problem.phase, DeployPhase::Start);
    logged(&problem, "web.py");
}

#[test]
fn a_program_that_exits_at_once() {
    let problem = fails("python3 crash.py", "", &["before it was ready", "exit code 1"]);
    assert_eq!(problem.phase, DeployPhase::Start);
    logged(&problem, "cannot go on");
}

#[test]
fn a_program_that_ends_well_but_is_no_server() {
    let problem = fails("true", "restart = \"on-failure\"", &["ended before it was ready", "exit code 0"]);
    assert_eq!(problem.phase, DeployPhase::Start);
}

#[test]
fn a_program_that_never_listens() {
    let more = "health = { path = \"/healthz\", start_deadline = \"2s\" }";
    let problem = fails("sleep 1000", more, &["start deadline", "nothing listens", "$PORT"]);
    assert_eq!(problem.phase, DeployPhase::Health);
    assert_eq!(problem.probes.last().unwrap().outcome, ProbeOutcome::Refused);
}

#[test]
fn a_program_that_listens_on_another_port() {
    let port = free_port();
    // As root the deadline has to leave time for a look at who listens where.
    let more = format!("env = {{ PORT = \"{port}\" }}\nhealth = {{ path = \"/healthz\", start_deadline = \"8s\" }}");
    let hint = format!("listens on {port}, expected $PORT=2");
    let problem = fails("python3 web.py", &more, &["start deadline", &hint]);
    assert_eq!(problem.phase, DeployPhase::Health);
}

#[test]
fn a_health_check_that_answers_500() {
    let more = "health = { path = \"/healthz\", start_deadline = \"2s\" }";
    let problem =
        fails("touch $DATA_DIR/broken && exec python3 web.py", more, &["answers 500", "200 to 399 would pass"]);
    assert_eq!(problem.phase, DeployPhase::Health);
    assert_eq!(problem.probes.last().unwrap().outcome, ProbeOutcome::Status { status: 500 });
}

#[test]
fn a_program_that_is_open_to_other_hosts_is_served_and_warned_of() {
    let mut world = healthy();
    let repo = world.web_repo("open", "o1");
    world.stack(&(good(&world) + &service("open", &repo.url(), "env = { HOST = \"0.0.0.0\" }")));
    world.serves("/open", "o1");
    world.applied();
    world.until("it is warned of", |world| {
        world.service("open").warnings.iter().any(|warning| warning.contains("run.public-bind"))
    });
    let told = world.ctl(&["status"]);
    assert_eq!(told.code, 0, "a warning is no failure: {told:?}");
    assert!(told.stdout.contains("open: run.public-bind: listens on 0.0.0.0:"), "{told:?}");
    undisturbed(&world);
    world.down();
}

#[test]
fn a_fixed_port_that_a_stranger_has() {
    let mut world = healthy();
    let repo = world.web_repo("bad", "b1");
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    world.stack(&(good(&world) + &service("bad", &repo.url(), &format!("port = {port}"))));
    let owner = format!("pid {}", std::process::id());
    let problem = trouble(&world, &[&format!("port {port} is taken by"), &owner]);
    assert_eq!(problem.phase, DeployPhase::Start);
    drop(stranger);
    world.serves("/bad", "b1");
    world.applied();
    undisturbed(&world);
    world.down();
}

#[test]
fn the_proxys_port_that_a_stranger_has() {
    let mut world = World::new();
    world.stack(&good(&world));
    let stranger = TcpListener::bind(("127.0.0.1", world.port)).unwrap();
    let run = world.run_to_end(&[]);
    assert_eq!(run.code, 9, "{run:?}");
    super::says(&run.stderr, &[&format!("port {} is taken by pid {}", world.port, std::process::id()), "proxy.port"]);
    drop(stranger);
    world.start();
    world.applied();
    undisturbed(&world);
    world.down();
}

/// Starts what a program can do to get away from its parent, and notes every pid.
const ESCAPES: &str = r#"
note() { echo "$1" >> "$DATA_DIR/pids"; }
setsid sh -c 'echo $$ >> "$DATA_DIR/pids"; exec sleep 1000' &
(setsid sh -c 'echo $$ >> "$DATA_DIR/pids"; sleep 1000 & echo $! >> "$DATA_DIR/pids"; wait' &)
(setsid sh -c 'sleep 1000 & echo $! >> "$DATA_DIR/pids"' &)
(env -i sleep 1000 & note $!)
(setsid sh -c 'trap "" TERM HUP; env -i sleep 1000 & echo $! >> "$DATA_DIR/pids"' &)
note $$
exec python3 web.py
"#;
const ESCAPED: usize = 7;

fn noted(world: &World) -> Vec<u32> {
    let text = std::fs::read_to_string(world.home.join("state/services/bad/data/pids")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/cmdline")).exists()
        && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn a_tree_that_tries_to_get_away_is_gone_after_stop_and_after_down() {
    let mut world = healthy();
    let repo = world.web_repo("bad", "b1");
    repo.commit(&[("start.sh", ESCAPES)]);
    let entry = service("bad", &repo.url(), "run = \"sh start.sh\"\nstop = { timeout = \"2s\" }");
    world.stack(&(good(&world) + &entry));
    world.serves("/bad", "b1");
    world.until("every process is noted", |world| noted(world).len() == ESCAPED);
    let first = noted(&world);
    assert!(first.iter().all(|pid| alive(*pid)), "{first:?}");
    let stopped = world.ctl(&["stop", "bad"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    let left: Vec<&u32> = first.iter().filter(|pid| alive(**pid)).collect();
    assert!(left.is_empty(), "left after stop: {left:?} of {first:?}");
    undisturbed(&world);
    let started = world.ctl(&["start", "bad"]);
    assert_eq!(started.code, 0, "{started:?}");
    world.until("every process is noted again", |world| noted(world).len() == 2 * ESCAPED);
    let all = noted(&world);
    world.down();
    let left: Vec<&u32> = all.iter().filter(|pid| alive(**pid)).collect();
    assert!(left.is_empty(), "left after down: {left:?} of {all:?}");
}

#[test]
fn a_program_that_keeps_ending_later_does_not_take_others_along() {
    let mut world = healthy();
    let repo = world.repo("bad");
    let dies = web("b1").replace(
        "elif last == \"env\":",
        "elif last == \"die\":\n            os._exit(5)\n        elif last == \"env\":",
    );
    repo.commit(&[("web.py", &dies)]);
    world.stack(&(good(&world) + &service("bad", &repo.url(), "")));
    world.serves("/bad", "b1");
    world.applied();
    // The connection is cut: 502, or an error of the client.
    let _ = world.try_get("/bad/die");
    world.until("it was restarted", |world| world.service("bad").restarts == 1);
    world.serves("/bad", "b1");
    let service = world.service("bad");
    assert_eq!(service.instances[0].last_exit.as_deref(), Some("exit code 5"));
    assert_eq!((service.state, world.status().stack.verdict), (ServiceState::Ready, Verdict::Applied));
    undisturbed(&world);
    world.down();
}
