//! Faults of the home: its database, its owner, its path.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use agentd_tests::{World, program};

use super::{good, healthy, says, undisturbed};

/// `nobody` on every distribution.
const NOBODY: u32 = 65_534;

fn database(world: &World) -> PathBuf {
    world.home.join("state/agentd.db")
}

#[test]
fn a_database_that_is_none_is_refused_and_left_alone() {
    let mut world = healthy();
    world.kill_manager();
    let whole = std::fs::read(database(&world)).unwrap();
    std::fs::write(database(&world), b"a shopping list, not a database").unwrap();
    let run = world.run_to_end(&[]);
    assert_eq!(run.code, 8, "{run:?}");
    says(&run.stderr, &["agentd.db", "not readable", "left untouched", "services run on"]);
    assert_eq!(std::fs::read(database(&world)).unwrap(), b"a shopping list, not a database");
    undisturbed(&world);
    std::fs::write(database(&world), whole).unwrap();
    world.start();
    world.applied();
    undisturbed(&world);
    world.down();
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let mut world = healthy();
    world.kill_manager();
    let schema = |number: u32| {
        let connection = rusqlite::Connection::open(database(&world)).unwrap();
        let before: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        connection.pragma_update(None, "user_version", number).unwrap();
        before
    };
    let known = schema(9999);
    let before = std::fs::read(database(&world)).unwrap();
    let run = world.run_to_end(&[]);
    assert_eq!(run.code, 8, "{run:?}");
    says(&run.stderr, &["schema 9999", "newer version", "run that version"]);
    assert_eq!(std::fs::read(database(&world)).unwrap(), before);
    undisturbed(&world);
    schema(known);
    world.start();
    world.applied();
    world.down();
}

#[test]
fn a_home_that_cannot_be_written_is_named() {
    let world = World::new();
    world.stack(&good(&world));
    std::fs::set_permissions(&world.stack_file, Permissions::from_mode(0o644)).unwrap();
    std::fs::create_dir(&world.home).unwrap();
    std::fs::set_permissions(&world.home, Permissions::from_mode(0o555)).unwrap();
    // The target folder may lie where a plain user cannot go.
    let agentd = world.dir().join("agentd");
    std::fs::copy(program("agentd"), &agentd).unwrap();
    let mut command = Command::new(agentd);
    command.args(["run", "--stack"]).arg(&world.stack_file).arg("--home").arg(&world.home).stdin(Stdio::null());
    if nix::unistd::geteuid().is_root() {
        // No mode stops root.
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(8), "{said}");
    says(&said, &[&world.home.display().to_string(), "cannot be used", "--home you may write to", "ermission denied"]);
    assert!(world.processes().is_empty());
}

#[test]
fn a_home_that_is_a_file_is_named() {
    let world = World::new();
    world.stack(&good(&world));
    std::fs::write(&world.home, "").unwrap();
    let run = world.run_to_end(&[]);
    assert_eq!(run.code, 8, "{run:?}");
    says(&run.stderr, &["home", "cannot be used"]);
}

#[test]
fn a_second_manager_on_one_home_gives_way() {
    let mut world = healthy();
    let second = world.run_to_end(&[]);
    assert_eq!(second.code, 7, "{second:?}");
    let pid = world.manager_pid();
    says(&second.stderr, &[&format!("pid {pid}"), &world.home.display().to_string(), "agentctl"]);
    undisturbed(&world);
    assert_eq!(world.status().agent.pid, pid);
    assert_eq!(world.ctl(&["restart", "good"]).code, 0, "the first still works");
    undisturbed(&world);
    world.down();
}

#[test]
fn a_home_far_beyond_a_sockets_path_works_in_full() {
    let mut world = World::at(&["deep".repeat(15).as_str(); 5].join("/"));
    assert!(world.home.as_os_str().len() > 300);
    world.stack(&good(&world));
    world.start();
    world.applied();
    undisturbed(&world);
    world.kill_manager();
    undisturbed(&world);
    world.start();
    assert_eq!(world.ctl(&["restart", "good"]).code, 0);
    undisturbed(&world);
    world.down();
}
