//! The life of a stack, from an empty folder, through the server's own doors.

use std::time::{Duration, Instant};

use crate::server::{Host, Server, document, problem, settled, slug};
use agentd_protocol::control::trust::Decision;
use agentd_protocol::published::join_salted;
use reqwest::StatusCode;

#[tokio::test]
async fn a_host_gets_what_was_published_and_believes_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    let (status, body) = host.get("head.json").await;
    assert_eq!((status, slug(&body).as_str()), (StatusCode::NOT_FOUND, "not-found"));
    assert_eq!(host.report(Vec::new()).await.head.version.0, 0);
    assert_eq!(server.publish("shop", &document(&[("api", '1', "KEY = \"hunter2\"")])), 1);
    let (state, env) = host.update().await;
    let stack = join_salted(&state, &env).unwrap();
    assert_eq!(stack.service[0].env["KEY"], "hunter2");
    assert!(!String::from_utf8_lossy(&state).contains("hunter2"));
    assert_eq!(host.report(Vec::new()).await.head.version.0, 1);
    assert!(matches!(host.head().await, Decision::Current { .. }));

    // The value is kept though the marker is all that comes back; nothing changed, so nothing is salted anew.
    let (_, text) = server.try_cli(&["stack", "draft", "shop"], "");
    assert!(text.contains("<kept>") && !text.contains("hunter2"), "{text}");
    server.publish("shop", &document(&[("api", '2', "KEY = \"<kept>\"")]));
    let (_, env_2) = host.update().await;
    assert_eq!(env_2, env);
    server.publish("shop", &document(&[("api", '2', "KEY = \"hunter3\"")]));
    let (_, env_3) = host.update().await;
    assert_ne!(env_3, env);

    let back = server.cli(&["stack", "rollback", "shop", "1", "--reason", "worse"]);
    assert_eq!((back["number"].as_u64(), back["note"]["of"].as_u64()), (Some(4), Some(1)));
    assert_eq!(host.update().await, (state, env), "the old content under a new number");
    assert_eq!(host.seen().0, 4);
    let versions = server.cli(&["stack", "versions", "shop"]);
    assert_eq!(versions.as_array().unwrap().len(), 4);
    assert!(server.stop());
}

#[tokio::test]
async fn a_hold_keeps_hosts_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    server.publish("shop", &document(&[("api", '1', "")]));
    host.update().await;
    server.cli(&["stack", "hold", "shop", "--reason", "friday"]);
    server.publish("shop", &document(&[("api", '2', "")]));
    assert!(matches!(host.head().await, Decision::Held { offered, .. } if offered.0 == 2));
    server.cli(&["stack", "resume", "shop"]);
    host.update().await;
    assert_eq!(host.seen().0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_report_is_answered_by_news_and_by_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut host) = settled(dir.path()).await;
    let report = host.next_report(Vec::new());
    let begun = Instant::now();
    let held = host.send_report(&report, &[("prefer", "wait=50")]);
    let publish = async {
        let home = server.home.clone();
        tokio::time::sleep(Duration::from_millis(1_500)).await; // poll: the report has to be held for some time first
        let text = document(&[("api", '2', "")]);
        tokio::task::block_in_place(|| crate::server::cli(&home, &["stack", "draft", "shop", "-"], &text));
        tokio::task::block_in_place(|| crate::server::cli(&home, &["stack", "publish", "shop"], ""));
        Instant::now()
    };
    let ((status, body), published) = tokio::join!(async { (held.await, Instant::now()) }, publish);
    let ((status, body), answered) = (status, body);
    assert_eq!(status, StatusCode::OK);
    assert_eq!(problem(&body)["head"]["version"], 2);
    assert!(answered > begun + Duration::from_millis(1_400) && answered < published + Duration::from_secs(2));
}

