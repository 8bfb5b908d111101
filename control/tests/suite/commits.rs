//! Killed at every commit: what was asked for is there whole or not at all, asking again has one effect, and what the
//! server shows from memory is what the database holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::faults::dump;
use crate::server::{Host, Server, Signed, document, http, try_send, wish};
use crate::visitor::{PASSWORD, Visitor};
use agentd_protocol::control::enroll::Enroll;
use agentd_protocol::control::join::JoinString;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::report::Report;
use agentd_protocol::control::request::{HOST_LABEL, NEW_HOST_KEYID, Signer, TOKEN_LABEL};
use agentd_protocol::digest::Digest;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// What a server does by itself, or notes beside what was asked for.
const BESIDE: [&str; 3] = ["live", "meta", "sqlite_sequence"];

/// A folder with something of everything, to be copied for each kill.
struct Made {
    dir: tempfile::TempDir,
    token: String,
    stack: String,
    /// Of a token that is open, and of one to be revoked.
    join: JoinString,
    spare: String,
    api_token: String,
    host: String,
    waiting: (String, String),
    link: String,
    report: Vec<u8>,
    /// The same from another machine.
    copied: Vec<u8>,
    /// A host that two machines reported as.
    doubled: String,
    /// A host that the database has forgotten, and what it sends.
    forgotten: (String, Vec<u8>),
    cookie: String,
    bundles: AtomicUsize,
}

async fn make() -> Made {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let stack = server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    for commit in ['1', '2'] {
        server.publish("shop", &document(&[("api", commit, "KEY = \"one\"")]));
    }
    let (code, text) = server.try_cli(&["stack", "draft", "shop", "-"], &document(&[("api", '3', "KEY = \"two\"")]));
    assert_eq!(code, 0, "{text}");
    host.update().await;
    host.report(Vec::new()).await;
    let event = host.event("run.started", "one");
    let report = host.next_report(vec![event]);
    let copied = serde_json::to_vec(&Report { machine: Digest::of(b"another"), ..report.clone() }).unwrap();
    let report = serde_json::to_vec(&report).unwrap();
    let mut twin = Host::join(&server, &server.join("shop"), "web-4").await;
    let other = Report { machine: Digest::of(b"another"), ..twin.next_report(Vec::new()) };
    assert_eq!(twin.send_report(&other, &[]).await.0, StatusCode::CONFLICT);
    let careful = server.cli(&["token", "create", "shop", "--approval"])["join"].as_str().unwrap().to_owned();
    let careful = JoinString::read(&careful).unwrap();
    let (status, body) = crate::server::enroll(&server.url, &careful, &SecretKey::from_seed(&[9; 32]), "web-2").await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let code = crate::server::problem(&body)["code"].as_str().unwrap().to_owned();
    let hosts = server.cli(&["host", "list"]);
    let waiting = hosts.as_array().unwrap().iter().find(|row| row["name"] == "web-2").unwrap();
    let waiting = (waiting["id"].as_str().unwrap().to_owned(), code);
    let owner = Visitor::set_up(&server).await;
    let link = server.cli(&["user", "create-link"])["url"].as_str().unwrap().split_once("link=").unwrap().1.to_owned();
    let api_token = server.cli(&["user", "token", "create", "robot", "--write"]);
    let spare = server.cli(&["token", "create", "shop"]);
    let mut made = Made {
        token: api_token["token"].as_str().unwrap().to_owned(),
        api_token: api_token["row"]["id"].as_str().unwrap().to_owned(),
        stack,
        join: JoinString::read(&server.join("shop")).unwrap(),
        spare: spare["token"]["id"].as_str().unwrap().to_owned(),
        host: host.id,
        waiting,
        link,
        report,
        copied,
        doubled: twin.id,
        forgotten: Default::default(),
        cookie: owner.cookie,
        bundles: AtomicUsize::new(0),
        dir,
    };
    // The token's first use is noted, so that it is not part of what is looked at.
    assert_eq!(made.api(&server, Method::GET, "/stacks", json!(null)).await, Some(200));
    assert!(server.stop());
    made.forgotten = forgotten(&made).await;
    made
}

