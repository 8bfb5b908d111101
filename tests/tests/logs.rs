//! `agentctl logs` (README, "Logs"): what services wrote, followed over everything that happens to them.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use agentd_protocol::api::ServiceState;
use agentd_tests::{World, program};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Longest wait for a word of a followed log.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// A service that says its version, and whatever a request's path ends with: to stderr where that begins with `err`.
const TALKS: &str = r#"import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        word = self.path.rsplit("/", 1)[-1]
        if word == "die":
            os._exit(5)
        text = "told " + os.environ[word[5:]] if word.startswith("tell-") else "said " + word
        print(text, file=sys.stderr if word.startswith("err") else sys.stdout, flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
print("version VERSION_MARK starts", flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn talks(version: &str) -> String {
    TALKS.replace("VERSION_MARK", version)
}

fn service(world: &World, more: &str) -> String {
    let repo = format!("file://{}", world.dir().join("repos/api").display());
    format!(
        "[[service]]\nname = \"api\"\nrepo = \"{repo}\"\nref = \"main\"\nrun = \"python3 talks.py\"\npath = \"/api\"\n\
         drain = \"1s\"\n{more}\n"
    )
}

/// A world whose one service talks.
fn talking(more: &str) -> World {
    let mut world = World::new();
    world.repo("api").commit(&[("talks.py", &talks("v1"))]);
    world.stack(&service(&world, more));
    world.start();
    world.applied();
    world
}

/// Makes the service write these words, one after the other: the two streams keep their order only then.
fn say(world: &World, words: &[&str]) {
    world.until("it has said that it starts", |world| written(world) > 0);
    for word in words {
        let before = written(world);
        assert_eq!(world.get(&format!("/api/{word}")).status, 200);
        world.until("the word is written", |world| written(world) > before);
    }
}

/// Lines on disk.
fn written(world: &World) -> usize {
    let folders = std::fs::read_dir(world.home.join("log/api")).unwrap();
    let logs = folders.filter_map(|folder| std::fs::read_to_string(folder.unwrap().path().join("00000000.log")).ok());
    logs.map(|log| log.lines().count()).sum()
}

#[track_caller]
fn logs(world: &World, arguments: &[&str]) -> String {
    let all: Vec<&str> = ["logs", "api"].into_iter().chain(arguments.iter().copied()).collect();
    let ran = world.ctl(&all);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout
}

/// Waits until the logs read so: a shim takes a moment to write what its program said.
#[track_caller]
fn reads(world: &World, arguments: &[&str], expected: &str) {
    let mut seen = String::new();
    let start = std::time::Instant::now();
    while start.elapsed() < LIMIT {
        seen = logs(world, arguments);
        if seen == expected {
            return;
        }
        std::thread::park_timeout(POLL);
    }
    assert_eq!(seen, expected, "{arguments:?}");
}

/// `agentctl logs -f` as a process, its output as it comes.
struct Follower {
    child: Child,
    stdout: ChildStdout,
    seen: String,
}

impl Follower {
    fn start(world: &World, arguments: &[&str]) -> Self {
        let mut child = Command::new(program("agentctl"))
            .arg("--home")
            .arg(&world.home)
            .args(["logs", "-f"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        Self { child, stdout, seen: String::new() }
    }

    /// Takes in what comes next; `false` at the end.
    #[track_caller]
    fn takes(&mut self) -> bool {
        let limit = PollTimeout::try_from(LIMIT).unwrap();
        let ready = poll(&mut [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)], limit).unwrap();
        assert!(ready > 0, "nothing came within {LIMIT:?} after:\n{}", self.seen);
        let mut bytes = [0; 4096];
        let count = self.stdout.read(&mut bytes).unwrap();
        self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        count > 0
    }

    #[track_caller]
    fn sees(&mut self, words: &str) {
        while !self.seen.contains(words) {
            assert!(self.takes(), "no `{words}` in:\n{}", self.seen);
        }
    }

    /// Ctrl-C, or the program's own end; the exit code and all it said.
    fn ends(mut self, signal: Option<Signal>) -> (Option<i32>, String) {
        if let Some(signal) = signal {
            kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        }
        while self.takes() {}
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait(); // the same
    }
}

#[test]
fn lines_are_shown_with_their_stream_and_time_and_can_be_narrowed_down() {
    let mut world = talking("");
    say(&world, &["one", "err-two"]);
    reads(&world, &[], "version v1 starts\nsaid one\nsaid err-two\n");
    assert_eq!(logs(&world, &["-n", "1"]), "said err-two\n");
    assert_eq!(logs(&world, &["-n", "0"]), "");
    let records: Vec<Value> =
        logs(&world, &["--json", "-n", "2"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let instance = world.service("api").instances[0].id.to_string();
    let told = |record: &Value| (record["stream"].clone(), record["text"].clone(), record["instance"].clone());
    assert_eq!(told(&records[0]), ("stdout".into(), "said one".into(), instance.clone().into()));
    assert_eq!(told(&records[1]), ("stderr".into(), "said err-two".into(), instance.clone().into()));
    let since = records[1]["at_unix_ms"].as_i64().unwrap() + 1;
    let stamped = logs(&world, &["-t", "-n", "1"]);
    let moment = stamped.split(' ').next().unwrap().to_owned();
    assert!(moment.ends_with('Z') && moment.contains('T'), "{stamped}");
    // The next line comes a millisecond later at least.
    let later = jiff::Timestamp::from_millisecond(since).unwrap();
    world.until("time goes on", |_| later <= jiff::Timestamp::now());
    say(&world, &["three"]);
    reads(&world, &["--since", &later.to_string()], "said three\n");
    assert_eq!(logs(&world, &["--since", "1h"]).lines().count(), 4);
    assert_eq!(logs(&world, &["--since", "1h", "-n", "1"]), "said three\n");
    assert_eq!(logs(&world, &["--instance", &instance[..4], "--release", "1", "-n", "1"]), "said three\n");
    assert_eq!(logs(&world, &["--release", "9"]), "");
    world.down();
}

#[test]
fn following_goes_on_over_a_crash_a_deploy_and_a_new_manager() {
    let mut world = talking("");
    let mut follower = Follower::start(&world, &["api"]);
    follower.sees("version v1 starts\n");
    say(&world, &["hello"]);
    follower.sees("said hello\n");
    // The connection is cut by the crash.
    let _ = world.try_get("/api/die");
    world.until("it is up again", |world| world.try_get("/api/back").is_ok_and(|answer| answer.status == 200));
    follower.sees("said back\n");
    assert_eq!(follower.seen.matches("version v1 starts").count(), 2, "{}", follower.seen);
    agentd_tests::Repo { dir: world.dir().join("repos/api") }.commit(&[("talks.py", &talks("v2"))]);
    follower.sees("| version v2 starts\n");
    world.applied();
    let instance = world.service("api").instances[0].id.to_string();
    world.kill_manager();
    say(&world, &["alone", "err-alone"]);
    world.start();
    say(&world, &["err-together"]);
    follower.sees(&format!("{} | said err-together\n", &instance[..6]));
    let (code, seen) = follower.ends(Some(Signal::SIGINT));
    assert_eq!(code, Some(0));
    for once in ["said alone", "said err-alone", "said err-together", "version v2 starts"] {
        assert_eq!(seen.matches(once).count(), 1, "`{once}` in:\n{seen}");
    }
    world.down();
}

#[test]
fn a_follower_whose_manager_does_not_come_back_says_so() {
    let mut world = talking("");
    let mut follower = Follower::start(&world, &["api"]);
    follower.sees("version v1 starts\n");
    world.down();
    assert_eq!(follower.ends(None).0, Some(4));
}

#[test]
fn a_builds_output_is_shown_also_while_it_runs_and_after_it_failed() {
    let mut world = World::new();
    let repo = world.repo("api");
    repo.commit(&[("talks.py", &talks("v1"))]);
    let gate = world.dir().join("gate");
    let build = format!(
        "build = \"echo building one; while [ ! -e {} ]; do sleep 0.05; done; echo built one\"\n",
        gate.display()
    );
    world.stack(&service(&world, &build));
    world.start();
    world.until("the build runs", |world| world.ctl(&["logs", "api", "--build"]).stdout.contains("building one\n"));
    let mut follower = Follower::start(&world, &["api", "--build"]);
    follower.sees("building one\n");
    std::fs::write(&gate, "").unwrap();
    let (code, seen) = follower.ends(None);
    assert_eq!((code, seen.as_str()), (Some(0), "building one\nbuilt one\n"), "it ends with the build");
    world.applied();
    reads(&world, &[], "version v1 starts\n");
    world.stack(&service(&world, "build = \"echo no way; exit 3\""));
    world.until("the build has failed", |world| world.service("api").last_error.is_some());
    reads(&world, &["--build"], "no way\n");
    assert_eq!(logs(&world, &["--build", "1"]), "building one\nbuilt one\n");
    let none = world.ctl(&["logs", "api", "--build", "9"]);
    assert_eq!(none.code, 5, "{none:?}");
    world.down();
}

#[test]
fn the_agents_own_logs_are_there_and_an_unknown_name_tells_the_known_ones() {
    let mut world = talking("");
    let agent = world.ctl(&["logs", "agentd", "--since", "1h"]);
    assert!(agent.code == 0 && agent.stdout.contains("agentd runs"), "{agent:?}");
    let none = world.ctl(&["logs", "agentd", "--since", "2100-01-01T00:00:00Z"]);
    assert_eq!((none.code, none.stdout.as_str()), (0, ""));
    let edge = world.ctl(&["logs", "edge"]);
    assert_eq!(edge.code, 0, "{edge:?}");
    let unknown = world.ctl(&["logs", "nobody"]);
    assert_eq!(unknown.code, 5, "{unknown:?}");
    assert!(unknown.stderr.contains("`nobody`") && unknown.stderr.contains("api, edge, agentd"), "{unknown:?}");
    assert_eq!(world.ctl(&["logs", "no/body"]).code, 5);
    let stranger = world.ctl(&["logs", "api", "--instance", "zz"]);
    let id = world.service("api").instances[0].id.to_string();
    assert!(stranger.code == 5 && stranger.stderr.contains(&id), "{stranger:?}");
    assert_eq!(world.ctl(&["logs", "api", "--since", "yesterday"]).code, 2);
    world.down();
}

#[test]
fn secrets_are_masked_in_what_is_shown_and_stay_on_disk_as_written() {
    let mut world = World::new();
    world.repo("api").commit(&[("talks.py", &talks("v1"))]);
    let env_file = world.dir().join("secret.env");
    std::fs::write(&env_file, "FILE_SECRET=hunter2-of-the-file\nLOG_LEVEL=version\n").unwrap();
    std::fs::set_permissions(&env_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let env = format!(
        "env = {{ DB_URL = \"postgres://shop:geheim%211@db/shop\", MODE = \"production\" }}\nenv_file = \"{}\"",
        env_file.display()
    );
    world.stack(&service(&world, &env));
    world.start();
    world.applied();
    let mut follower = Follower::start(&world, &["api"]);
    say(&world, &["tell-FILE_SECRET", "tell-DB_URL", "tell-MODE", "geheim%211"]);
    let shown =
        "version v1 starts\ntold [masked FILE_SECRET]\ntold [masked DB_URL]\ntold production\nsaid [masked DB_URL]\n";
    reads(&world, &[], shown);
    follower.sees(shown);
    assert!(!logs(&world, &["--json"]).contains("hunter2"));
    let dir = world.service("api").instances[0].log_dir.clone();
    let written = std::fs::read_to_string(format!("{dir}/00000000.log")).unwrap();
    assert!(written.contains("told hunter2-of-the-file\n"), "{written}");
    // After a restart of the manager the file's value is known from the store alone.
    std::fs::remove_file(&env_file).unwrap();
    world.kill_manager();
    world.start();
    assert_eq!(logs(&world, &[]), shown);
    world.down();
}

#[test]
fn logs_outlive_the_service_until_it_is_pruned() {
    let mut world = talking("");
    say(&world, &["last"]);
    world.stack("");
    world.until("it has left", |world| world.service("api").state == ServiceState::Removed);
    reads(&world, &[], "version v1 starts\nsaid last\n");
    assert_eq!(world.ctl(&["prune", "api"]).code, 0);
    assert_eq!(world.ctl(&["logs", "api"]).code, 5);
    assert!(!world.home.join("log/api").exists());
    world.down();
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let mut world = talking("");
    let line = format!(
        "{} --home {} logs api -f | head -n 1; echo ${{PIPESTATUS[0]}}",
        program("agentctl").display(),
        world.home.display()
    );
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(told, "version v1 starts\n0\n", "it ends though nothing more is written");
    world.down();
    let mut world = World::new();
    let loud = "print(\"\\n\".join(str(number) for number in range(200000)), flush=True)\n";
    world.repo("api").commit(&[("talks.py", &(loud.to_owned() + &talks("v1")))]);
    world.stack(&service(&world, ""));
    world.start();
    world.applied();
    world.until("all is written", |world| logs(world, &["-n", "1"]) == "version v1 starts\n");
    let all = logs(&world, &["--since", "1h"]);
    assert_eq!(all.lines().count(), 200_001);
    assert!(all.lines().take(200_000).enumerate().all(|(at, line)| line == at.to_string()), "none is lost or doubled");
    assert_eq!(logs(&world, &["-n", "150000"]).lines().count(), 100_000, "more is asked for by time");
    for flag in ["--json", "-f"] {
        let line = format!(
            "{} --home {} logs api --since 1h {flag} | head -n 3 | wc -l; echo ${{PIPESTATUS[0]}}",
            program("agentctl").display(),
            world.home.display()
        );
        let output = Command::new("bash").args(["-c", &line]).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!((stdout.trim(), &*stderr), ("3\n0", ""), "{flag}");
    }
    world.down();
}
