//! Why a service failed, in one screen (README, "Why did it fail?"): for each way to fail, what is said of it.

use agentd_protocol::api::{DeployPhase, Problem, ProgramExit};
use agentd_tests::{Repo, World, web};

const HEALTH: &str = "health = { path = \"/healthz\", start_deadline = \"8s\", interval = \"1s\" }";

fn service(world: &World, more: &str) -> String {
    let repo = format!("file://{}", world.dir().join("repos/api").display());
    let run = if more.contains("run =") { "" } else { "run = \"python3 web.py\"\n" };
    format!(
        "[[service]]\nname = \"api\"\nrepo = \"{repo}\"\nref = \"main\"\npath = \"/api\"\ndrain = \"1s\"\n{run}{more}\n"
    )
}

/// A world whose one service was good once, as release 1.
fn good() -> World {
    let mut world = World::new();
    world.web_repo("api", "v1");
    world.stack(&service(&world, ""));
    world.start();
    world.applied();
    world
}

fn repo(world: &World) -> Repo {
    Repo { dir: world.dir().join("repos/api") }
}

/// Waits for a problem of this phase that says so, as JSON and on the screen.
#[track_caller]
fn trouble(world: &World, phase: DeployPhase, words: &[&str]) -> (Problem, String) {
    let find = |world: &World| {
        let problems = world.status().stack.problems;
        problems.into_iter().find(|problem| problem.phase == phase)
    };
    let says = |text: &str| words.iter().all(|word| text.contains(word));
    let screen = |world: &World| world.ctl(&["status", "api"]).stdout;
    world.until(&format!("{words:?} is said"), |world| find(world).is_some() && says(&screen(world)));
    let shown = world.ctl(&["status", "api"]);
    assert_eq!(shown.code, 6, "{shown:?}");
    (find(world).expect("it stays until something changes"), shown.stdout)
}

