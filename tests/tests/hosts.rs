//! Services find each other by name in an /etc/hosts of their own, and a host that refuses that says so and runs them
//! all the same.

use agentd_tests::World;

/// Named in no resolver: only a hosts file can answer.
const ADDRESS: &str = "[\"127.0.0.1\"]";

fn service(name: &str, path: &str, url: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nrepo = \"{url}\"\nref = \"main\"\nrun = \"python3 web.py\"\npath = \"{path}\"\n"
    )
}

fn resolves(world: &World, name: &str) -> bool {
    world.get(&format!("/resolve?name={name}")).body.replace(' ', "") == ADDRESS
}

#[test]
fn names_come_and_go_while_a_service_runs() {
    let mut world = World::new();
    let machine = std::fs::read("/etc/hosts").unwrap();
    let repo = world.web_repo("api", "v1");
    let (api, other) = (service("api", "/", &repo.url()), service("other", "/other", &repo.url()));
    world.stack(&api);
    world.start();
    let status = world.applied();
    let first = status.services[0].instances[0].pid;
    let refused: Vec<_> = status.limitations.iter().filter(|said| said.contains("in /etc/hosts")).collect();
    if let Some(said) = refused.first() {
        assert!(said.contains("to cure it:"), "{said}");
        assert_eq!(world.get("/hosts").body.as_bytes(), machine);
        return world.down();
    }
    for name in ["api.svc.internal", "api", "localhost"] {
        assert!(world.get(&format!("/resolve?name={name}")).body.contains("127.0.0.1"), "{name}");
    }
    let seen = world.get("/hosts").body;
    assert!(seen.as_bytes().starts_with(&machine) && !seen.contains("other"), "{seen}");

    world.stack(&format!("{api}{other}"));
    world.until("the new service's name comes", |world| world.get("/hosts").body.contains("other"));
    for name in ["other.svc.internal", "other"] {
        assert!(resolves(&world, name), "{name}: {}", world.get("/hosts").body);
    }
    world.applied();
    world.kill_manager();
    world.start();
    assert!(resolves(&world, "other.svc.internal") && resolves(&world, "api"), "{}", world.get("/hosts").body);

    world.stack(&api);
    world.until("the name vanishes", |world| !world.get("/hosts").body.contains("other"));
    assert!(resolves(&world, "api.svc.internal"));
    assert_eq!(world.applied().services[0].instances[0].pid, first, "it ran on all the time");
    assert_eq!(std::fs::read("/etc/hosts").unwrap(), machine, "the machine's own is as before");
    world.down();
}
