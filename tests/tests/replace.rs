//! New releases replace old ones; what fails leaves the old one serving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use agentd_protocol::api::{DeployPhase, ServiceState, Verdict};
use agentd_tests::{World, web};

fn service(repo: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"api\"\nrepo = \"{repo}\"\nref = \"main\"\nrun = \"python3 web.py\"\npath = \"/\"\n\
         drain = \"5s\"\n{more}\n"
    )
}

const HEALTH: &str = "health = { path = \"/healthz\" }";

#[test]
fn a_new_commit_replaces_the_old_release_without_a_failed_request() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v0");
    world.stack(&service(&repo.url(), HEALTH));
    world.start();
    world.applied();
    let stop = Arc::new(AtomicBool::new(false));
    let (asked, failed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let load = {
        let (stop, asked, failed, port) = (stop.clone(), asked.clone(), failed.clone(), world.port);
        std::thread::Builder::new().name("load".into()).spawn(move || load(port, &stop, &asked, &failed)).unwrap()
    };
    for round in 1..=5 {
        repo.commit(&[("web.py", &web(&format!("v{round}")))]);
        world.serves("/", &format!("v{round}"));
    }
    world.applied();
    stop.store(true, Ordering::SeqCst);
    load.join().unwrap();
    assert!(asked.load(Ordering::SeqCst) > 100, "the load ran");
    assert_eq!(failed.load(Ordering::SeqCst), 0, "of {asked:?} requests");
    let api = world.service("api");
    assert_eq!(api.instances.len(), 1, "{api:?}");
    let releases = std::fs::read_dir(world.home.join("state/services/api/releases")).unwrap().count();
    assert_eq!(releases, 5, "five releases are kept");
    world.down();
}

/// Requests over one kept connection and over fresh ones in turn, until told to stop.
fn load(port: u16, stop: &AtomicBool, asked: &AtomicU32, failed: &AtomicU32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let kept = agentd_sys::http::plain().build().unwrap();
        let url = format!("http://127.0.0.1:{port}/");
        while !stop.load(Ordering::SeqCst) {
            let fresh = agentd_sys::http::plain().pool_max_idle_per_host(0).build().unwrap();
            for client in [&kept, &fresh] {
                asked.fetch_add(1, Ordering::SeqCst);
                let good = client.get(&url).send().await.is_ok_and(|answer| answer.status() == 200);
                if !good {
                    failed.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    });
}

#[test]
fn a_failing_build_leaves_the_old_release_and_says_why() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    repo.commit(&[("build.sh", "exit 0\n")]);
    world.stack(&service(&repo.url(), "build = \"sh build.sh\""));
    world.start();
    world.applied();
    let broken = repo.commit(&[("build.sh", "echo about to fail\necho no such module >&2\nexit 3\n")]);
    world.until("the stack is degraded", |world| world.status().stack.verdict == Verdict::Degraded);
    let status = world.status();
    let problem = &status.stack.problems[0];
    assert_eq!(problem.phase, DeployPhase::Build);
    assert_eq!(problem.cause, "the build failed: exit code 3");
    assert_eq!(problem.commit.as_ref().unwrap().as_str(), broken);
    assert!(problem.log_tail.iter().any(|line| line == "no such module"), "{problem:?}");
    assert_eq!(world.get("/").json()["version"], "v1");
    assert_eq!(world.ctl(&["status"]).code, 6);
    repo.commit(&[("build.sh", "exit 0\n"), ("web.py", &web("v2"))]);
    world.serves("/", "v2");
    world.applied();
    world.down();
}

#[test]
fn a_release_that_fails_its_health_check_never_gets_traffic() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service(&repo.url(), "health = { path = \"/healthz\", start_deadline = \"2s\" }"));
    world.start();
    world.applied();
    let bad = web("v2").replace("500 if broken else 200", "500");
    repo.commit(&[("web.py", &bad)]);
    world.until("the stack is degraded", |world| world.status().stack.verdict == Verdict::Degraded);
    let status = world.status();
    let problem = &status.stack.problems[0];
    assert_eq!(problem.phase, DeployPhase::Health);
    assert!(problem.cause.contains("answers 500"), "{problem:?}");
    assert!(!problem.probes.is_empty());
    assert_eq!(world.get("/").json()["version"], "v1");
    assert_eq!(status.services[0].state, ServiceState::Ready);
    world.down();
}

