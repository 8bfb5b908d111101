//! Faults of env_file, and that no value of a variable is ever told.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use agentd_protocol::api::DeployPhase;
use agentd_tests::{World, web};

use super::{good, healthy, says, service, trouble, undisturbed};

const SECRET: &str = "hunter2-of-the-file";
const ENTRY_SECRET: &str = "hunter3-of-the-entry";

fn env_file(world: &World) -> PathBuf {
    world.dir().join("bad.env")
}

fn write(world: &World, text: &str, mode: u32) {
    std::fs::write(env_file(world), text).unwrap();
    std::fs::set_permissions(env_file(world), Permissions::from_mode(mode)).unwrap();
}

/// A service `bad` with an env_file, beside the healthy one.
fn stack(world: &World) {
    let repo = world.repo("bad");
    let tells = "print(\"it is\", os.environ[\"FILE_SECRET\"], os.environ[\"ENTRY_SECRET\"], flush=True)\n\nmain()";
    let (start, _) = web("b1").rsplit_once("main()").map(|(start, end)| (start.to_owned(), end.to_owned())).unwrap();
    repo.commit(&[("web.py", &(start + tells))]);
    let more = format!(
        "strip_prefix = true\nenv = {{ ENTRY_SECRET = \"{ENTRY_SECRET}\" }}\nenv_file = \"{}\"",
        env_file(world).display()
    );
    world.stack(&(good(world) + &service("bad", &repo.url(), &more)));
}

/// Without an edit: the file alone is mended.
fn mended(world: &World) {
    world.serves("/bad", "b1");
    world.applied();
    assert_eq!(world.get("/bad/env").json()["FILE_SECRET"], SECRET);
    undisturbed(world);
    untold(world);
    let logs = world.ctl(&["logs", "bad"]);
    says(&logs.stdout, &["it is [masked FILE_SECRET] [masked ENTRY_SECRET]"]);
}

fn good_text() -> String {
    format!("FILE_SECRET={SECRET}\n")
}

/// No value anywhere: not in what is shown, not in the log, not in the documents of the store.
#[track_caller]
fn untold(world: &World) {
    let mut told = vec![
        ("log", std::fs::read_to_string(world.dir().join("manager.log")).unwrap()),
        ("own log", std::fs::read_to_string(world.home.join("log/agentd.log")).unwrap()),
    ];
    let stack = world.stack_file.to_str().unwrap();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["plan"],
        &["plan", "--json"],
        &["plan", stack],
        &["check", stack],
        &["check", "--json", stack],
        &["logs", "bad"],
        &["logs", "bad", "--json"],
        &["logs", "agentd", "--since", "1h"],
        &["logs", "edge"],
    ] {
        let ran = world.ctl(arguments);
        told.push(("agentctl", ran.stdout + &ran.stderr));
    }
    told.push(("versions", tables(world)));
    for (place, text) in told {
        for secret in [SECRET, ENTRY_SECRET] {
            assert!(!text.contains(secret), "{place} tells a secret: {text}");
        }
    }
}

/// Every table but the one that is made for values.
fn tables(world: &World) -> String {
    use rusqlite::OpenFlags;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(world.home.join("state/agentd.db"), flags).unwrap();
    let mut names = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let names: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(names.iter().any(|name| name == "versions"), "{names:?}");
    let mut text = String::new();
    for name in names.iter().filter(|name| *name != "env_objects") {
        let mut statement = connection.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let cells = (0..columns).map(|at| format!("{:?}", row.get_ref(at).unwrap().as_str().unwrap_or_default()));
            text.extend(cells);
        }
    }
    assert!(text.contains("ENTRY_SECRET"), "names are kept: {text}");
    text
}

#[test]
fn a_missing_file_is_named_and_its_coming_is_enough() {
    let mut world = healthy();
    stack(&world);
    let problem = trouble(&world, &["env_file", "bad.env", "cannot be read", "No such file"]);
    assert_eq!(problem.phase, DeployPhase::Document);
    write(&world, &good_text(), 0o600);
    mended(&world);
    world.down();
}

#[test]
fn a_file_that_others_may_read_is_refused_until_chmod() {
    let mut world = healthy();
    write(&world, &good_text(), 0o644);
    stack(&world);
    trouble(&world, &["env_file", "bad.env", "can be read by others", "chmod 600"]);
    untold(&world);
    write(&world, &good_text(), 0o600);
    mended(&world);
    world.down();
}

