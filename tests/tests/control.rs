//! A real agentd that follows a control server of the test's: joins, reports, applies, leaves.

use std::io::Write;
use std::process::{Command, Stdio};

use agentd_protocol::api::{ControlLink, ControlStatus};
use agentd_protocol::ids::Version;
use agentd_protocol::stack::Stack;
use agentd_protocol::validate::validate;
use agentd_tests::fake_control::{FakeControl, Fault};
use agentd_tests::{Ran, Repo, World, program};
use serde_json::json;

fn agentd(world: &World, arguments: &[&str], stdin: &str) -> Ran {
    let mut command = Command::new(program("agentd"));
    command.args(arguments).arg("--home").arg(&world.home);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn joined(world: &World, fake: &FakeControl) {
    world.settle();
    let ran = agentd(world, &["join", "--name", "web-1"], &fake.join_string());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("joined http://127.0.0.1") && ran.stderr.contains("as web-1"), "{ran:?}");
}

fn stack(world: &World, repo: &Repo, extra: serde_json::Value) -> Stack {
    let mut service = json!({
        "name": "web", "repo": repo.url(), "commit": repo.head(), "run": "exec python3 web.py", "path": "/",
        "health": { "path": "/" }, "drain": "0s", "env": { "SECRET_WORD": "hunter2hunter2" },
    });
    service.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let tree = json!({
        "schema": 1, "stack": { "name": "shop", "poll_interval": "2s" }, "proxy": { "port": world.port },
        "service": [service],
    });
    validate(&tree).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn control(world: &World) -> ControlStatus {
    world.status().control.expect("it has joined")
}

#[test]
fn a_joined_host_runs_what_is_published_and_tells_what_happens() {
    let (mut world, fake) = (World::new(), FakeControl::start());
    let repo = world.web_repo("web", "1");
    joined(&world, &fake);
    world.start_joined(&[]);
    world.until("the host is seen", |_| fake.lock().reports.iter().any(|report| report.snapshot.is_some()));
    assert_eq!(control(&world).link, ControlLink::Connected);
    let pid = world.manager_pid();
    // Asks for a port that nobody listens on yet: it moves there by itself.
    fake.publish(&stack(&world, &repo, json!({})));
    let status = world.applied();
    assert_eq!((status.stack.version, world.manager_pid()), (Some(Version(1)), pid));
    world.serves("/", "1");
    let applied = |version| {
        let fake = fake.clone();
        move |_: &World| {
            let inner = fake.lock();
            let told = inner.reports.last().map(|report| report.head.applied);
            told == Some(Version(version)) && inner.events.values().any(|event| event.kind == "config.applied")
        }
    };
    world.until("the server knows", applied(1));
    assert!(world.ctl(&["status"]).stdout.contains("control: connected"));

    repo.commit(&[("web.py", &agentd_tests::web("2"))]);
    fake.publish(&stack(&world, &repo, json!({})));
    world.serves("/", "2");
    world.until("the server knows", applied(2));
    let sent = serde_json::to_string(&fake.lock().reports).unwrap();
    assert!(!sent.contains("hunter2"), "no value leaves the host");

    // A restart of the manager at the worst moment changes nothing, nor does a server that is away.
    fake.fault("/", Fault::Status(503), 1_000_000);
    world.kill_manager();
    world.start_joined(&[]);
    world.until("offline", |world| matches!(control(world).link, ControlLink::Offline { .. }));
    world.serves("/", "2");
    let before = fake.lock().events.len();
    assert_eq!(world.ctl(&["restart", "web"]).code, 0);
    world.until("told what waits", |world| control(world).outbox.records > 0);
    fake.mend();
    world.until("what happened meanwhile arrives", |_| {
        let inner = fake.lock();
        inner.events.len() > before && inner.events.values().any(|event| event.kind == "service.restarted")
    });

    // Taken by neither file nor another server, until it has left.
    let ran = agentd(&world, &["join"], &FakeControl::other().join_string());
    assert!(ran.code == 12 && ran.stderr.contains("agentd leave"), "{ran:?}");
    let ran = agentd(&world, &["leave", "--yes"], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    world.until("it has left", |world| world.try_status().is_ok_and(|status| status.control.is_none()));
    world.serves("/", "2");
    assert_eq!((world.manager_pid(), agentd(&world, &["leave", "--yes"], "").code), (pid_of(&world), 5));
    world.down();
}

fn pid_of(world: &World) -> u32 {
    world.status().agent.pid
}

#[test]
fn policy_of_the_host_stands_above_what_is_published() {
    let (mut world, fake) = (World::new(), FakeControl::start());
    let repo = world.web_repo("web", "1");
    joined(&world, &fake);
    let policy = world.home.join("policy.toml");
    std::fs::write(&policy, "[ports]\nfixed = [\"1-2\"]\n").unwrap();
    fake.publish(&stack(&world, &repo, json!({})));
    world.start_joined(&[]);
    world.applied();
    fake.publish(&stack(&world, &repo, json!({ "port": 3999 })));
    world.until("rejected", |world| control(world).refused.is_some());
    let refused = control(&world).refused.unwrap();
    assert_eq!((refused.kind.as_str(), refused.version), ("config.rejected", Some(Version(2))));
    assert!(refused.reasons[0].contains("service web, port 3999") && refused.reasons[0].contains("ports.fixed"));
    let ran = world.ctl(&["status"]);
    assert!(ran.code == 6 && ran.stdout.contains("version 2 is not taken"), "{ran:?}");
    let ran = world.ctl(&["doctor"]);
    assert!(ran.stdout.contains("ports.fixed"), "{ran:?}");
    world.serves("/", "1");
    // What cannot be read lets nothing new in, and names its line.
    std::fs::write(&policy, "[ports]\nfixd = []\n").unwrap();
    world.until("told by line", |world| {
        control(world).refused.is_some_and(|refused| refused.reasons[0].contains("line 2"))
    });
    std::fs::remove_file(&policy).unwrap();
    world.until("taken", |world| control(world).refused.is_none() && control(world).applied == Some(Version(2)));
    world.down();
}

#[test]
fn a_host_with_a_stack_file_is_not_taken_over() {
    let (mut world, fake) = (World::new(), FakeControl::start());
    let repo = world.web_repo("web", "1");
    world.stack(&format!(
        "[[service]]\nname = \"web\"\nrepo = \"{}\"\ncommit = \"{}\"\nrun = \"exec python3 web.py\"\npath = \"/\"\n",
        repo.url(),
        repo.head()
    ));
    world.start();
    world.applied();
    let ran = agentd(&world, &["join"], &fake.join_string());
    assert!(ran.code == 12 && ran.stderr.contains("`test`") && ran.stderr.contains("agentd leave"), "{ran:?}");
    assert_eq!(agentd(&world, &["leave", "--yes"], "").code, 7);
    world.end_manager();
    assert_eq!(agentd(&world, &["leave", "--yes"], "").code, 0);
    joined(&world, &fake);
    let ran = world.run_to_end(&[]);
    assert!(ran.code == 12 && ran.stderr.contains("`shop`") && ran.stderr.contains("agentd leave"), "{ran:?}");
    world.start_joined(&[]);
    // Numbers are the server's from now on, and what ran runs until it says otherwise.
    world.serves("/", "1");
    repo.commit(&[("web.py", &agentd_tests::web("2"))]);
    fake.publish(&stack(&world, &repo, json!({})));
    world.serves("/", "2");
    assert_eq!(world.applied().stack.version, Some(Version(1)));
    world.down();
}

#[test]
fn joining_that_fails_says_what_to_do() {
    let (world, fake) = (World::new(), FakeControl::start());
    world.settle();
    for (text, code, part) in [("hello", 2, "agj1_"), (&fake.join_string()[..60], 2, "copy it again"), ("", 2, "agj1_")]
    {
        let ran = agentd(&world, &["join", "-"], text);
        assert!(ran.code == code && ran.stderr.contains(part), "{ran:?}");
    }
    let file = world.dir().join("token");
    std::fs::write(&file, fake.join_string()).unwrap();
    let path = file.to_str().unwrap().to_owned();
    let ran = agentd(&world, &["join", "--token-file", &path], "");
    assert!(ran.code == 1 && ran.stderr.contains("chmod 600"), "{ran:?}");
    fake.revoke_token();
    let ran = agentd(&world, &["join"], &fake.join_string());
    assert!(ran.code == 11 && ran.stderr.contains("make another"), "{ran:?}");
    let mut away = fake.joining();
    away.url = "http://127.0.0.1:1".to_owned();
    let ran = agentd(&world, &["join"], away.reveal().as_str());
    assert!(ran.code == 4 && ran.stderr.contains("does not answer"), "{ran:?}");
    away.url = "http://192.0.2.1".to_owned();
    let ran = agentd(&world, &["join"], away.reveal().as_str());
    assert!(ran.code == 2 && ran.stderr.contains("--allow-plain-http"), "{ran:?}");
    let ran = agentd(&world, &["run"], "");
    assert!(ran.code == 2 && ran.stderr.contains("agentd join"), "{ran:?}");
    assert_eq!(agentd(&world, &["leave", "--yes"], "").code, 5);
}