#[test]
fn a_release_that_crashes_at_once_is_given_up() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service(&repo.url(), HEALTH));
    world.start();
    world.applied();
    repo.commit(&[("web.py", "raise SystemExit('cannot go on')\n")]);
    world.until("the stack is degraded", |world| world.status().stack.verdict == Verdict::Degraded);
    let problem = world.status().stack.problems[0].clone();
    assert_eq!(problem.phase, DeployPhase::Start);
    assert!(problem.cause.contains("exit code 1"), "{problem:?}");
    assert!(problem.log_tail.iter().any(|line| line.contains("cannot go on")), "{problem:?}");
    assert_eq!(world.get("/").json()["version"], "v1");
    world.down();
}

#[test]
fn rollback_pins_and_unpin_follows_again() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service(&repo.url(), HEALTH));
    world.start();
    world.applied();
    repo.commit(&[("web.py", &web("v2"))]);
    world.serves("/", "v2");
    world.applied();
    let rolled = world.ctl(&["rollback", "api"]);
    assert_eq!(rolled.code, 0, "{rolled:?}");
    assert_eq!(world.get("/").json()["version"], "v1");
    assert!(world.service("api").pinned.is_some());
    let unpinned = world.ctl(&["unpin", "api"]);
    assert_eq!(unpinned.code, 0, "{unpinned:?}");
    assert_eq!(world.get("/").json()["version"], "v2");
    assert_eq!(world.ctl(&["rollback", "api", "--release", "99"]).code, 5);
    world.down();
}

#[test]
fn rollback_passes_over_what_never_served_and_over_the_same_program() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service(&repo.url(), HEALTH));
    world.start();
    world.applied();
    repo.commit(&[("web.py", "raise SystemExit('cannot go on')\n")]);
    world.until("the stack is degraded", |world| world.status().stack.verdict == Verdict::Degraded);
    repo.commit(&[("web.py", &web("v2"))]);
    world.serves("/", "v2");
    world.applied();
    for _ in 0..2 {
        // After the first `unpin`, v2 serves under a number of its own: going back must not end at v2's older number.
        let rolled = world.ctl(&["rollback", "api"]);
        assert_eq!(rolled.code, 0, "{rolled:?}");
        assert_eq!(world.get("/").json()["version"], "v1");
        assert_eq!(world.ctl(&["unpin", "api"]).code, 0);
        assert_eq!(world.get("/").json()["version"], "v2");
    }
    world.down();
}

#[test]
fn a_fixed_port_is_replaced_in_place_and_a_failure_brings_the_old_one_back() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    let port = agentd_tests::free_port();
    let more = format!("port = {port}\nhealth = {{ path = \"/healthz\", start_deadline = \"3s\" }}");
    world.stack(&service(&repo.url(), &more));
    world.start();
    world.applied();
    repo.commit(&[("web.py", &web("v2"))]);
    let mut told = 0;
    world.until("v2 serves", |world| {
        let answer = world.get("/");
        if answer.status == 503 {
            assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
            told += 1;
        }
        answer.status == 200 && answer.json()["version"] == "v2"
    });
    world.applied();
    repo.commit(&[("web.py", "raise SystemExit(9)\n")]);
    world.until("the stack is degraded", |world| world.status().stack.verdict == Verdict::Degraded);
    world.serves("/", "v2");
    world.down();
}

#[test]
fn a_service_that_leaves_the_document_stops_and_its_data_stays_until_pruned() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    let other = world.web_repo("other", "o1");
    let other_service =
        service(&other.url(), "").replace("\"api\"", "\"other\"").replace("path = \"/\"", "path = \"/o\"");
    world.stack(&(service(&repo.url(), "") + &other_service));
    world.start();
    world.applied();
    let data = world.home.join("state/services/api/data");
    std::fs::write(data.join("kept"), "x").unwrap();
    assert_eq!(world.ctl(&["prune", "api"]).code, 1, "still in the document");
    world.stack(&other_service);
    world.until("api is removed", |world| world.service("api").state == ServiceState::Removed);
    assert_eq!(world.get("/").status, 404);
    assert_eq!(world.get("/o").status, 200);
    assert!(data.join("kept").exists());
    assert_eq!(world.ctl(&["prune", "api"]).code, 0);
    assert!(!data.exists());
    world.down();
}