/// What a host sends that joined after the database was copied.
async fn forgotten(made: &Made) -> (String, Vec<u8>) {
    let home = made.copy();
    let server = Server::start(home.path());
    let host = Host::join(&server, &server.join("shop"), "web-5").await;
    let wish = Enroll { receipt: Some(host.receipt.clone()), ..wish(&made.join, &host.key, "web-5") };
    assert!(server.stop());
    (host.id, serde_json::to_vec(&wish).unwrap())
}

impl Made {
    async fn api(&self, server: &Server, method: Method, path: &str, body: Value) -> Option<u16> {
        self.ask(server, method, path, body).await.map(|(status, _)| status)
    }

    async fn ask(&self, server: &Server, method: Method, path: &str, body: Value) -> Option<(u16, Value)> {
        let request = http().request(method, format!("{}/api/v1{path}", server.url)).bearer_auth(&self.token);
        let request = request.header("idempotency-key", "once").header("if-match", "\"3\"");
        let request = if body.is_null() { request } else { request.body(body.to_string()) };
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.unwrap_or_default()))
    }

    /// What makes the server reach that commit; `None`: it died before it answered.
    async fn act(&self, server: &Server, operation: &str) -> Option<u16> {
        let stack = format!("/stacks/{}", self.stack);
        let post = |path: String, body: Value| async move { self.api(server, Method::POST, &path, body).await };
        let cli =
            |args: &[&str], input: &str| Some(server.try_cli(args, input).0).filter(|code| *code == 0).map(|_| 200);
        match operation {
            "create a stack" => post("/stacks".into(), json!({"name": "other"})).await,
            "edit a stack" => self.api(server, Method::PATCH, &stack, json!({"name": "renamed"})).await,
            "save a draft" => cli(&["stack", "draft", "shop", "-"], &document(&[("api", '4', "KEY = \"three\"")])),
            "publish a version" => post(format!("{stack}/versions"), json!({"reason": "r"})).await,
            "publish a version: rollback" => post(format!("{stack}/versions/1/rollback"), json!({"reason": "r"})).await,
            "renew a head" => post(format!("{stack}/hold"), json!({"reason": "r"})).await,
            "create a token" => post(format!("{stack}/tokens"), json!({})).await,
            "revoke a token" => post(format!("/tokens/{}/revoke", self.spare), json!({})).await,
            "approve a host" => {
                post(format!("/hosts/{}/approve", self.waiting.0), json!({"code": self.waiting.1})).await
            }
            "revoke a host" => post(format!("/hosts/{}/revoke", self.host), json!({"reason": "r"})).await,
            "edit a host" => {
                self.api(server, Method::PATCH, &format!("/hosts/{}", self.host), json!({"name": "db-1"})).await
            }
            "take a host in" => self.enroll(server).await,
            "take a report in" => self.as_host(server, "/v1/report", &self.report, &self.host, "web-1").await,
            "take a host back in" => {
                self.as_host(server, "/v1/enroll", &self.forgotten.1, &self.forgotten.0, "web-5").await
            }
            "mark a conflict" => self.as_host(server, "/v1/report", &self.copied, &self.host, "web-1").await,
            "clear a conflict" => post(format!("/hosts/{}/clear-conflict", self.doubled), json!(null)).await,
            "append to the audit" => {
                let number = self.bundles.fetch_add(1, Ordering::Relaxed);
                cli(&["backup", self.dir.path().join(format!("{number}.bundle")).to_str().unwrap()], "")
            }
            "end a session" => {
                let visitor = Visitor { cookie: self.cookie.clone(), ..Visitor::at(server) };
                visitor.try_post("/logout", &[]).await
            }
            "set a password" => cli(&["user", "passwd", "owner"], "another horse battery staple\n"),
            "make an API token" => cli(&["user", "token", "create", "second"], ""),
            "revoke an API token" => cli(&["user", "token", "revoke", &self.api_token], ""),
            "make an entry link" => cli(&["user", "create-link"], ""),
            "use an entry link" => {
                let fields = [("link", self.link.as_str()), ("name", "owner"), ("password", PASSWORD)];
                Visitor::at(server).try_post("/setup", &fields).await
            }
            "begin a session" => {
                Visitor::at(server).try_post("/login", &[("name", "owner"), ("password", PASSWORD)]).await
            }
            "end sessions" => cli(&["user", "logout-all"], ""),
            other => panic!("{other} has no act"),
        }
    }

    async fn enroll(&self, server: &Server) -> Option<u16> {
        let key = SecretKey::from_seed(&[5; 32]);
        let body = serde_json::to_vec(&wish(&self.join, &key, "web-3")).unwrap();
        let signers = [
            Signer { label: TOKEN_LABEL, keyid: self.join.token.as_str(), key: &self.join.key },
            Signer { label: HOST_LABEL, keyid: NEW_HOST_KEYID, key: &key },
        ];
        let signed = Signed { method: Method::POST, path: "/v1/enroll", body, later_s: 0 };
        try_send(&http(), &server.url, signed, &signers).await.map(|status| status.as_u16())
    }

    async fn as_host(&self, server: &Server, path: &str, body: &[u8], id: &str, machine: &str) -> Option<u16> {
        let key = SecretKey::from_seed(Digest::of(machine.as_bytes()).as_bytes());
        let signers = [Signer { label: HOST_LABEL, keyid: id, key: &key }];
        let signed = Signed { method: Method::POST, path, body: body.to_vec(), later_s: 0 };
        try_send(&http(), &server.url, signed, &signers).await.map(|status| status.as_u16())
    }

    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        copy
    }

    /// All that people are shown, over the socket, which needs no session: without what passes with time.
    fn shown(&self, server: &Server) -> Vec<Value> {
        let name = self.stack.as_str();
        let asks: [&[&str]; 6] = [
            &["stack", "list"],
            &["stack", "show", name],
            &["stack", "versions", name],
            &["token", "list", name],
            &["host", "list"],
            &["user", "token", "list"],
        ];
        asks.into_iter().map(|args| server.cli(args)).collect()
    }
}

