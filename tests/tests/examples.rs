//! What lies in examples/ is a stack this version takes. Fetching packages is left to `cargo xtask demo`.

use std::fs;
use std::path::{Path, PathBuf};

use agentd_tests::{Repo, World};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples")
}

/// The stack as the demo writes it, reduced to the service of this name, if one is given.
fn stack(repositories: &str, port: u16, only: Option<&str>) -> String {
    let template = fs::read_to_string(examples().join("stack.toml.in")).unwrap();
    let text = template.replace("@REPOS@", repositories).replace("@PORT@", &port.to_string());
    let Some(only) = only else { return text };
    let parts: Vec<&str> = text.split("[[service]]").collect();
    let wanted = parts.iter().find(|part| part.contains(&format!("name = \"{only}\""))).unwrap();
    format!("{}[[service]]{wanted}", parts[0])
}

#[test]
fn the_example_stack_is_valid() {
    let world = World::new();
    fs::write(&world.stack_file, stack("file:///r", 8080, None)).unwrap();
    let ran = world.ctl(&["check", world.stack_file.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("3 services (2 web, 0 worker, 1 static), 3 routes, 4 instances"), "{ran:?}");
}

#[test]
fn the_example_page_is_built_and_served_with_names_that_may_be_kept() {
    let mut world = World::new();
    let repo = world.repo("site");
    copy(&examples().join("site"), &repo);
    let repositories = format!("file://{}", world.dir().join("repos").display());
    fs::write(&world.stack_file, stack(&repositories, world.port, Some("site"))).unwrap();
    world.start();
    world.applied();
    let page = world.get("/");
    assert_eq!(page.status, 200);
    let script = page.body.split("src=\"/").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let script = world.get(&format!("/{script}"));
    assert_eq!(
        (script.status, script.headers["content-type"].to_str().unwrap()),
        (200, "text/javascript; charset=utf-8")
    );
    assert_eq!(script.headers["cache-control"], "public, max-age=31536000, immutable");
    let version = world.get("/version.json").json();
    assert_eq!(version["commit"].as_str(), Some(repo.git(&["rev-parse", "HEAD"]).trim()));
    assert_eq!(world.get("/no/such/page").body, page.body);
    world.down();
}

#[test]
fn the_examples_name_no_registry() {
    let lock = fs::read_to_string(examples().join("board/package-lock.json")).unwrap();
    let lock: serde_json::Value = serde_json::from_str(&lock).unwrap();
    let packages = lock["packages"].as_object().unwrap();
    assert!(packages.len() > 10);
    for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
        assert!(package["resolved"].is_null() && package["integrity"].is_string(), "{name}");
    }
    let requirements = fs::read_to_string(examples().join("notes/requirements.txt")).unwrap();
    for line in requirements.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.contains("==") && !line.contains("://"), "{line}");
    }
}

fn copy(from: &Path, repo: &Repo) {
    let mut files = Vec::new();
    collect(from, from, &mut files);
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    repo.commit(&files);
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}
