//! Services reach each other by name, and nothing else gets in that way (README, "Names").

use std::net::Ipv4Addr;

use agentd_protocol::api::ServiceState;
use agentd_tests::dns::{self, A, AAAA, Resolved, SOA};
use agentd_tests::{Answer, World};

const NXDOMAIN: u8 = 3;

/// A service of the usual Python program.
fn service(name: &str, repo: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nrepo = \"{repo}\"\nref = \"main\"\nrun = \"exec python3 web.py\"\n\
         health = {{ path = \"/healthz\" }}\n{more}\n"
    )
}

/// GET of `path` on the internal listener with that Host.
fn by_name(world: &World, host: &str, path: &str) -> Answer {
    world.request_at(world.internal_port, reqwest::Method::GET, path, &[("host", host)], Vec::new()).unwrap()
}

fn found() -> Resolved {
    Resolved { rcode: 0, authoritative: true, addresses: vec![Ipv4Addr::LOCALHOST], authorities: 0 }
}

fn absent(rcode: u8) -> Resolved {
    Resolved { rcode, authoritative: true, addresses: Vec::new(), authorities: 1 }
}

fn knows(world: &World, name: &str) -> bool {
    dns::over_udp(world.dns_port, name, A) == found()
}

#[test]
fn services_are_reached_by_name_whatever_the_path() {
    let mut world = World::new();
    let (api, jobs) = (world.web_repo("api", "v1"), world.web_repo("jobs", "w1"));
    let stack = service("api", &api.url(), "path = \"/api\"") + &service("jobs", &jobs.url(), "public = false");
    world.stack(&stack);
    world.start();
    let status = world.applied();
    let edge = status.edge;
    assert_eq!(edge.internal, Some((Ipv4Addr::LOCALHOST, world.internal_port).into()));
    assert_eq!(edge.dns, Some((Ipv4Addr::LOCALHOST, world.dns_port).into()));
    assert_eq!(edge.suffix, "svc.internal");
    assert!(status.limitations.iter().all(|limitation| !limitation.contains("by name")), "{:?}", status.limitations);

    for host in ["api.svc.internal", "API.Svc.Internal.", "api.svc.internal:8081", "api"] {
        let answer = by_name(&world, host, "/any/path?q=1").json();
        assert_eq!((&answer["version"], &answer["path"]), (&"v1".into(), &"/any/path?q=1".into()), "{host}");
    }
    assert_eq!(by_name(&world, "jobs.svc.internal", "/").json()["version"], "w1");
    let unknown = by_name(&world, "nobody.svc.internal", "/api");
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("nobody.svc.internal") && unknown.body.contains("internal listener"), "{unknown:?}");

    let url = by_name(&world, "api", "/env").json()["SERVICE_JOBS_URL"].as_str().unwrap().to_owned();
    assert_eq!(url, format!("http://jobs.svc.internal:{}", world.internal_port), "what services are told is true");

    assert!(knows(&world, "api.svc.internal") && knows(&world, "jOBs.svc.INTERNAL"));
    assert_eq!(dns::over_tcp(world.dns_port, "api.svc.internal", A), found());
    assert_eq!(dns::over_tcp(world.dns_port, "nobody.svc.internal", A), absent(NXDOMAIN));
    assert_eq!(dns::over_udp(world.dns_port, "api.svc.internal", AAAA), absent(0));
    assert_eq!(dns::over_udp(world.dns_port, "svc.internal", SOA).rcode, 0);
    assert_eq!(dns::over_udp(world.dns_port, "nobody.svc.internal", A), absent(NXDOMAIN));
    let refused = dns::over_udp(world.dns_port, "example.com", A);
    assert_eq!((refused.rcode, refused.authoritative), (5, false));
    world.down();
}

#[test]
fn a_name_comes_with_its_service_and_leaves_with_it() {
    let mut world = World::new();
    let (one, two) = (world.web_repo("one", "v1"), world.web_repo("two", "w1"));
    let first = service("one", &one.url(), "path = \"/\"");
    world.stack(&first);
    world.start();
    world.applied();
    assert!(!knows(&world, "two.svc.internal"));
    // From the first moment, not only when it is ready: this one takes a while.
    let go = world.dir().join("go");
    let build = format!("public = false\nbuild = \"while [ ! -e {} ]; do sleep 0.1; done\"", go.display());
    let slow = service("two", &two.url(), &build);
    world.stack(&(first.clone() + &slow));
    world.until("the name of a service that is being built", |world| knows(world, "two.svc.internal"));
    assert!(matches!(world.service("two").state, ServiceState::Fetching | ServiceState::Building));
    let starting = by_name(&world, "two", "/");
    assert_eq!((starting.status, starting.headers["x-agentd-reason"].to_str().unwrap()), (503, "starting"));
    std::fs::write(go, "").unwrap();
    world.applied();
    assert_eq!(by_name(&world, "two.svc.internal", "/").json()["version"], "w1");
    assert_eq!(world.ctl(&["stop", "two"]).code, 0);
    assert!(knows(&world, "two.svc.internal"), "a stopped service keeps its name");
    assert_eq!(by_name(&world, "two", "/").headers["x-agentd-reason"], "stopped");
    world.stack(&first);
    world.until("the name is gone", |world| !knows(world, "two.svc.internal"));
    assert_eq!(dns::over_udp(world.dns_port, "two.svc.internal", A), absent(NXDOMAIN));
    assert_eq!(by_name(&world, "two", "/").status, 404);
    assert!(knows(&world, "one.svc.internal"));
    world.down();
}

