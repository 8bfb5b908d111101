//! What a person needs to know before he acts, on the pages of the real server.

use std::path::Path;
use std::process::Command;

use agentd_protocol::api::{DeployPhase, Problem, Verdict};
use agentd_protocol::digest::Digest;
use reqwest::{Method, StatusCode};

use crate::server::{Host, Server, document, slug};
use crate::visitor::Visitor;

fn git(dir: &Path, words: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main", "-C"])
        .arg(dir);
    let ran = command.args(words).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
    assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

fn commit(dir: &Path, text: &str) -> String {
    git(dir, &["commit", "--quiet", "--allow-empty", "-m", text]);
    git(dir, &["rev-parse", "HEAD"])
}

/// What the form to publish brings back of the page it is on.
fn saw(shown: &str) -> String {
    let (_, rest) = shown.split_once("name=\"saw\" value=\"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_branch_that_moved_is_said_before_publishing() {
    let (dir, repo) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(dir.path());
    git(repo.path(), &["init", "--quiet"]);
    let first = commit(repo.path(), "first");
    let stack = server.stack("shop");
    let document = format!(
        "schema = 1\n[stack]\nname = \"shop\"\n[[service]]\nname = \"api\"\nrepo = \"file://{}\"\nref = \"main\"\nrun = \"./run\"\n",
        repo.path().display()
    );
    server.publish("shop", &document);
    let owner = Visitor::set_up(&server).await;
    let page = async || owner.get(&format!("/stacks/{stack}/draft")).await.text().await.unwrap();
    let shown = page().await;
    assert!(shown.contains("Publishing now would change nothing") && shown.contains("data-testid=\"diff-empty\""));
    assert!(!shown.contains("data-testid=\"publish\""), "there is nothing to publish");

    let second = commit(repo.path(), "second");
    let shown = page().await;
    assert!(shown.contains(&first[..7]) && shown.contains(&second[..7]) && shown.contains(">moved<"), "{shown}");
    assert!(!shown.contains("No difference") && shown.contains("data-testid=\"publish\""));
    let (code, told) = server.try_cli(&["stack", "diff", "shop"], "");
    assert!(code == 0 && told.contains(&second), "{told}");
    let preview: serde_json::Value = owner.get(&format!("/api/v1/stacks/{stack}/preview")).await.json().await.unwrap();
    assert_eq!(preview["follows"][0]["now"]["commit"], second.as_str());
    assert_eq!(preview["follows"][0]["published"], first.as_str());
    let (at, before) = (format!("/stacks/{stack}/publish"), saw(&shown));
    let third = commit(repo.path(), "third");
    let form = |saw: &str, key: &'static str| {
        [
            ("revision", "1".to_owned()),
            ("reason", "it moved".to_owned()),
            ("key", key.to_owned()),
            ("saw", saw.to_owned()),
        ]
    };
    let publish = async |saw: &str, key| {
        let form = form(saw, key);
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
        owner.post(&at, &form).await
    };
    let refused = publish(&before, "k1").await;
    assert_eq!(refused.status(), StatusCode::CONFLICT, "it is another commit than the one that was shown");
    let shown = refused.text().await.unwrap();
    let said = format!("moved since you looked: api from {} to {}", &second[..7], &third[..7]);
    assert!(shown.contains(&said), "{said}: {shown}");
    assert!(shown.contains("value=\"it moved\""), "what was typed stands there still");
    let published = publish(&saw(&shown), "k2").await;
    assert_eq!(published.headers()["location"].to_str().unwrap(), format!("/stacks/{stack}/versions/2?did=published"));
    assert!(page().await.contains("Publishing now would change nothing"));
    commit(repo.path(), "fourth");
    let again = publish(&saw(&shown), "k2").await;
    assert_eq!(again.headers()["location"], published.headers()["location"], "it was published, whatever moved since");
    assert_eq!(publish("api=no-commit", "k3").await.status(), StatusCode::BAD_REQUEST);

    drop(repo);
    let shown = page().await;
    assert!(shown.contains("is not known") && shown.contains("data-testid=\"diff-unknown\""), "{shown}");
    assert!(!shown.contains("No difference") && !shown.contains("change nothing"), "nobody knows");
}

/// A `git` that pushes to the repository right after it was asked for a branch, as often as there are files `push-*`.
fn pushing_git(dir: &Path, repo: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var("PATH").unwrap();
    let script = format!(
        "#!/bin/sh\nPATH='{path}'\ngit \"$@\"\ncode=$?\ncase \"$*\" in *ls-remote*)\nfor push in '{dir}'/push-*; do\n\
         [ -e \"$push\" ] || break\nrm \"$push\"\n\
         git -C '{repo}' -c user.name=t -c user.email=t@example.com commit --quiet --allow-empty -m \"$push\" >&2\nbreak\n\
         done;; esac\nexit $code\n",
        dir = dir.display(),
        repo = repo.display()
    );
    let program = dir.join("git");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{path}", dir.display())
}

#[tokio::test]
async fn what_is_published_is_what_was_seen_whoever_pushes_in_between() {
    let [dir, repo, bin] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    git(repo.path(), &["init", "--quiet"]);
    let first = commit(repo.path(), "first");
    let path = pushing_git(bin.path(), repo.path());
    let server = Server::start_with(dir.path(), &[("PATH", &path)]).unwrap();
    let stack = server.stack("shop");
    let document = format!(
        "schema = 1\n[stack]\nname = \"shop\"\n[[service]]\nname = \"api\"\nrepo = \"file://{}\"\nref = \"main\"\nrun = \"./run\"\n",
        repo.path().display()
    );
    assert_eq!(server.try_cli(&["stack", "draft", "shop", "-"], &document).0, 0);
    let owner = Visitor::set_up(&server).await;
    let shown = owner.get(&format!("/stacks/{stack}/draft")).await.text().await.unwrap();
    let saw = saw(&shown);
    std::fs::write(bin.path().join("push-1"), "").unwrap();
    let form = [("revision", "1"), ("reason", "first"), ("key", "k1"), ("saw", saw.as_str())];
    let published = owner.post(&format!("/stacks/{stack}/publish"), &form).await;
    assert_eq!(published.status(), StatusCode::SEE_OTHER);
    assert!(!bin.path().join("push-1").exists(), "somebody pushed while it was published");
    let version: serde_json::Value =
        owner.get(&format!("/api/v1/stacks/{stack}/versions/1")).await.json().await.unwrap();
    assert_eq!(version["services"][0]["commit"], first.as_str(), "and that is not what was seen");

    // Programs have the same.
    let at = format!("/api/v1/stacks/{stack}/versions");
    let ask = async |expect: serde_json::Value| {
        let body = serde_json::json!({"reason": "second", "expect": expect}).to_string();
        let request = owner.ask(Method::POST, &at).header("sec-fetch-site", "same-origin").header("if-match", "\"1\"");
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        (answer.status(), answer.json::<serde_json::Value>().await.unwrap())
    };
    let second = git(repo.path(), &["rev-parse", "HEAD"]);
    let (status, problem) = ask(serde_json::json!({"api": first, "gone": first})).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(
        problem["moved"],
        serde_json::json!([
            {"service": "api", "saw": first, "found": second},
            {"service": "gone", "saw": first, "found": null},
        ])
    );
    let (status, row) = ask(serde_json::json!({"api": second})).await;
    assert_eq!((status, &row["number"]), (StatusCode::CREATED, &serde_json::json!(2)));
    assert_eq!(ask(serde_json::json!({})).await.0, StatusCode::CREATED, "who expects nothing takes what there is");
}

#[tokio::test]
async fn the_last_number_there_is_is_no_revision() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let stack = server.stack("shop");
    let owner = Visitor::set_up(&server).await;
    let (at, last) = (format!("/stacks/{stack}"), u64::MAX.to_string());
    let text = document(&[("api", '1', "")]);
    let form = [("revision", last.as_str()), ("format", "toml"), ("text", text.as_str())];
    assert_eq!(owner.post(&format!("{at}/draft"), &form).await.status(), StatusCode::CONFLICT);
    let request = owner.ask(Method::PUT, &format!("/api/v1{at}/draft")).header("if-match", format!("\"{last}\""));
    let request = request.header("sec-fetch-site", "same-origin").header("content-type", "application/toml");
    assert_eq!(request.body(text.clone()).send().await.unwrap().status(), StatusCode::PRECONDITION_FAILED);
    server.publish("shop", &text);
    for (act, form) in [
        ("publish", &[("revision", last.as_str()), ("reason", "r")][..]),
        ("versions/1/rollback", &[("from", &last), ("reason", "r")]),
    ] {
        assert_eq!(owner.post(&format!("{at}/{act}"), form).await.status(), StatusCode::CONFLICT, "{act}");
    }
    for path in [format!("versions/{last}"), format!("versions/{last}/rollback")] {
        assert_eq!(owner.get(&format!("{at}/{path}")).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(owner.get(&format!("{at}/versions?before={last}")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_conflict_hides_nothing_and_ends_by_a_persons_word() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    server.publish("shop", &document(&[("api", '1', "")]));
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    let owner = Visitor::set_up(&server).await;
    let clear = format!("/hosts/{}/clear-conflict", host.id);
    assert_eq!(owner.post(&clear, &[]).await.status(), StatusCode::CONFLICT, "there is none");
    let mut report = host.next_report(Vec::new());
    let snapshot = report.snapshot.as_mut().unwrap();
    snapshot.stack.verdict = Verdict::Degraded;
    snapshot.stack.problems.push(Problem {
        service: Some("api".parse().unwrap()),
        phase: DeployPhase::Health,
        cause: "no answer from /healthz".into(),
        commit: None,
        release: None,
        probes: Vec::new(),
        log_tail: Vec::new(),
        why: Default::default(),
        since_unix_ms: 1,
    });
    assert_eq!(host.send_report(&report, &[]).await.0, StatusCode::OK);
    let mut copy = host.next_report(Vec::new());
    copy.machine = Digest::of(b"another");
    let (status, body) = host.send_report(&copy, &[]).await;
    assert_eq!((status, slug(&body).as_str()), (StatusCode::CONFLICT, "identity-conflict"));

    let page = async |path: &str| owner.get(path).await.text().await.unwrap();
    let at = format!("/hosts/{}", host.id);
    for path in [at.as_str(), "/hosts", "/"] {
        let shown = page(path).await;
        assert!(shown.contains("two machines report") && shown.contains("no answer from /healthz"), "{path}: {shown}");
    }
    assert!(page(&at).await.contains("data-testid=\"clear-conflict\""));
    let cleared = owner.post(&clear, &[]).await;
    assert_eq!(cleared.headers()["location"].to_str().unwrap(), format!("{at}?did=cleared"));
    let shown = page(&at).await;
    assert!(!shown.contains("two machines") && shown.contains("no answer from /healthz"));
    let audit = server.cli(&["audit"]);
    assert!(audit["rows"].as_array().unwrap().iter().any(|row| row["action"] == "host.conflict-cleared"));
    // Should there be two still, it shows again; the verb does as the page does.
    assert_eq!(host.send_report(&copy, &[]).await.0, StatusCode::CONFLICT);
    assert!(page(&at).await.contains("two machines report"));
    let row = server.cli(&["host", "clear-conflict", "web-1"]);
    assert_eq!(row["problem"], "api: no answer from /healthz");
    let by_stranger = Visitor { http: owner.http.clone(), url: owner.url.clone(), cookie: String::new() };
    let refused = by_stranger.ask(Method::POST, &clear).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SEE_OTHER, "off to the login");
}

#[tokio::test]
async fn labels_of_a_token_are_set_on_its_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let stack = server.stack("shop");
    let owner = Visitor::set_up(&server).await;
    let at = format!("/stacks/{stack}/tokens");
    let form = |labels| [("note", "rack 3"), ("labels", labels), ("ttl_s", "900"), ("key", "k1")];
    let refused = owner.post(&at, &form("role")).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(refused.text().await.unwrap().contains("labels are key=value"));
    let made = owner.post(&at, &form("role=web, zone = a")).await.text().await.unwrap();
    let shown = owner.get(&format!("/stacks/{stack}/join")).await.text().await.unwrap();
    assert!(shown.contains("role=web") && shown.contains("zone=a"));
    let (_, rest) = made.split_once("data-testid=\"join-string\">").unwrap();
    let host = Host::join(&server, rest.split('<').next().unwrap(), "web-1").await;
    let shown = server.cli(&["host", "show", &host.id]);
    assert_eq!(shown["row"]["labels"], serde_json::json!({"role": "web", "zone": "a"}));
}