#[tokio::test]
async fn who_is_revoked_gets_nothing_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.stack("shop");
    server.publish("shop", &document(&[("api", '1', "KEY = \"hunter2\"")]));
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    host.report(Vec::new()).await;
    server.cli(&["host", "revoke", "web-1", "--reason", "stolen"]);
    let report = host.next_report(Vec::new());
    let (status, body) = host.send_report(&report, &[]).await;
    assert_eq!((status, slug(&body).as_str()), (StatusCode::FORBIDDEN, "host-revoked"));
    assert_eq!(host.get("head.json").await.0, StatusCode::FORBIDDEN);
    // A stranger to the stack sees no more than that there is nothing.
    server.stack("other");
    let stranger = Host::join(&server, &server.join("other"), "web-2").await;
    let path = format!("/s/{}/head.json", host.stack);
    let (status, _) = stranger.call(reqwest::Method::GET, &path, Vec::new(), &[]).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn drafts_are_saved_by_revision_and_published_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let id = server.stack("shop");
    let (code, text) = server.try_cli(&["stack", "draft", "shop", "-"], "schema = 1\nstack.name = 's'\nproxi = 1\n");
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("proxi"), "{text}");
    // Below a key that nobody knows anything may stand: that is not kept.
    let (code, text) = server.try_cli(&["stack", "publish", "shop"], "");
    assert!(code == 1 && text.contains("no draft"), "{text}");
    let (code, text) =
        server.try_cli(&["stack", "draft", "shop", "-"], "schema = 1\nstack.name = 's'\nproxy.port = 0\n");
    assert!(code == 3 && text.contains("proxy.port"), "{text}");
    let (code, text) = server.try_cli(&["stack", "publish", "shop"], "");
    assert_eq!(code, 3, "{text}");
    // The operator API over the network wants to know who asks.
    let url = format!("{}/api/v1/stacks/{id}/draft", server.url);
    let answer = crate::server::http().get(&url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    server.publish("shop", &document(&[("api", '1', "KEY = \"hunter2\", GONE = \"x\"")]));
    let (_, text) =
        server.try_cli(&["stack", "draft", "shop", "-"], &document(&[("api", '1', "KEY = \"new\""), ("web", '2', "")]));
    let draft: serde_json::Value = serde_json::from_str(&text).unwrap();
    let services = draft["diff"]["services"].as_array().unwrap();
    assert_eq!((services[0]["name"].as_str(), services[0]["change"].as_str()), (Some("api"), Some("changed")));
    assert_eq!(services[0]["env"][0], serde_json::json!({"name": "GONE", "change": "removed"}));
    assert_eq!(services[0]["env"][1], serde_json::json!({"name": "KEY", "change": "changed"}));
    assert_eq!((services[1]["name"].as_str(), services[1]["change"].as_str()), (Some("web"), Some("added")));
    let audit = server.cli(&["audit"]);
    let actions: Vec<&str> =
        audit["rows"].as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["draft.save", "version.publish", "draft.save", "draft.save", "stack.create", "user.link"]);
}

#[test]
fn branches_are_looked_up_when_they_are_published() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("api");
    let git = |args: &[&str]| {
        let mut command = std::process::Command::new("git");
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"];
        let output = command.arg("-C").arg(dir.path()).args(identity).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet", "api"]);
    git(&["-C", "api", "commit", "--quiet", "--allow-empty", "-m", "one"]);
    let commit = git(&["-C", "api", "rev-parse", "HEAD"]);
    let server = Server::start(&dir.path().join("home"));
    server.stack("shop");
    let document = |name: &str| {
        format!(
            "schema = 1\nstack.name = 'shop'\n[[service]]\nname = 'api'\nrepo = 'file://{}'\nref = '{name}'\nrun = './r'\n",
            repo.display()
        )
    };
    server.publish("shop", &document("main"));
    let show = server.cli(&["stack", "show", "shop"]);
    assert_eq!(show["services"][0]["published"]["commit"], commit.as_str());
    assert_eq!(show["services"][0]["published"]["from"], "main");
    assert_eq!(server.cli(&["stack", "diff", "shop"]), serde_json::json!({"stack": [], "services": []}));
    let (code, text) = server.try_cli(&["stack", "draft", "shop", "-"], &document("gone"));
    assert_eq!(code, 0, "{text}");
    let (code, text) = server.try_cli(&["stack", "publish", "shop"], "");
    assert!(code == 1 && text.contains("api") && text.contains("gone"), "{code} {text}");
}
