//! Status as people and programs read it: on a page, on a terminal, as JSON, in the file a dead manager leaves.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentd_protocol::api::{ServiceState, Status, Verdict};
use agentd_tests::{Terminal, World, program, web};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const COLUMNS: [&str; 11] =
    ["SERVICE", "STATE", "RELEASE", "COMMIT", "READY", "RESTARTS", "SINCE", "CPU", "MEM", "URL", "LAST ERROR"];
const HEALTH: &str = "path = \"/\"\nhealth = { path = \"/healthz\", interval = \"1s\" }\n";

fn service(name: &str, repo: &str, more: &str) -> String {
    let run = if more.contains("run =") { "" } else { "run = \"python3 web.py\"\n" };
    format!("[[service]]\nname = \"{name}\"\nrepo = \"{repo}\"\nref = \"main\"\ndrain = \"1s\"\n{run}{more}\n")
}

/// One web service at `/`, running.
fn one() -> (World, agentd_tests::Repo) {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service("api", &repo.url(), HEALTH));
    world.start();
    world.applied();
    (world, repo)
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Kills the program of the only instance and waits until it is back.
fn crash(world: &World, restarts: u32) {
    signal(world.service("api").instances[0].pid.unwrap(), Signal::SIGKILL);
    world.until("the restart is counted and the service is back", |world| {
        let api = world.service("api");
        api.restarts == restarts && api.ready == 1
    });
}

fn ctl(world: &World, arguments: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program("agentctl"));
    command.arg("--home").arg(&world.home).args(arguments).env_remove("NO_COLOR").envs(env.iter().copied());
    command
}

#[test]
fn the_page_says_what_runs_where_and_what_it_uses() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    // A worker whose CPU is burnt by a child that left its parent behind.
    let burner = "kind = \"worker\"\nrun = \"(while :; do :; done &); while :; do sleep 1; done\"";
    let services = service("api", &repo.url(), &format!("{HEALTH}replicas = 2"))
        + &service("inner", &repo.url(), "")
        + &service("burner", &repo.url(), burner);
    world.stack(&services);
    world.start();
    world.applied();
    world.until("CPU and memory are told", |world| {
        let burner = world.service("burner");
        burner.cpu_millicores > Some(20) && world.service("api").memory_bytes > Some(2 * 1024 * 1024)
    });
    let status = world.status();
    let api = status.services.iter().find(|service| service.name.as_str() == "api").unwrap();
    let sum = api.instances.iter().map(|instance| instance.memory_bytes.unwrap()).sum();
    assert_eq!((api.instances.len(), api.memory_bytes), (2, Some(sum)));
    let host = status.host.unwrap();
    assert!(host.cpus > 0 && host.memory_total_bytes > sum && host.disk_free_bytes > Some(0), "{host:?}");

    let page = world.ctl(&["status"]);
    assert_eq!(page.code, 0, "{page:?}");
    assert!(!page.stdout.contains('\x1b'), "nothing is coloured in a pipe: {page:?}");
    let mut lines = page.stdout.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("test version 1: applied, 3 services run as wanted, for "), "{first}");
    let head: Vec<&str> = lines.find(|line| line.starts_with("SERVICE")).unwrap().split("  ").collect();
    let head: Vec<&str> = head.into_iter().map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(head, COLUMNS);
    let row = |name: &str| {
        let line = page.stdout.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<String>>()
    };
    let api = row("api ");
    assert_eq!((api[1].as_str(), api[4].as_str(), api[5].as_str()), ("ready", "2/2", "0"));
    assert!(api[7].ends_with('%') && api[8].ends_with('M'), "{api:?}");
    assert_eq!((api[9].as_str(), api[10].as_str()), (format!("http://127.0.0.1:{}/", world.port).as_str(), "-"));
    assert_eq!(row("inner ")[9], format!("(http://inner.svc.internal:{})", world.internal_port));
    assert_eq!(row("burner ")[9], "-");
    assert!(page.stdout.lines().any(|line| line.starts_with("host: ")), "{page:?}");
    world.down();
}

