//! What comes back from a backup, on either side: a control server that knows less than its hosts, and a host that knows
//! less than it did. Real programs; services run through all of it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use agentd_protocol::api::{ControlLink, ControlStatus, Readoption};
use agentd_protocol::ids::Version;
use agentd_tests::{Controld, Ran, Repo, World, program};
use serde_json::Value;

/// A host that was forgotten asks to be taken back after half a minute to a minute.
const LONG: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);

fn document(world: &World, repo: &Repo) -> String {
    format!(
        "schema = 1\n[stack]\nname = \"shop\"\npoll_interval = \"2s\"\n[proxy]\nport = {}\n[[service]]\nname = \"web\"\n\
         repo = \"{}\"\ncommit = \"{}\"\nrun = \"exec python3 web.py\"\npath = \"/\"\nhealth = {{ path = \"/\" }}\n\
         drain = \"0s\"\n",
        world.port,
        repo.url(),
        repo.head()
    )
}

fn control(world: &World) -> ControlStatus {
    world.status().control.expect("it has joined")
}

fn joined(world: &mut World, server: &Controld) {
    let ran = world.join(&server.join_string("shop"));
    assert_eq!(ran.code, 0, "{ran:?}");
    world.start_joined(&[]);
}

fn known_applied(world: &World, server: &Controld, version: u64) {
    world.until("the server knows", |_| server.ask(&["host", "list"])[0]["applied"] == version);
}

fn refused_because(world: &World, part: &str) {
    world.until(part, |world| {
        control(world).refused.is_some_and(|refused| refused.reasons.iter().any(|reason| reason.contains(part)))
    });
    let ran = world.ctl(&["status"]);
    assert!(ran.code == 6 && ran.stdout.contains(part), "{ran:?}");
}

fn events(server: &Controld) -> Vec<Value> {
    server.ask(&["events", "--limit", "500"])["events"].as_array().unwrap().clone()
}

