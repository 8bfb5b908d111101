//! The small verbs against a real agent: releases, lock.

use agentd_protocol::api::{ReleaseState, Releases, Verdict};
use agentd_tests::{World, web};

fn service(name: &str, repo: &str, source: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"  # {name}\nrepo = \"{repo}\"\n{source}\nbuild = \"sleep 0.2\"\n\
         run = \"python3 web.py\"\npath = \"/{name}\"\ndrain = \"1s\"\nhealth = {{ path = \"/healthz\" }}\n"
    )
}

fn releases(world: &World) -> Releases {
    let ran = world.ctl(&["releases", "api", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn releases_are_listed_newest_first_with_what_became_of_them() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service("api", &repo.url(), "ref = \"main\""));
    world.start();
    world.applied();
    repo.commit(&[("web.py", &web("v2"))]);
    world.serves("/api", "v2");
    world.applied();
    world.stack(&service("api", &repo.url(), "ref = \"main\"").replace("sleep 0.2", "echo no luck; exit 3"));
    world.until("the build fails", |world| world.status().stack.verdict == Verdict::Degraded);
    let found = releases(&world).releases;
    let states: Vec<(u64, ReleaseState)> = found.iter().map(|release| (release.release.0, release.state)).collect();
    assert_eq!(states, [(3, ReleaseState::Failed), (2, ReleaseState::Active), (1, ReleaseState::Built)]);
    assert!(found[0].failure.as_ref().unwrap().contains("exit code 3"), "{found:?}");
    assert!(found[1].took_ms >= Some(200) && found[1].built_unix_ms > found[2].built_unix_ms, "{found:?}");
    let page = world.ctl(&["releases", "api"]);
    let lines: Vec<&str> = page.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{page:?}");
    assert!(lines[0].starts_with("RELEASE  COMMIT"), "{page:?}");
    assert!(lines[1].contains("failed") && lines[1].contains("exit code 3"), "{page:?}");
    assert!(lines[2].contains("active") && lines[2].contains(found[1].commit.short()), "{page:?}");

    let rolled = world.ctl(&["rollback", "api", "--release", "1"]);
    assert_eq!(rolled.code, 0, "{rolled:?}");
    let found = releases(&world).releases;
    assert_eq!((found[2].state, found[2].pinned), (ReleaseState::Active, true));
    assert!(world.ctl(&["releases", "api"]).stdout.contains("active(pinned)"));

    let unknown = world.ctl(&["releases", "apo"]);
    assert_eq!(unknown.code, 5);
    assert!(unknown.stderr.contains("there is no service `apo`"), "{unknown:?}");
    world.down();
    assert_eq!(world.ctl(&["releases", "api"]).code, 4);
}

#[test]
fn lock_puts_commits_in_place_of_branches_and_changes_nothing_else() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    let old = repo.git(&["rev-parse", "HEAD"]).trim().to_owned();
    repo.git(&["tag", "v1"]);
    let services = service("api", &repo.url(), "ref   = 'main'   # follows main")
        + &service("old", &repo.url(), &format!("commit = \"{old}\""));
    world.stack(&services);
    world.start();
    let status = world.applied();
    let text = std::fs::read_to_string(&world.stack_file).unwrap();
    let path = world.stack_file.to_str().unwrap();
    let expected = text.replace("ref   = 'main'", &format!("commit   = \"{old}\""));

    let printed = world.ctl(&["lock", path]);
    assert_eq!((printed.code, &printed.stdout), (0, &expected), "{printed:?}");
    assert_eq!(printed.stderr, format!("api: main is {old}\n"));
    assert_eq!(std::fs::read_to_string(path).unwrap(), text, "nothing is written unless asked for");

    let written = world.ctl(&["lock", path, "--write"]);
    assert_eq!((written.code, written.stdout.as_str()), (0, ""), "{written:?}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
    // What runs is what is locked: no deploy, and the branch may go on.
    repo.commit(&[("web.py", &web("v2"))]);
    world.until("the locked file is in force", |world| {
        world.status().stack.version > status.stack.version || {
            let now = world.status();
            now.stack.verdict == Verdict::Applied && now.services[0].release == status.services[0].release
        }
    });
    assert_eq!(world.get("/api").json()["version"], "v1");
    let again = world.ctl(&["lock", path, "--write"]);
    assert_eq!(again.code, 0);
    assert!(again.stderr.contains("nothing to lock"), "{again:?}");

    let json = world.dir().join("other.json");
    let document = format!(
        "{{\"schema\": 1, \"stack\": {{\"name\": \"o\"}},\n \"service\": [{{\"name\": \"a\", \"ref\": \"v1\", \"repo\": \"{}\", \"run\": \"x\"}}]}}\n",
        repo.url()
    );
    std::fs::write(&json, &document).unwrap();
    let printed = world.ctl(&["lock", json.to_str().unwrap()]);
    assert_eq!(printed.stdout, document.replace("\"ref\": \"v1\"", &format!("\"commit\": \"{old}\"")), "{printed:?}");
    world.down();
}

#[test]
fn lock_writes_nothing_unless_everything_is_resolved() {
    let mut world = World::new();
    let repo = world.web_repo("api", "v1");
    world.stack(&service("api", &repo.url(), "ref = \"main\""));
    let path = world.stack_file.to_str().unwrap().to_owned();
    let away = world.ctl(&["lock", &path]);
    assert_eq!((away.code, away.stdout.as_str()), (4, ""), "{away:?}");
    world.start();
    world.applied();
    let other = world.dir().join("other.toml");
    let text = std::fs::read_to_string(&path).unwrap() + &service("bad", &repo.url(), "ref = \"nowhere\"");
    std::fs::write(&other, &text).unwrap();
    let other = other.to_str().unwrap();
    let ran = world.ctl(&["lock", other, "--write"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
    assert!(ran.stderr.contains("api: main is ") && ran.stderr.contains("bad: nowhere: "), "{ran:?}");
    assert_eq!(std::fs::read_to_string(other).unwrap(), text);
    std::fs::write(other, text.replace("run =", "rum =")).unwrap();
    let invalid = world.ctl(&["lock", other]);
    assert_eq!((invalid.code, invalid.stdout.as_str()), (3, ""), "{invalid:?}");
    world.down();
}