#[test]
fn a_file_that_breaks_later_fails_the_restart_and_not_the_service() {
    let mut world = healthy();
    write(&world, &good_text(), 0o600);
    stack(&world);
    mended(&world);
    let pid = world.service("bad").instances[0].pid;
    write(&world, &good_text(), 0o640);
    let restarted = world.ctl(&["restart", "bad"]);
    assert_eq!(restarted.code, 1, "{restarted:?}");
    says(&restarted.stderr, &["env_file", "can be read by others", "chmod 600"]);
    trouble(&world, &["can be read by others"]);
    assert_eq!(world.get("/bad").status, 200);
    assert_eq!(world.service("bad").instances[0].pid, pid, "the old program was left alone");
    write(&world, &good_text(), 0o600);
    world.until("the restart is made up for", |world| {
        let instances = world.service("bad").instances;
        instances.len() == 1 && instances[0].ready && instances[0].pid != pid
    });
    mended(&world);
    world.down();
}

#[test]
fn a_program_that_tells_its_secrets_as_it_dies_is_not_quoted_with_them() {
    let mut world = healthy();
    let repo = world.repo("bad");
    let dies =
        "import os, sys\nsys.exit('cannot log in with ' + os.environ['FILE_SECRET'] + os.environ['ENTRY_SECRET'])\n";
    repo.commit(&[("dies.py", dies)]);
    write(&world, &good_text(), 0o600);
    let more = format!(
        "run = \"python3 dies.py\"\nenv = {{ ENTRY_SECRET = \"{ENTRY_SECRET}\" }}\nenv_file = \"{}\"",
        env_file(&world).display()
    );
    world.stack(&(good(&world) + &service("bad", &repo.url(), &more)));
    let problem = trouble(&world, &["before it was ready"]);
    let quoted = "cannot log in with [masked FILE_SECRET][masked ENTRY_SECRET]";
    assert!(problem.log_tail.iter().any(|line| line == quoted), "{problem:?}");
    untold(&world);
    world.down();
}

#[test]
fn a_bad_line_is_named_by_number_and_never_quoted() {
    let mut world = healthy();
    write(&world, &format!("GOOD=1\n{SECRET}\n"), 0o600);
    stack(&world);
    trouble(&world, &["env_file", "bad.env", "line 2", "NAME=value"]);
    untold(&world);
    write(&world, &format!("GOOD=1\n1{SECRET}={SECRET}\n"), 0o600);
    trouble(&world, &["bad.env", "line 2", "digit"]);
    untold(&world);
    write(&world, &good_text(), 0o600);
    mended(&world);
    world.down();
}

#[test]
fn a_wrong_type_under_env_is_named_without_its_value() {
    let mut world = healthy();
    let bad = service("bad", "file:///srv/none", &format!("env = {{ KEY = [\"{ENTRY_SECRET}\"] }}"));
    world.stack(&(good(&world) + &bad));
    let checked = world.ctl(&["check", world.stack_file.to_str().unwrap()]);
    assert_eq!(checked.code, 3);
    says(&checked.stdout, &["KEY"]);
    assert!(!(checked.stdout + &checked.stderr).contains(ENTRY_SECRET));
    world.until("it is refused", |world| world.status().stack.file_problem.is_some());
    let problem = world.status().stack.file_problem.unwrap();
    assert!(!problem.contains(ENTRY_SECRET), "{problem}");
    says(&problem, &["KEY"]);
    // A torn line, which a parser would like to quote.
    let torn = service("bad", "file:///srv/none", &format!("env = {{ KEY = \"{ENTRY_SECRET} }}"));
    world.stack(&(good(&world) + &torn));
    world.until("it is refused", |world| world.status().stack.file_problem.is_some_and(|told| told != problem));
    let problem = world.status().stack.file_problem.unwrap();
    assert!(!problem.contains(ENTRY_SECRET), "{problem}");
    let log = std::fs::read_to_string(world.dir().join("manager.log")).unwrap();
    assert!(!log.contains(ENTRY_SECRET), "{log}");
    undisturbed(&world);
    world.down();
}