#[test]
fn a_monorepo_is_fetched_once_and_an_untouched_folder_is_not_rebuilt() {
    let mut world = World::new();
    let repo = world.repo("mono");
    repo.commit(&[("a/web.py", &web("a1")), ("b/web.py", &web("b1"))]);
    let one = |name: &str| {
        service(&repo.url(), &format!("dir = \"{name}\""))
            .replace("name = \"api\"", &format!("name = \"{name}\""))
            .replace("path = \"/\"", &format!("path = \"/{name}\""))
    };
    world.stack(&(one("a") + &one("b")));
    world.start();
    world.applied();
    let pid = world.service("b").instances[0].pid;
    assert_eq!(
        std::fs::read_dir(world.home.join("state/git"))
            .unwrap()
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "git"))
            .count(),
        1
    );
    repo.commit(&[("a/web.py", &web("a2"))]);
    world.serves("/a", "a2");
    world.applied();
    let b = world.service("b");
    assert_eq!((b.instances[0].pid, b.release.unwrap().0), (pid, 1), "b was left alone");
    world.down();
}

/// Instances of the service that have a folder: what runs, or would again.
fn folders(world: &World) -> usize {
    // The edge's is one of them.
    std::fs::read_dir(world.home.join("run/instances")).unwrap().count() - 1
}

#[test]
fn replicas_grow_and_shrink_beside_those_that_run() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    let replicas = |count: u32| service(&repo.url(), &format!("{HEALTH}\nreplicas = {count}"));
    world.stack(&replicas(1));
    world.start();
    world.applied();
    let first = world.service("api").instances[0].pid;
    world.stack(&replicas(3));
    world.until("three are ready", |world| world.service("api").ready == 3);
    assert!(world.service("api").instances.iter().any(|instance| instance.pid == first), "the first was left alone");
    world.stack(&replicas(1));
    world.until("one is left", |world| world.service("api").instances.len() == 1);
    world.applied();
    assert_eq!(world.service("api").instances[0].pid, first, "the longest-lived stays");
    assert_eq!(world.service("api").release.unwrap().0, 1, "nothing was built for it");
    world.down();
}

#[test]
fn the_order_of_env_entries_is_nothing_to_replace_for() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service(&repo.url(), "env = { A = \"1\", B = \"2\" }"));
    world.start();
    world.applied();
    let pid = world.service("api").instances[0].pid;
    world.stack(&service(&repo.url(), "strip_prefix = true\nenv = { B = \"2\", A = \"1\" }"));
    world.until("the second version is applied", |world| {
        world.status().stack.applied_version.is_some_and(|version| version.0 == 2)
    });
    assert_eq!(world.service("api").instances[0].pid, pid);
    world.down();
}

#[test]
fn a_release_that_never_got_ready_is_tried_again_by_its_number_and_passed_over_by_a_rollback() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    let with_drain =
        |drain: &str| service(&repo.url(), HEALTH).replace("drain = \"5s\"", &format!("drain = \"{drain}\""));
    world.stack(&with_drain("5s"));
    world.start();
    world.applied();
    repo.commit(&[("web.py", "raise SystemExit('never')\n")]);
    world.until("the stack is degraded", |world| world.status().stack.verdict == Verdict::Degraded);
    let since = world.status().stack.problems[0].since_unix_ms;
    world.stack(&with_drain("6s"));
    world.until("it was tried again", |world| {
        world.status().stack.problems.first().is_some_and(|problem| problem.since_unix_ms > since)
    });
    assert_eq!(world.status().stack.problems[0].release.unwrap().0, 2);
    repo.commit(&[("web.py", &web("v3"))]);
    world.serves("/", "v3");
    world.applied();
    assert_eq!(world.service("api").release.unwrap().0, 3);
    let rolled = world.ctl(&["rollback", "api"]);
    assert_eq!(rolled.code, 0, "{rolled:?}");
    assert_eq!(world.get("/").json()["version"], "v1");
    world.down();
}

#[test]
fn orders_that_overtake_each_other_leave_one_instance_and_no_other() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service(&repo.url(), HEALTH));
    world.start();
    world.applied();
    for round in 0..12_u64 {
        let env = format!("{HEALTH}\nenv = {{ ROUND = \"{round}\" }}");
        world.stack(&service(&repo.url(), &env));
        // The moments at which one order overtakes the last are spread over the steps of a deploy.
        std::thread::park_timeout(std::time::Duration::from_millis(round * 67 % 600));
        assert_eq!(world.get("/").status, 200, "round {round}");
    }
    world.until("the last is in force", |world| {
        let status = world.status();
        status.stack.verdict == Verdict::Applied && status.stack.version == status.stack.applied_version
    });
    world.until("one instance is left", |world| folders(world) == 1);
    assert_eq!(world.service("api").instances.len(), 1);
    assert_eq!(world.get("/").status, 200);
    world.down();
}
