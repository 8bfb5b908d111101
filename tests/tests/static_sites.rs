//! `kind = "static"`: a folder of a release, served by agentd itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentd_protocol::api::DeployPhase;
use agentd_tests::World;
use reqwest::Method;

fn site(name: &str, repo: &str, path: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nkind = \"static\"\nrepo = \"{repo}\"\nref = \"main\"\npath = \"{path}\"\n{more}\n"
    )
}

#[test]
fn a_built_folder_is_served_with_ranges_conditions_and_a_fallback() {
    let mut world = World::new();
    let repo = world.repo("site");
    repo.commit(&[("src/index.html", "<p>one"), ("src/app.3f2a1b9c.js", "0123456789"), ("secret.txt", "not served")]);
    let more =
        "build = \"cp -r src dist && ln -s ../secret.txt dist/link.txt\"\nroot = \"dist\"\nfallback = \"index.html\"";
    let docs = world.repo("docs");
    docs.commit(&[("index.html", "docs"), ("guide/index.html", "guide"), (".env", "A=1")]);
    world.stack(
        &(site("site", &repo.url(), "/", more)
            + &site("docs", &docs.url(), "/docs", "strip_prefix = true\nreplicas = 2")),
    );
    world.start();
    world.applied();
    let get = |path: &str, headers: &[(&str, &str)]| world.request(Method::GET, path, headers, Vec::new()).unwrap();

    let page = world.get("/");
    assert_eq!((page.status, page.body.as_str()), (200, "<p>one"));
    assert_eq!(page.headers["cache-control"], "no-cache");
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    let tag = page.headers["etag"].to_str().unwrap();
    assert_eq!(get("/", &[("if-none-match", tag)]).status, 304);
    let part = get("/app.3f2a1b9c.js", &[("range", "bytes=2-4")]);
    assert_eq!((part.status, part.body.as_str()), (206, "234"));
    assert_eq!(part.headers["content-range"], "bytes 2-4/10");
    assert_eq!(part.headers["cache-control"], "public, max-age=31536000, immutable");
    assert_eq!(world.get("/any/page").body, "<p>one");
    // The link leads out of `root`: it is as if it were not there.
    assert_eq!(world.get("/link.txt").body, "<p>one");

    assert_eq!(world.get("/docs").body, "docs");
    let folder = world.get("/docs/guide");
    assert_eq!((folder.status, folder.body.as_str()), (200, "guide"), "the redirect keeps the stripped prefix");
    for path in ["/docs/.env", "/docs/.git/config", "/docs/nothing"] {
        assert_eq!(world.get(path).status, 404, "{path}");
    }
    world.down();
}

#[test]
fn a_redeploy_under_load_loses_no_request() {
    let mut world = World::new();
    let repo = world.repo("site");
    repo.commit(&[("index.html", "v0")]);
    world.stack(&site("site", &repo.url(), "/", ""));
    world.start();
    world.applied();
    let stop = Arc::new(AtomicBool::new(false));
    let asking = {
        let (stop, port) = (Arc::clone(&stop), world.port);
        std::thread::Builder::new().name("load".into()).spawn(move || ask_until(&stop, port)).unwrap()
    };
    for version in 1..=3 {
        let text = format!("v{version}");
        repo.commit(&[("index.html", &text)]);
        world.until("the new page is served", |world| world.get("/").body == text);
    }
    world.applied();
    stop.store(true, Ordering::SeqCst);
    let (asked, failures) = asking.join().unwrap();
    assert!(asked > 20 && failures.is_empty(), "{asked} requests: {failures:?}");
    world.down();
}

fn ask_until(stop: &AtomicBool, port: u16) -> (u64, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = agentd_sys::http::plain().build().unwrap();
        let (mut asked, mut failures) = (0, Vec::new());
        while !stop.load(Ordering::SeqCst) {
            asked += 1;
            match client.get(format!("http://127.0.0.1:{port}/")).send().await {
                Ok(answer) if answer.status() == 200 => {}
                Ok(answer) => failures.push(answer.status().to_string()),
                Err(error) => failures.push(format!("{error:?}")),
            }
        }
        (asked, failures)
    })
}

#[test]
fn a_release_without_the_folder_is_not_deployed() {
    let mut world = World::new();
    let repo = world.repo("site");
    repo.commit(&[("index.html", "v0")]);
    world.stack(&site("site", &repo.url(), "/", "build = \"true\"\nroot = \"dist\""));
    world.start();
    world.until("the cause is told", |world| {
        world.status().stack.problems.iter().any(|problem| problem.cause.contains("dist"))
    });
    let problem = world.status().stack.problems[0].clone();
    assert_eq!(problem.phase, DeployPhase::Start);
    assert_eq!(problem.cause, "release 1 has no folder `dist`, which is its `root`: `build` did not leave it");
    world.down();
}

#[test]
fn a_root_that_is_a_link_out_of_the_release_is_not_served() {
    let mut world = World::new();
    let repo = world.repo("site");
    repo.commit(&[("index.html", "v0")]);
    let outside = world.dir().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let build = format!("build = \"ln -s {} dist\"\nroot = \"dist\"", outside.display());
    world.stack(&site("site", &repo.url(), "/", &build));
    world.start();
    world.until("the site does not start", |world| {
        world
            .status()
            .stack
            .problems
            .iter()
            .any(|problem| problem.log_tail.iter().any(|line| line.contains("`root` must name")))
    });
    world.down();
}