/// How many rows each table has.
fn counts(home: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in dump(home) {
        let table = row.split(' ').next().unwrap().to_owned();
        if !BESIDE.contains(&table.as_str()) {
            *counts.entry(table).or_default() += 1;
        }
    }
    counts
}

/// Rows as they are, but for when something was last used.
fn rows(home: &Path) -> Vec<String> {
    let is_beside =
        |row: &String| BESIDE.iter().chain(&["api_tokens"]).any(|table| row.starts_with(&format!("{table} ")));
    dump(home).into_iter().filter(|row| !is_beside(row)).collect()
}

async fn killed(operations: &[&str]) {
    let made = make().await;
    let untouched = rows(made.dir.path());
    for name in operations {
        let operation = name.split(':').next().unwrap();
        // What it does when nobody is killed, done once.
        let once = made.copy();
        let server = Server::start(once.path());
        let answer = made.act(&server, name).await;
        // A copy is told that it is one.
        let is_fine = |status: u16| if *name == "mark a conflict" { status == 409 } else { status < 400 };
        assert!(answer.is_some_and(is_fine), "{name}: {answer:?} {}", server.log());
        assert!(server.stop());
        let (done, begun) = (counts(once.path()), counts(made.dir.path()));
        assert_ne!(rows(once.path()), untouched, "{name} does something");
        for stage in ["changed", "committed"] {
            let (at, home) = (format!("{stage}:{operation}"), made.copy());
            let server = Server::start_with(home.path(), &[("CONTROLD_TEST_ABORT_AT", &at)]).unwrap();
            let answer = made.act(&server, name).await;
            assert_eq!(answer, None, "{at}: nobody is told that it was done");
            server.ended();
            // As a reader finds it, before any server has had a hand in it.
            let found = counts(home.path());
            match stage {
                "changed" => assert_eq!(rows(home.path()), untouched, "{at}: not at all"),
                _ if operation == "use an entry link" => {
                    // The session that follows is a commit of its own: its person logs in with what is set.
                    let mut set = done.clone();
                    set.remove("sessions");
                    *set.get_mut("audit").unwrap() -= 1;
                    assert_eq!(found, set, "{at}: whole");
                }
                _ => assert_eq!(found, done, "{at}: whole"),
            }
            let server = Server::start(home.path());
            if at == "committed:use an entry link" {
                assert_eq!(made.act(&server, "begin a session").await, Some(303));
            }
            let answer = made.act(&server, name).await;
            assert!(answer.is_some(), "{at}: it is answered again: {}", server.log());
            let first = made.shown(&server);
            assert!(server.stop());
            let mut again = counts(home.path());
            // What is asked for twice without a key, and is done twice, leaves a row of audit for each; a session, a link and
            // an API token that nobody was told of are another.
            for table in ["audit", "sessions", "entry_links", "api_tokens"] {
                let most = done.get(table).copied().unwrap_or(0).max(begun.get(table).copied().unwrap_or(0)) + 1;
                let found = again.remove(table).unwrap_or(0);
                assert!(found <= most, "{at}: {found} rows of {table}, {most} are the most");
            }
            let mut expected = done.clone();
            expected.retain(|table, _| again.contains_key(table));
            assert_eq!(again, expected, "{at}: one effect");
            let server = Server::start(home.path());
            assert_eq!(made.shown(&server), first, "{at}: memory is what the database has");
            assert!(server.stop());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stacks_and_versions_are_whole_after_a_kill() {
    killed(&[
        "create a stack",
        "edit a stack",
        "save a draft",
        "publish a version",
        "publish a version: rollback",
        "renew a head",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_hosts_are_whole_after_a_kill() {
    killed(&[
        "create a token",
        "revoke a token",
        "approve a host",
        "revoke a host",
        "edit a host",
        "take a host in",
        "take a host back in",
        "take a report in",
        "mark a conflict",
        "clear a conflict",
        "append to the audit",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_whole_after_a_kill() {
    killed(&[
        "set a password",
        "make an API token",
        "revoke an API token",
        "make an entry link",
        "use an entry link",
        "begin a session",
        "end a session",
        "end sessions",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_whole_after_a_kill() {
    let made = make().await;
    let server = Server::start(made.dir.path());
    let file = made.dir.path().join("monday.bundle");
    server.cli(&["backup", file.to_str().unwrap()]);
    assert!(server.stop());
    for stage in ["changed", "committed"] {
        let home = tempfile::tempdir().unwrap();
        std::fs::copy(made.dir.path().join("controld.key"), home.path().join("controld.key")).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_controld"));
        command.arg("--home").arg(home.path()).args(["--json", "restore"]).arg(&file);
        command.env("CONTROLD_TEST_ABORT_AT", format!("{stage}:restore a backup"));
        assert!(!command.output().unwrap().status.success());
        let is_there = home.path().join("control.db").exists();
        assert_eq!(is_there, stage == "committed", "{stage}");
        let (code, text) = crate::server::cli(home.path(), &["restore", file.to_str().unwrap()], "");
        assert_eq!(code == 0, !is_there, "{stage}: {text}");
        let server = Server::start(home.path());
        let stacks = server.cli(&["stack", "list"]);
        assert_eq!((&stacks[0]["name"], &stacks[0]["version"]), (&json!("shop"), &json!(2)), "{stacks}");
        assert!(server.stop());
    }
}
