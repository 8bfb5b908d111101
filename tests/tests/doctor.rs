//! `agentctl doctor` before the first start, beside a running agentd, and when things are amiss.

use std::net::TcpListener;

use agentd_tests::World;
use serde_json::Value;

/// The checks as name, verdict and text; asserts the exit code's agreement with them.
fn checks(world: &World) -> Vec<(String, String, String)> {
    let ran = world.ctl(&["doctor", "--json"]);
    let whole: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found: Vec<_> = whole["checks"].as_array().unwrap().iter().collect();
    let problems = found.iter().filter(|check| check["verdict"] == "problem").count();
    assert_eq!(whole["problems"], problems, "{whole}");
    assert_eq!(ran.code, if problems == 0 { 0 } else { 6 }, "{whole}");
    for check in &found {
        assert!(check["verdict"] == "ok" || check["name"] == "limitation" || check["cure"].is_string(), "{check}");
    }
    found.iter().map(|check| (text(&check["name"]), text(&check["verdict"]), text(&check["said"]))).collect()
}

fn is(checks: &[(String, String, String)], name: &str, verdict: &str, word: &str) -> bool {
    let found = |(its_name, its_verdict, said): &(String, String, String)| {
        its_name == name && its_verdict == verdict && said.contains(word)
    };
    checks.iter().any(found)
}

/// The host's own troubles (a full disk, say) are not the test's.
fn assert_is(checks: &[(String, String, String)], name: &str, verdict: &str, word: &str) {
    assert!(is(checks, name, verdict, word), "no {name} {verdict} with {word:?} in {checks:#?}");
}

#[test]
fn before_the_first_start_it_looks_at_host_and_ports() {
    let world = World::new();
    let found = checks(&world);
    for name in ["kernel", "git", "disk", "clock", "open files", "inotify", "instance ports"] {
        assert!(found.iter().any(|(its, ..)| its == name), "{name} in {found:#?}");
    }
    assert_is(&found, "home", "note", "not there yet");
    assert_is(&found, "agentd", "note", "does not run");

    std::fs::create_dir(&world.home).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port();
    std::fs::write(
        world.home.join("agentd.toml"),
        format!("[ports]\ninternal = {taken}\ndns = {}\ninstances = [21000, 21999]\n", world.dns_port),
    )
    .unwrap();
    let found = checks(&world);
    assert_is(&found, "internal port", "problem", &format!("taken by pid {}", std::process::id()));
    assert_is(&found, "dns port", "ok", "is free");
    assert_is(&found, "instance ports", "ok", "21000-21999");

    std::fs::write(world.home.join("agentd.toml"), "[ports\n").unwrap();
    assert_is(&checks(&world), "agentd.toml", "problem", "cannot be used");
}

#[test]
fn beside_a_running_agentd_it_asks_and_after_a_kill_it_says_what_runs_on() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&format!(
        "[[service]]\nname = \"api\"\nrepo = \"{}\"\nref = \"main\"\nrun = \"python3 web.py\"\npath = \"/\"\n",
        repo.url()
    ));
    world.start();
    let status = world.applied();
    let found = checks(&world);
    assert_is(&found, "agentd", "ok", &format!("pid {}", status.agent.pid));
    assert_is(&found, "keeper", "ok", "pid");
    assert_is(&found, "proxy", "ok", &format!("pid {}", status.edge.pid.unwrap()));
    for (name, port) in
        [("port of the proxy", world.port), ("internal port", world.internal_port), ("dns port", world.dns_port)]
    {
        assert_is(&found, name, "ok", &format!("127.0.0.1:{port} answers"));
    }
    for limitation in &status.limitations {
        assert_is(&found, "limitation", "note", limitation);
    }
    let refused = status.limitations.iter().any(|said| said.contains("in /etc/hosts"));
    assert!(is(&found, "private names", if refused { "note" } else { "ok" }, ""), "both try the same: {found:#?}");

    let page = world.ctl(&["doctor"]).stdout;
    let (lines, last) = page.trim_end().rsplit_once('\n').unwrap();
    assert!(last.contains("problem") && last.contains("note"), "{last}");
    assert!(lines.lines().any(|line| line.starts_with("ok       agentd")), "{page}");

    world.kill_manager();
    let found = checks(&world);
    assert_is(&found, "agentd", "problem", "its services run on under keeper");
    assert_is(&found, "internal port", "ok", "held by this home's proxy");
    world.start();
    world.down();
}
