//! A control server with a certificate of an authority that the system does not know.

use std::process::Command;

use agentd_protocol::api::ControlLink;
use agentd_tests::{Controld, World, program};

#[test]
fn a_private_authority_is_trusted_where_a_person_names_it() {
    let (mut world, (mut server, authority)) = (World::new(), Controld::start_with_tls());
    server.ask(&["stack", "create", "shop"]);
    let join_string = server.join_string("shop");
    let untrusted = world.join(&join_string);
    assert!(untrusted.code == 4 && untrusted.stderr.contains("certificate"), "{untrusted:?}");
    let output = Command::new(program("agentd"))
        .args(["join", &join_string, "--ca-file"])
        .arg(&authority)
        .arg("--home")
        .arg(&world.home)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    world.start_joined(&[]);
    let is_connected = |world: &World| world.status().control.expect("joined").link == ControlLink::Connected;
    world.until("connected", is_connected);
    // The authority is part of the identity: the file may go, and both may start anew.
    std::fs::remove_file(authority).unwrap();
    server.kill();
    world.until("missed", |world| !is_connected(world));
    world.kill_manager();
    server.start_again();
    world.start_joined(&[]);
    world.until("connected", is_connected);
    world.down();
}