#[test]
fn one_service_is_shown_in_detail() {
    let (mut world, _repo) = one();
    crash(&world, 1);
    let api = world.service("api");
    let page = world.ctl(&["status", "api"]);
    assert_eq!(page.code, 0, "{page:?}");
    let instance = &api.instances[0];
    for words in [
        "api: ready for ",
        ", 1 of 1 ready",
        api.commit.as_ref().unwrap().as_str(),
        &format!("http://api.svc.internal:{}", world.internal_port),
        "1 that nobody asked for",
        instance.id.as_str(),
        &instance.pid.unwrap().to_string(),
        &instance.port.unwrap().to_string(),
        "killed by SIGKILL, ",
        &instance.log_dir,
    ] {
        assert!(page.stdout.contains(words), "no `{words}` in {}", page.stdout);
    }
    let json = world.ctl(&["status", "api", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["name"], &json["restarts"]), (&"api".into(), &1.into()));
    assert!(
        json["instances"][0]["last_exit_unix_ms"].as_u64()
            > json["instances"][0]["started_unix_ms"].as_u64().map(|at| at - 60_000)
    );
    let unknown = world.ctl(&["status", "apo"]);
    assert_eq!(unknown.code, 5);
    assert!(unknown.stderr.contains("there is no service `apo`; there are: api"), "{unknown:?}");
    world.down();
}

#[test]
fn restarts_belong_to_the_release_and_outlive_instances_and_managers() {
    let (mut world, repo) = one();
    crash(&world, 1);
    crash(&world, 2);
    let before = world.service("api").instances[0].id.clone();
    assert_eq!(world.ctl(&["restart", "api"]).code, 0);
    let api = world.service("api");
    assert_ne!(api.instances[0].id, before);
    assert_eq!((api.restarts, api.instances[0].restarts), (2, 0), "the one that is gone has left its count");
    world.kill_manager();
    world.start();
    world.applied();
    assert_eq!(world.service("api").restarts, 2);
    crash(&world, 3);
    let shim = world.service("api").instances[0].shim_pid.unwrap();
    signal(shim, Signal::SIGKILL);
    world.until("a new shim has taken over", |world| {
        world.service("api").instances[0].shim_pid.is_some_and(|now| now != shim)
    });
    assert_eq!(world.service("api").restarts, 3);
    repo.commit(&[("web.py", &web("v2"))]);
    world.serves("/", "v2");
    world.applied();
    assert_eq!(world.service("api").restarts, 0, "another release");
    assert_eq!(world.ctl(&["rollback", "api"]).code, 0);
    assert_eq!(world.service("api").restarts, 3, "the count of the release that serves again");
    world.down();
}

#[test]
fn what_is_wrong_stands_in_one_line_with_its_time_and_goes_with_its_cause() {
    let (mut world, repo) = one();
    repo.commit(&[("web.py", "raise SystemExit('cannot go on')\n")]);
    world.until("the stack is degraded", |world| world.status().stack.verdict == Verdict::Degraded);
    let page = world.ctl(&["status"]);
    assert_eq!(page.code, 6, "{page:?}");
    let first = page.stdout.lines().next().unwrap();
    assert!(first.starts_with("test version 2: degraded for "), "{first}");
    assert!(first.contains("api: ended 3 times before it was ready: exit code 1; release 1 serves on"), "{first}");
    let row = page.stdout.lines().find(|line| line.starts_with("api ")).unwrap();
    assert!(row.contains("ready") && (row.contains(" ago: ended") || row.contains("just now: ended")), "{row}");
    assert_eq!(world.ctl(&["status", "api"]).code, 6);
    let api = world.service("api");
    let since = api.last_error_unix_ms.unwrap();
    assert!(since <= world.status().at_unix_ms && api.state == ServiceState::Ready);
    assert_eq!(world.status().stack.since_unix_ms, Some(since));
    repo.commit(&[("web.py", &web("v2"))]);
    world.serves("/", "v2");
    world.applied();
    let api = world.service("api");
    assert_eq!((api.last_error, api.last_error_unix_ms), (None, None));
    world.down();
}

