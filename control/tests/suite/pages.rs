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
    let form = [("revision", "1"), ("reason", "it moved"), ("key", "k1")];
    assert_eq!(owner.post(&format!("/stacks/{stack}/publish"), &form).await.status(), StatusCode::SEE_OTHER);
    assert!(page().await.contains("Publishing now would change nothing"));

    drop(repo);
    let shown = page().await;
    assert!(shown.contains("is not known") && shown.contains("data-testid=\"diff-unknown\""), "{shown}");
    assert!(!shown.contains("No difference") && !shown.contains("change nothing"), "nobody knows");
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