fn leave(world: &World) -> Ran {
    let output = Command::new(program("agentd")).args(["leave", "--yes", "--home"]).arg(&world.home).output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[test]
fn a_host_that_the_backup_does_not_know_is_taken_back_by_its_receipt() {
    let (mut world, mut server) = (World::new(), Controld::start());
    let repo = world.web_repo("web", "1");
    server.ask(&["stack", "create", "shop"]);
    let backup = world.dir().join("monday");
    server.ask(&["backup", backup.to_str().unwrap()]);
    joined(&mut world, &server);
    server.publish("shop", &document(&world, &repo));
    world.serves("/", "1");
    known_applied(&world, &server, 1);
    let identity = std::fs::read(world.home.join("state/identity")).unwrap();
    let instance = world.service("web").instances[0].id.clone();

    server.restore(&backup);
    let since = Instant::now();
    let code = loop {
        let status = control(&world);
        assert_eq!(world.get("/").json()["version"], "1");
        if let Some(Readoption::Pending { code }) = status.readoption {
            break code;
        }
        assert!(since.elapsed() < LONG, "{status:#?}\n{}", server.log());
        std::thread::park_timeout(POLL);
    };
    let ran = world.ctl(&["status"]);
    assert!(ran.stdout.contains(&code) && ran.stdout.contains("controld host approve"), "{ran:?}");
    assert!(world.ctl(&["doctor"]).stdout.contains("restored from an older backup"));
    let host = control(&world).host;
    server.ask(&["host", "approve", host.as_str(), &code]);
    world.until("connected", |world| control(world).link == ControlLink::Connected);
    assert_eq!(control(&world).readoption, None);

    // It is the host it was; numbers go on above what it has seen.
    world.until("the server knows", |_| server.ask(&["stack", "list"])[0]["ahead"] == 1);
    repo.commit(&[("web.py", &agentd_tests::web("2"))]);
    let published = server.publish("shop", &document(&world, &repo));
    assert_eq!(published["number"], 2, "{published}");
    assert!(published["summary"][0].as_str().unwrap().contains("above 1, which hosts have seen"), "{published}");
    assert_eq!(world.service("web").instances[0].id, instance, "nothing was started anew until a person published");
    world.serves("/", "2");
    assert_eq!(std::fs::read(world.home.join("state/identity")).unwrap(), identity);
    world
        .until("what was lost is told", |_| events(&server).iter().any(|event| event["event"]["kind"] == "outbox.gap"));
    world.down();
}

#[test]
fn a_database_from_before_is_not_followed_back_and_counts_on() {
    let (mut world, mut server) = (World::new(), Controld::start());
    let repo = world.web_repo("web", "1");
    server.ask(&["stack", "create", "shop"]);
    joined(&mut world, &server);
    server.publish("shop", &document(&world, &repo));
    world.serves("/", "1");
    let backup = world.dir().join("monday");
    server.ask(&["backup", backup.to_str().unwrap()]);
    repo.commit(&[("web.py", &agentd_tests::web("2"))]);
    server.publish("shop", &document(&world, &repo));
    world.serves("/", "2");
    known_applied(&world, &server, 2);

    server.restore(&backup);
    refused_because(&world, "version 1 was offered, and 2 was in force");
    assert_eq!(world.get("/").json()["version"], "2");
    world.until("the server knows", |_| server.ask(&["stack", "list"])[0]["ahead"] == 2);
    repo.commit(&[("web.py", &agentd_tests::web("3"))]);
    assert_eq!(server.publish("shop", &document(&world, &repo))["number"], 3);
    world.serves("/", "3");
    world.until("nothing is refused", |world| control(world).refused.is_none());

    // Once more, and this time somebody publishes before the host has been heard.
    world.end_manager();
    server.restore(&backup);
    for number in [2, 3] {
        repo.commit(&[("web.py", &agentd_tests::web(&format!("other {number}")))]);
        assert_eq!(server.publish("shop", &document(&world, &repo))["number"], number);
    }
    world.start_joined(&[]);
    refused_because(&world, "version 3 was offered with other content than before");
    assert_eq!(world.get("/").json()["version"], "3");
    world.until("the server has heard", |_| server.ask(&["host", "list"])[0]["applied"] == 3);
    repo.commit(&[("web.py", &agentd_tests::web("4"))]);
    assert_eq!(server.publish("shop", &document(&world, &repo))["number"], 4);
    world.serves("/", "4");
    world.down();
}

#[test]
fn two_hosts_with_one_copied_state_both_serve_and_are_told_apart_by_a_person() {
    let (mut one, mut other, server) = (World::new(), World::new(), Controld::start());
    let repo = one.web_repo("web", "1");
    server.ask(&["stack", "create", "shop"]);
    joined(&mut one, &server);
    server.publish("shop", &document(&one, &repo));
    one.serves("/", "1");
    known_applied(&one, &server, 1);
    one.end_manager();
    other.settle();
    copy(&one.home.join("state"), &other.home);
    let settings = other.home.join("agentd.toml");
    let ports = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{ports}proxy = {}\n", other.port)).unwrap();
    one.start_joined(&[]);
    other.start_joined(&[]);
    let host = control(&one).host;
    one.until("the server has seen two", |_| {
        server.ask(&["host", "show", host.as_str()])["conflict_unix_ms"].is_number()
    });
    let refused = |world: &World| matches!(control(world).link, ControlLink::Refused { .. });
    one.until("one of them is refused", |one| refused(one) || refused(&other));
    one.serves("/", "1");
    other.serves("/", "1");

    // The refused one leaves: it serves on, and the other one goes on as if nothing had been.
    let (stays, leaves) = if refused(&one) { (&mut other, &mut one) } else { (&mut one, &mut other) };
    assert_eq!(leave(leaves).code, 0);
    leaves.until("it has left", |world| world.try_status().is_ok_and(|status| status.control.is_none()));
    repo.commit(&[("web.py", &agentd_tests::web("2"))]);
    server.publish("shop", &document(stays, &repo));
    stays.serves("/", "2");
    stays.until("connected", |world| control(world).link == ControlLink::Connected);
    assert_eq!(leaves.get("/").json()["version"], "1");
    leaves.down();
    stays.down();
}

#[test]
fn a_host_whose_disk_was_restored_comes_back_to_where_it_was() {
    let (mut world, server) = (World::new(), Controld::start());
    let repo = world.web_repo("web", "1");
    server.ask(&["stack", "create", "shop"]);
    joined(&mut world, &server);
    server.publish("shop", &document(&world, &repo));
    world.serves("/", "1");
    known_applied(&world, &server, 1);
    world.end_manager();
    let (state, old) = (world.home.join("state"), world.dir().join("old"));
    copy(&state, &old);
    world.start_joined(&[]);
    repo.commit(&[("web.py", &agentd_tests::web("2"))]);
    server.publish("shop", &document(&world, &repo));
    world.serves("/", "2");
    known_applied(&world, &server, 2);
    world.until("everything is told", |world| control(world).outbox.records == 0);
    let before = events(&server);
    world.down();
    std::fs::remove_dir_all(&state).unwrap();
    copy(&old, &state);

    world.start_joined(&[]);
    world.until("the newest is applied", |world| control(world).applied == Some(Version(2)));
    world.serves("/", "2");
    world.until("everything is told", |world| control(world).outbox.records == 0);
    let after = events(&server);
    let id = |event: &Value| event["event"]["eid"].as_str().unwrap().to_owned();
    let ids: std::collections::BTreeSet<String> = after.iter().map(id).collect();
    assert_eq!(ids.len(), after.len(), "none came twice");
    assert!(before.iter().all(|event| ids.contains(&id(event))) && after.len() > before.len(), "none was lost");
    assert!(server.ask(&["host", "show", control(&world).host.as_str()])["conflict_unix_ms"].is_null());
    world.down();
}