#[test]
fn a_service_that_stops_answering_says_so() {
    let (mut world, _repo) = one();
    let broken = world.home.join("state/services/api/data/broken");
    std::fs::write(&broken, "").unwrap();
    world.until("the service is failing", |world| world.service("api").state == ServiceState::Failing);
    let error = world.service("api").last_error.unwrap();
    assert!(error.starts_with("was ready and fails now: ") && error.contains("answers 500"), "{error}");
    world.until("its time is told", |world| world.service("api").last_error_unix_ms.is_some());
    let page = world.ctl(&["status"]);
    assert_eq!(page.code, 6);
    assert!(page.stdout.lines().next().unwrap().contains("api: was ready and fails now: "), "{page:?}");
    std::fs::remove_file(&broken).unwrap();
    world.applied();
    world.down();
}

#[test]
fn a_bad_file_at_start_is_never_called_applied() {
    let (mut world, _repo) = one();
    for _round in 0..3 {
        world.kill_manager();
        std::fs::write(&world.stack_file, "schema = 1\n").unwrap();
        world.start();
        let mut seen = Vec::new();
        world.until("the file is told to be bad", |world| {
            let status = world.status();
            seen.push(status.stack.verdict);
            status.stack.file_problem.is_some()
        });
        assert!(!seen.contains(&Verdict::Applied), "{seen:?}");
        assert_eq!(seen.last(), Some(&Verdict::Degraded));
    }
    world.down();
}

fn file(world: &World) -> Option<Status> {
    serde_json::from_slice(&std::fs::read(world.home.join("run/status.json")).ok()?).ok()
}