#[test]
fn a_killed_edge_answers_again_on_the_same_sockets() {
    let mut world = World::new();
    let api = world.web_repo("api", "v1");
    world.stack(&service("api", &api.url(), "public = false"));
    world.start();
    let pid = world.applied().edge.pid.unwrap();
    world.kill_manager();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    // At once: what comes before the new edge waits in the sockets, which never close.
    assert!(knows(&world, "api.svc.internal"), "without a manager, by the copy on disk");
    assert_eq!(dns::over_tcp(world.dns_port, "api.svc.internal", A), found());
    assert_eq!(by_name(&world, "api", "/").json()["version"], "v1");
    world.start();
    assert_ne!(world.applied().edge.pid.unwrap(), pid);
    assert!(knows(&world, "api.svc.internal"));
    world.down();
}

#[test]
fn what_is_not_public_is_not_reached_from_outside() {
    let mut world = World::new();
    let (web, inner) = (world.web_repo("web", "v1"), world.web_repo("inner", "secret"));
    let outside = service("web", &web.url(), "path = \"/web\"");
    world.stack(&(outside + &service("inner", &inner.url(), "public = false")));
    world.start();
    world.applied();
    assert_eq!(by_name(&world, "inner", "/").json()["version"], "secret");
    for host in ["inner.svc.internal", "inner", "INNER.SVC.INTERNAL.", "inner.svc.internal:8081"] {
        for path in ["/", "/inner", "/%69nner", "/web/../inner"] {
            let answer = world.request(reqwest::Method::GET, path, &[("host", host)], Vec::new()).unwrap();
            assert!(matches!(answer.status, 400 | 404), "{host} {path}: {answer:?}");
            assert!(!answer.body.contains("secret"), "{host} {path}: {answer:?}");
        }
    }
    let by_path = world.request(reqwest::Method::GET, "/web", &[("host", "inner.svc.internal")], Vec::new()).unwrap();
    assert_eq!(by_path.json()["version"], "v1", "outside, the path alone decides");
    world.down();
}

#[test]
fn a_worker_has_its_name_and_takes_no_requests() {
    let mut world = World::new();
    let repo = world.repo("mail");
    repo.commit(&[("run.sh", "while true; do sleep 1; done\n")]);
    world.stack(&format!(
        "[[service]]\nname = \"mail\"\nkind = \"worker\"\nrepo = \"{}\"\nref = \"main\"\nrun = \"sh run.sh\"\n",
        repo.url()
    ));
    world.start();
    world.applied();
    assert!(knows(&world, "mail.svc.internal"));
    let answer = by_name(&world, "mail.svc.internal", "/");
    assert_eq!((answer.status, answer.headers["x-agentd-reason"].to_str().unwrap()), (503, "no-port"));
    assert!(answer.body.contains("worker"), "{answer:?}");
    world.down();
}

#[test]
fn a_taken_port_is_said_with_its_owner_and_its_key_and_nothing_stays() {
    let world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service("api", &repo.url(), "path = \"/\""));
    let says = |port: u16, key: &str| {
        let ran = world.run_to_end(&[]);
        assert_eq!(ran.code, 9, "{ran:?}");
        let owner = format!("port {port} is taken by pid {}", std::process::id());
        assert!(ran.stderr.contains(&owner) && ran.stderr.contains(key), "{ran:?}");
        world.until("nothing is left", |world| world.processes().is_empty());
    };
    let udp = std::net::UdpSocket::bind(("127.0.0.1", world.dns_port)).unwrap();
    says(world.dns_port, "ports.dns in agentd.toml");
    drop(udp);
    let _tcp = std::net::TcpListener::bind(("127.0.0.1", world.internal_port)).unwrap();
    says(world.internal_port, "ports.internal in agentd.toml");
}