#[test]
fn a_missing_module_and_what_changed_since_the_last_good_release() {
    let mut world = good();
    let flask = "import no_such_flask\n".to_owned() + &web("v2");
    repo(&world).git(&["commit", "--quiet", "--allow-empty", "--message", "an empty change"]);
    std::fs::write(repo(&world).dir.join("web.py"), flask).unwrap();
    repo(&world).git(&["commit", "--quiet", "--all", "--message", "use flask, token hunter2-secret"]);
    world.stack(&service(&world, &format!("{HEALTH}\nenv = {{ NEW_TOKEN = \"hunter2-secret\" }}")));
    let words = [
        "(start, ",
        "ended",
        "exit code 1",
        "why: the Python module `no_such_flask` is not installed",
        "> File \"",
        "web.py\", line 1, in <module>",
        "> import no_such_flask",
        "> ModuleNotFoundError: No module named 'no_such_flask'",
        "changed since release 1, which was good:",
        "use flask, token [masked NEW_TOKEN]",
        "an empty change",
        "keys: health",
        "env added: NEW_TOKEN",
        "next: agentctl logs api --instance",
    ];
    let (problem, screen) = trouble(&world, DeployPhase::Start, &words);
    assert_eq!(problem.why.exit, Some(ProgramExit::Code { code: 1 }));
    assert!(screen.find("> ModuleNotFoundError") < screen.find("last lines:"), "{screen}");
    assert!(!screen.contains("agentctl rollback"), "the good one still serves: {screen}");
    let next = problem.why.next[0].split(' ').skip(1).map(str::to_owned).collect::<Vec<_>>();
    let logs = world.ctl(&next.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(logs.code == 0 && logs.stdout.contains("No module named"), "what is advised works: {logs:?}");
    let short = world.ctl(&["status"]).stdout;
    assert!(short.contains("> ModuleNotFoundError") && short.contains("more: agentctl status api"), "{short}");
    assert_eq!(world.get("/api").json()["version"], "v1");
    world.down();
}

#[test]
fn a_port_that_is_in_use() {
    let mut world = good();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    world.stack(&service(&world, &format!("env = {{ PORT = \"{port}\" }}")));
    let words = ["> OSError: [Errno 98] Address already in use", "is taken: listen on $PORT", "env added: PORT"];
    trouble(&world, DeployPhase::Start, &words);
    world.down();
}

#[test]
fn exit_codes_signals_and_missing_programs() {
    let mut world = good();
    for (run, words) in [
        ("echo about to give up; exit 3", &["exit code 3", "| about to give up", "keys: run"][..]),
        ("kill -SEGV $$; true", &["killed by SIGSEGV", "why: it touched memory"]),
        ("kill -KILL $$; true", &["killed by SIGKILL", "SIGKILL came from outside", "dmesg"]),
        ("no-such-server --port 1", &["exit code 127", "there is no program `no-such-server`"]),
        ("true", &["exit code 0", "must stay in the foreground"]),
        (
            "node -e 'require(\\\"no-such-pkg\\\")'",
            &["> Error: Cannot find module 'no-such-pkg'", "Node module `no-such-pkg`"],
        ),
        (
            "python3 -c 'import os; os.environ[\\\"API_URL\\\"]'",
            &["> KeyError: 'API_URL'", "it wants the variable API_URL"],
        ),
    ] {
        world.stack(&service(&world, &format!("run = \"{run}\"")));
        trouble(&world, DeployPhase::Start, words);
    }
    let signal = "run = \"kill -SEGV $$; true\"";
    world.stack(&service(&world, signal));
    let (problem, _) = trouble(&world, DeployPhase::Start, &["before it was ready: killed by SIGSEGV"]);
    assert!(matches!(problem.why.exit, Some(ProgramExit::Signal { ref name, .. }) if name == "SIGSEGV"), "{problem:?}");
    assert_eq!(world.get("/api").json()["version"], "v1");
    world.down();
}

#[test]
fn a_build_that_fails() {
    let mut world = good();
    world.stack(&service(&world, "build = \"echo one; echo error: no rule to make it >&2; exit 2\""));
    let words = ["(build, ", "the build failed: exit code 2", "> error: no rule to make it", "keys: build", "| one"];
    let (problem, _) = trouble(&world, DeployPhase::Build, &words);
    let release = problem.release.unwrap();
    assert_eq!(problem.why.next, [format!("agentctl logs api --build {release}")]);
    let logs = world.ctl(&["logs", "api", "--build", &release.to_string()]);
    assert!(logs.stdout.contains("one\n") && logs.stdout.contains("error: no rule to make it\n"), "{logs:?}");
    world.down();
}

#[test]
fn a_health_check_that_fails_and_a_program_that_listens_elsewhere() {
    let mut world = good();
    let broken = "run = \"touch $DATA_DIR/broken && exec python3 web.py\"\n";
    let short = HEALTH.replace("8s", "2s");
    world.stack(&service(&world, &format!("{broken}{short}")));
    let words = ["(health, ", "not ready", "answers 500", "calls itself unhealthy", "last probes:", "status 500"];
    trouble(&world, DeployPhase::Health, &words);
    let port = agentd_tests::free_port();
    world.stack(&service(&world, &format!("{HEALTH}\nenv = {{ PORT = \"{port}\" }}")));
    let meaning = format!("it listens on port {port} and not on 2");
    trouble(&world, DeployPhase::Health, &[&meaning, "connection refused"]);
    world.down();
}

#[test]
fn a_crash_loop_after_a_good_deploy_has_the_same_screen_and_ends_with_a_rollback() {
    let mut world = good();
    let dies = web("v2").replace("elif last == \"env\":", "elif last == \"die\":\n            open(os.environ[\"DATA_DIR\"] + \"/dead\", \"w\")\n            os._exit(7)\n        elif last == \"env\":");
    let dies = dies.replace("def main():\n", "def main():\n    if os.path.exists(os.environ[\"DATA_DIR\"] + \"/dead\"):\n        sys.exit(\"error: cannot go on\")\n");
    repo(&world).commit(&[("web.py", &dies)]);
    world.serves("/api", "v2");
    world.applied();
    // The connection is cut: 502, or an error of the client.
    let _ = world.try_get("/api/die");
    let words = [
        "(run, ",
        "exit code 1",
        "> error: cannot go on",
        "changed since release 1, which was good:",
        "next: agentctl logs api --instance",
        "agentctl rollback api",
    ];
    let (problem, _) = trouble(&world, DeployPhase::Run, &words);
    assert_eq!(problem.release.unwrap().0, 2);
    assert_eq!(world.service("api").last_error.as_deref().map(|error| error.contains("exit code 1")), Some(true));
    let back = world.ctl(&["rollback", "api"]);
    assert_eq!(back.code, 0, "{back:?}");
    world.serves("/api", "v1");
    world.until("the trouble is over", |world| world.status().stack.problems.is_empty());
    assert_eq!(world.ctl(&["status", "api"]).code, 0);
    world.down();
}

#[test]
fn one_service_is_asked_for_by_name() {
    let mut world = good();
    let told = world.ctl(&["status", "api"]);
    assert!(told.code == 0 && told.stdout.contains("ready"), "{told:?}");
    let unknown = world.ctl(&["status", "nobody"]);
    assert!(unknown.code == 5 && unknown.stderr.contains("`nobody`; there are: api"), "{unknown:?}");
    world.down();
}