#[test]
fn the_last_status_lies_on_disk_and_outlives_the_manager() {
    let (mut world, _repo) = one();
    world.until("the file says applied", |world| {
        file(world)
            .is_some_and(|status| status.stack.verdict == Verdict::Applied && status.stack.applied_version.is_some())
    });
    let path = world.home.join("run/status.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let written = file(&world).unwrap();
    assert_eq!(
        (written.services[0].cpu_millicores, &written.host),
        (None, &None),
        "what changes by itself is left out"
    );
    assert_eq!(written.services[0].instances[0].pid, world.service("api").instances[0].pid);
    // Three probes and as many looks at usage later nothing has happened.
    let start = Instant::now();
    world.until("three seconds have passed", |world| {
        world.status();
        start.elapsed() > Duration::from_secs(3)
    });
    assert_eq!(file(&world).unwrap(), written);
    crash(&world, 1);
    world.until("the restart is in the file", |world| {
        file(world).is_some_and(|status| status.services[0].restarts == 1)
    });
    world.until("it is ready in the file", |world| file(world).is_some_and(|status| status.services[0].ready == 1));
    world.kill_manager();
    let left = file(&world).unwrap();
    assert!(left.at_unix_ms > written.at_unix_ms);
    assert_eq!((left.services[0].restarts, left.stack.verdict), (1, Verdict::Applied));
    world.start();
    world.until("the next manager writes on", |world| {
        file(world).is_some_and(|status| status.agent.pid == world.manager_pid())
    });
    world.down();
}

fn without_colours(text: &str) -> String {
    let mut plain = String::new();
    for (at, piece) in text.split('\x1b').enumerate() {
        plain.push_str(if at == 0 { piece } else { piece.split_once('m').unwrap().1 });
    }
    plain
}

#[test]
fn a_terminal_gets_colours_and_its_width_and_may_refuse_them() {
    let (mut world, _repo) = one();
    let shown = |columns: u16, env: &[(&str, &str)]| {
        let (code, text) = Terminal::run(&mut ctl(&world, &["status"], env), columns, 40).ended();
        assert_eq!(code, Some(0), "{text}");
        text
    };
    world.until("it has been looked at", |world| world.service("api").memory_bytes.is_some());
    let narrow = without_colours(&shown(80, &[("TERM", "xterm")]));
    let table: Vec<&str> =
        narrow.lines().filter(|line| line.starts_with("SERVICE") || line.starts_with("api ")).collect();
    assert!(table.iter().all(|line| line.chars().count() <= 80), "{table:?}");
    assert!(!table[0].contains("LAST ERROR") && table[0].contains("URL"), "{table:?}");
    let text = shown(100, &[("TERM", "xterm")]);
    assert!(text.contains("\x1b[32mready\x1b[0m"), "{text}");
    let plain = without_colours(&text);
    let table: Vec<&str> =
        plain.lines().filter(|line| line.starts_with("SERVICE") || line.starts_with("api ")).collect();
    assert_eq!(table.len(), 2);
    assert!(table.iter().all(|line| line.chars().count() <= 100), "{table:?}");
    assert!(table[1].contains('…'), "the URL gave way: {table:?}");
    let grey = shown(100, &[("TERM", "xterm"), ("NO_COLOR", "1")]);
    assert!(!grey.contains('\x1b') && grey.contains('…'), "{grey}");
    let dumb = shown(100, &[("TERM", "dumb")]);
    assert!(!dumb.contains('\x1b') && dumb.contains(&format!("http://127.0.0.1:{}/", world.port)), "{dumb}");
    world.down();
}

#[test]
fn a_watch_draws_in_place_and_leaves_the_terminal_as_it_was() {
    let (mut world, _repo) = one();
    let mut terminal = Terminal::run(&mut ctl(&world, &["status", "--watch"], &[("TERM", "xterm")]), 120, 12);
    let seen = terminal.until("the page is drawn twice", |seen| seen.matches("\x1b[H").count() >= 2);
    assert!(seen.starts_with("\x1b[?1049h"), "{seen:?}");
    for page in seen.split("\x1b[H").skip(1) {
        assert!(page.matches("\r\n").count() < 12, "no page is taller than the window: {page:?}");
    }
    assert_eq!(world.ctl(&["stop", "api"]).code, 0);
    terminal.until("the stop is seen", |seen| seen.contains("stopped"));
    world.kill_manager();
    terminal.until("the manager is missed", |seen| seen.contains("what follows is old: no agentd runs on this home"));
    world.start();
    terminal
        .until("it is back", |seen| seen.rsplit("\x1b[H").next().is_some_and(|page| page.contains("stopped by hand")));
    signal(terminal.pid(), Signal::SIGINT);
    let (code, rest) = terminal.ended();
    assert_eq!(code, Some(0));
    assert!(rest.ends_with("\x1b[?25h\x1b[?1049l"), "{rest:?}");
    world.down();
}

#[test]
fn a_piped_watch_tells_changes_alone() {
    let (mut world, _repo) = one();
    let path = world.dir().join("watched");
    let sink = std::fs::File::create(&path).unwrap();
    let mut child =
        ctl(&world, &["status", "--watch", "--json"], &[]).stdin(Stdio::null()).stdout(sink).spawn().unwrap();
    let told = || std::fs::read_to_string(&path).unwrap();
    world.until("the first line", |_| told().ends_with('\n'));
    let start = Instant::now();
    world.until("three seconds have passed", |_| start.elapsed() > Duration::from_secs(3));
    assert_eq!(told().lines().count(), 1, "{}", told());
    assert_eq!(world.ctl(&["stop", "api"]).code, 0);
    world.until("the stop is told", |_| told().lines().last().is_some_and(|line| line.contains("\"stopped\"")));
    for line in told().lines() {
        serde_json::from_str::<Status>(line).unwrap();
    }
    signal(child.id(), Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    world.down();
    let gone = world.ctl(&["status", "--watch"]);
    assert_eq!(gone.code, 4, "{gone:?}");
}
