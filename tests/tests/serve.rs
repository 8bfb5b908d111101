//! A stack file becomes running, routed services (README, "Run a stack").

use agentd_protocol::api::Verdict;
use agentd_tests::World;
use reqwest::Method;

/// A service of the usual Python program at `path`.
fn service(name: &str, repo: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nrepo = \"{repo}\"\nref = \"main\"\nrun = \"python3 web.py\"\npath = \"/{name}\"\n\
         health = {{ path = \"/healthz\" }}\n{more}\n"
    )
}

#[test]
fn one_service_is_cloned_built_run_and_routed() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service("api", &repo.url(), "build = \"echo built > built.txt\"\nstrip_prefix = true"));
    world.start();
    let status = world.applied();
    assert_eq!(status.stack.verdict, Verdict::Applied);
    let answer = world.get("/api/x").json();
    assert_eq!((answer["version"].as_str(), answer["path"].as_str()), (Some("v1"), Some("/x")));
    let release = world.home.join("state/services/api/current/built.txt");
    assert_eq!(std::fs::read_to_string(release).unwrap(), "built\n");
    assert_eq!(world.get("/nothing").status, 404);
    world.down();
}

#[test]
fn the_environment_is_complete_and_the_users_own_wins() {
    let mut world = World::new();
    let repo = world.web_repo("my-api", "v1");
    let commit = repo.git(&["rev-parse", "HEAD"]).trim().to_owned();
    let env_file = world.dir().join("secret.env");
    std::fs::write(&env_file, "FROM_FILE=f\nBOTH=file\n").unwrap();
    std::fs::set_permissions(&env_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let more = format!(
        "strip_prefix = true\nenv_file = \"{}\"\nenv = {{ BOTH = \"entry\", HOST = \"localhost\" }}",
        env_file.display()
    );
    world.stack(&service("my-api", &repo.url(), &more));
    world.start();
    world.applied();
    let env = world.get("/my-api/env").json();
    for (name, value) in [
        ("SERVICE_NAME", "my-api"),
        ("AGENTD_RELEASE", "1"),
        ("AGENTD_COMMIT", &commit),
        ("SERVICE_MY_API_URL", &format!("http://my-api.svc.internal:{}", world.internal_port)),
        ("FROM_FILE", "f"),
        ("BOTH", "entry"),
        ("HOST", "localhost"),
    ] {
        assert_eq!(env[name].as_str(), Some(value), "{name}");
    }
    let data_dir = env["DATA_DIR"].as_str().unwrap();
    assert!(data_dir.ends_with("services/my-api/data"), "{data_dir}");
    let port: u16 = env["PORT"].as_str().unwrap().parse().unwrap();
    assert!((20_000..=29_999).contains(&port));
    let plan = world.ctl(&["plan"]);
    assert!(plan.stdout.contains("my-api: env.HOST overrides the one agentd sets"), "{plan:?}");
    world.down();
}

#[test]
fn requests_keep_their_bodies_streams_and_headers() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service("api", &repo.url(), ""));
    world.start();
    world.applied();
    let body = vec![b'x'; 300_000];
    let echoed = world.request(Method::POST, "/api/echo", &[], body.clone()).unwrap();
    assert_eq!(echoed.body.into_bytes(), body);
    let events = world.get("/api/events?n=3");
    assert_eq!(events.body, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    let forged = [("x-forwarded-for", "6.6.6.6"), ("connection", "x-secret"), ("x-secret", "1")];
    let headers = world.request(Method::GET, "/api/headers", &forged, Vec::new()).unwrap().json();
    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert!(headers["x-secret"].is_null(), "{headers}");
    world.down();
}

#[test]
fn a_second_service_is_added_by_an_edit_while_the_first_is_untouched() {
    let mut world = World::new();
    let first = world.web_repo("one", "v1");
    let second = world.web_repo("two", "w1");
    world.stack(&service("one", &first.url(), ""));
    world.start();
    world.applied();
    let pid = world.service("one").instances[0].pid;
    world.stack(&(service("one", &first.url(), "") + &service("two", &second.url(), "")));
    world.serves("/two", "w1");
    assert_eq!(world.service("one").instances[0].pid, pid);
    world.down();
}

#[test]
fn a_taken_port_is_said_and_the_failed_first_start_leaves_no_process() {
    let world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service("api", &repo.url(), ""));
    let _taken = std::net::TcpListener::bind(("127.0.0.1", world.port)).unwrap();
    let ran = world.run_to_end(&[]);
    assert_eq!(ran.code, 9, "{ran:?}");
    let owner = format!("port {} is taken by pid {}", world.port, std::process::id());
    assert!(ran.stderr.contains(&owner), "{ran:?}");
    world.until("nothing is left", |world| world.processes().is_empty());
}

#[test]
fn a_deploy_key_is_made_once_and_only_its_public_half_leaves_the_home() {
    let mut world = World::new();
    world.stack("");
    world.start();
    let made = world.ctl(&["git-key", "new", "shop"]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.stdout.starts_with("ssh-ed25519 ") && made.stdout.lines().count() == 1, "{made:?}");
    let private = world.home.join("git-keys/shop");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&private).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(made.stderr.contains(&private.display().to_string()), "{made:?}");
    let secret = std::fs::read_to_string(&private).unwrap();
    assert!(secret.lines().all(|line| !made.stdout.contains(line) && !made.stderr.contains(line)));
    assert_eq!(world.ctl(&["git-key", "new", "shop"]).code, 1, "never replaced");
    world.down();
}
