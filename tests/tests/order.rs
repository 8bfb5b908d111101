//! A service is started after those it depends on, and stopped after those that depend on it.

use std::fs;

use agentd_tests::World;

/// Notes when it starts, when it listens, when it is told to stop and when it has stopped: Unix time, ns.
const NOTING: &str = r#"
import http.server, os, signal, sys, time

def note(what):
    with open(os.path.join(os.environ["DATA_DIR"], what), "w") as file:
        file.write(str(time.time_ns()))

def stop(*_):
    note("told")
    time.sleep(0.5)
    note("stopped")
    sys.exit(0)

note("started")
time.sleep(1)
signal.signal(signal.SIGTERM, stop)
server = http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), http.server.SimpleHTTPRequestHandler)
note("listening")
server.serve_forever()
"#;

fn noted(world: &World, service: &str, what: &str) -> u128 {
    let file = world.home.join("state/services").join(service).join("data").join(what);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.parse().unwrap()
}

fn check_start(world: &World) {
    for (first, then) in [("db", "api"), ("api", "web")] {
        assert!(noted(world, first, "listening") < noted(world, then, "started"), "{first} before {then}");
    }
}

#[test]
fn services_come_in_order_and_go_in_the_other() {
    let mut world = World::new();
    let repo = world.repo("noting");
    repo.commit(&[("noting.py", NOTING)]);
    let service = |name: &str, on: &str| {
        let url = repo.url();
        format!(
            "[[service]]\nname = \"{name}\"\nrepo = \"{url}\"\nref = \"main\"\nrun = \"exec python3 noting.py\"\n\
             depends_on = [{on}]\n"
        )
    };
    // Neither the document's order nor the alphabet's.
    world.stack(&(service("web", "\"api\"") + &service("api", "\"db\"") + &service("db", "")));
    world.start();
    world.applied();
    check_start(&world);

    let pids = |world: &World| ["web", "db"].map(|name| world.service(name).instances[0].pid);
    let before = pids(&world);
    assert_eq!(world.ctl(&["stop", "api"]).code, 0, "one alone is stopped at once, whoever needs it");
    assert_eq!(pids(&world), before);
    assert_eq!(world.ctl(&["start", "api"]).code, 0);

    world.down();
    for (first, then) in [("web", "api"), ("api", "db")] {
        assert!(noted(&world, first, "stopped") < noted(&world, then, "told"), "{first} is gone before {then} is told");
    }
    world.start();
    world.applied();
    check_start(&world);
    world.down();
}
