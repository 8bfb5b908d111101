//! The hosts: who joined, what each of them reports, and what happened in the last quarter of an hour.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agentd_control::clock::{now, now_unix_ms};
use agentd_control::core::{Actor, Control, Welcome};
use agentd_control::model::{Approval, DraftFormat, NewStack, NewToken, Publish};
use agentd_control::store::Store;
use agentd_protocol::control::enroll::Enroll;
use agentd_protocol::control::ids::{HostId, StackId};
use agentd_protocol::control::join::JoinString;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::report::Report;
use agentd_protocol::digest::Digest;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const OLD: &str = "4f0c2d9be13ac29d0c1a7f53ee01ab6c2d8e9f10";
const NEW: &str = "b81e77a3c4d2f6e0918273645546372819aabbcc";
const DOCUMENT: &str = r#"# What the shop runs. Who changes this, says why when publishing.
schema = 1

[stack]
name = "shop"
poll_interval = "15s"

[security]
mode = "tunnel"

[[service]]
name = "web"
repo = "https://git.example.com/shop/web"
commit = "4f0c2d9be13ac29d0c1a7f53ee01ab6c2d8e9f10"
run = "node server.js"
path = "/"

[[service]]
name = "api"
repo = "https://git.example.com/shop/api"
commit = "@API@"
run = "node api.js"
path = "/api"
replicas = 2
env = { LOG_LEVEL = "info", DATABASE_URL = "postgres://shop:s3cr3t-in-the-draft@10.0.0.7/shop"@MORE@ }
health = { path = "/healthz" }

[[service]]
name = "worker"
repo = "https://git.example.com/shop/worker"
commit = "4f0c2d9be13ac29d0c1a7f53ee01ab6c2d8e9f10"
run = "node worker.js"
kind = "worker"
"#;

#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) stack: StackId,
    /// One whose service follows a branch.
    pub(crate) site: StackId,
    repo: PathBuf,
    hosts: BTreeMap<&'static str, Member>,
}

#[derive(Debug)]
struct Member {
    id: HostId,
    machine: Digest,
    seq: u64,
    events: u64,
}

pub(crate) async fn seed(control: &Control, store: &Store, dir: &Path) -> Result<Fleet> {
    let martha = Actor::User { id: "1".into(), name: "martha".into() };
    let new = NewStack { name: "shop".into(), environment: "production".into() };
    let stack = control.create_stack(&martha, new).await?.id;
    let quiet = NewStack { name: "intranet".into(), environment: "staging".into() };
    control.create_stack(&Actor::User { id: "2".into(), name: "bob".into() }, quiet).await?;
    let repo = dir.join("repo");
    let site = following(control, &martha, &repo).await?;
    let mut fleet = Fleet { stack: stack.clone(), site, repo, hosts: BTreeMap::new() };
    publish(control, &martha, &stack, &[("@API@", OLD), ("@MORE@", "")], "first version").await?;
    for name in ["web-1", "web-2", "web-3", "edge-1"] {
        fleet.join(control, &martha, name, Approval::None).await?;
    }
    for name in ["web-1", "web-2", "web-3", "edge-1"] {
        fleet.report(control, name, healthy(name, 1, OLD), Vec::new(), (1, 1)).await?;
    }
    let changes = [("@API@", NEW), ("@MORE@", ", PAYMENT_KEY = \"pk-live-never-shown\"")];
    publish(control, &martha, &stack, &changes, "checkout: new payment provider").await?;
    for name in ["web-1", "edge-1"] {
        let events = vec![event("deploy.done", "info", Some("api"), 380, "deployed in 4.1 s, instead of release 1")];
        fleet.report(control, name, healthy(name, 2, NEW), events, (2, 2)).await?;
    }
    fleet.report(control, "web-2", broken(), broken_events(), (2, 1)).await?;
    fleet.join(control, &martha, "web-4", Approval::Person).await?;
    // What web-3 last said is 46 minutes old.
    let mut lives = store.lives().await?;
    lives.retain(|live| live.host == fleet.hosts["web-3"].id);
    lives.iter_mut().for_each(|live| live.last_seen = now_unix_ms() - 46 * 60_000);
    store.touch(lives).await?;
    Ok(fleet)
}

/// A stack whose one service follows the branch of a repository on this machine.
async fn following(control: &Control, by: &Actor, repo: &Path) -> Result<StackId> {
    std::fs::create_dir_all(repo)?;
    git(repo, &["init", "--quiet"])?;
    commit(repo, "first")?;
    let new = NewStack { name: "site".into(), environment: String::new() };
    let site = control.create_stack(by, new).await?.id;
    let repo = repo.canonicalize()?;
    let text = format!(
        "schema = 1\n\n[stack]\nname = \"site\"\n\n[[service]]\nname = \"docs\"\nrepo = \"file://{}\"\nref = \"main\"\nrun = \"./serve\"\n",
        repo.display()
    );
    let draft = control.save_draft(by, &site, 0, DraftFormat::Toml, text).await?;
    control.publish(by, &site, draft.revision, &asked("first version"), None).await?;
    Ok(site)
}

fn commit(repo: &Path, subject: &str) -> Result<()> {
    git(repo, &["commit", "--quiet", "--allow-empty", "-m", subject])
}

fn git(repo: &Path, words: &[&str]) -> Result<()> {
    let mut command = std::process::Command::new("git");
    command.args([
        "-c",
        "user.name=martha",
        "-c",
        "user.email=martha@example.com",
        "-c",
        "init.defaultBranch=main",
        "-C",
    ]);
    let done = command.arg(repo).args(words).env("GIT_CONFIG_GLOBAL", "/dev/null").status()?;
    if done.success() { Ok(()) } else { bail!("git {words:?} failed") }
}

fn asked(reason: &str) -> Publish {
    Publish { reason: reason.to_owned(), ..Publish::default() }
}

async fn publish(control: &Control, by: &Actor, stack: &StackId, changes: &[(&str, &str)], reason: &str) -> Result<()> {
    let text = changes.iter().fold(DOCUMENT.to_owned(), |text, (from, to)| text.replace(from, to));
    let revision = control.draft(stack).await?.revision;
    let draft = control.save_draft(by, stack, revision, DraftFormat::Toml, text).await?;
    if !draft.problems.is_empty() {
        bail!("the document of the example has problems: {:?}", draft.problems);
    }
    control.publish(by, stack, draft.revision, &asked(reason), None).await?;
    Ok(())
}

impl Fleet {
    pub(crate) async fn order(&mut self, control: &Control, word: &str) -> Result<()> {
        match word {
            "heal" => {
                let events = vec![
                    event("deploy.done", "info", Some("api"), 1, "deployed in 3.9 s, instead of release 1"),
                    event("config.applied", "info", None, 0, "version 2 is applied"),
                ];
                self.report(control, "web-2", healthy("web-2", 2, NEW), events, (2, 2)).await
            }
            "break" => self.report(control, "web-2", broken(), broken_events(), (2, 1)).await,
            "deploy" => {
                self.report(control, "web-1", deploying("web-1", "building"), Vec::new(), (2, 1)).await?;
                self.report(control, "edge-1", deploying("edge-1", "fetching"), Vec::new(), (2, 1)).await
            }
            "deployed" => {
                self.report(control, "web-1", healthy("web-1", 2, NEW), Vec::new(), (2, 2)).await?;
                self.report(control, "edge-1", healthy("edge-1", 2, NEW), Vec::new(), (2, 2)).await
            }
            // Another machine reports with the key of this one.
            "clone" => {
                let member = self.hosts.get_mut("edge-1").context("it has joined")?;
                let machine = std::mem::replace(&mut member.machine, Digest::of(b"another"));
                let refused = self.report(control, "edge-1", healthy("edge-1", 2, NEW), Vec::new(), (2, 2)).await;
                self.hosts.get_mut("edge-1").context("it has joined")?.machine = machine;
                if refused.is_ok() { bail!("the copy was believed") } else { Ok(()) }
            }
            "attack" => self.report(control, "web-1", attack(), attack_events(), (2, 2)).await,
            "commit" => commit(&self.repo, "another"),
            other => bail!("`{other}` is no order: heal, break, deploy, deployed, clone, attack, commit"),
        }
    }

    async fn join(&mut self, control: &Control, by: &Actor, name: &'static str, approval: Approval) -> Result<()> {
        let new = NewToken { note: name.to_owned(), approval, ..NewToken::default() };
        let made = control.create_token(by, &self.stack, new, None).await?;
        let join = JoinString::read(&made.join)?;
        let seed = *Digest::of(name.as_bytes()).as_bytes();
        let machine = Digest::of(&seed);
        let wish = Enroll {
            stack: join.stack,
            key: SecretKey::from_seed(&seed).public(),
            name: name.to_owned(),
            machine,
            os: "Debian GNU/Linux 13 (trixie)".into(),
            arch: "x86_64".into(),
            agent: "0.1.0".into(),
            cap: 1,
            features: vec!["git".into()],
            labels: BTreeMap::from([("role".to_owned(), name.split('-').next().unwrap_or(name).to_owned())]),
            receipt: None,
        };
        match control.enroll(&join.token, wish).await? {
            Welcome::New(enrolled) | Welcome::Again(enrolled) => {
                self.hosts.insert(name, Member { id: enrolled.host, machine, seq: 0, events: 0 });
                Ok(())
            }
            Welcome::Pending(_) => Ok(()),
        }
    }

    async fn report(
        &mut self,
        control: &Control,
        name: &'static str,
        snapshot: Value,
        events: Vec<Value>,
        (seen, applied): (u64, u64),
    ) -> Result<()> {
        let member = self.hosts.get_mut(name).context("it has joined")?;
        member.seq += 1;
        let mut records = Vec::new();
        for mut event in events {
            member.events += 1;
            event["seq"] = json!(member.events);
            event["eid"] = json!(uuid(name, member.events));
            records.push(event);
        }
        let report: Report = serde_json::from_value(json!({
            "rid": format!("{:032x}", member.seq), "boot": 1, "seq": member.seq, "cap": 1, "time": now(),
            "machine": member.machine, "head": {"root": 1, "epoch": 1, "seen": seen, "applied": applied},
            "digest": Digest::of(snapshot.to_string().as_bytes()), "snapshot": snapshot, "stream": "c3RyZWFt", "events": records,
        }))?;
        control.report(&member.id, report, None).await?;
        Ok(())
    }
}

/// In the form of version 7, and the same for the same event.
fn uuid(name: &str, number: u64) -> String {
    let digits = Digest::of(format!("{name}{number}").as_bytes()).to_string();
    format!("01{}-{}-7{}-8{}-{}", &digits[..6], &digits[6..10], &digits[10..13], &digits[13..16], &digits[16..28])
}

fn ago(seconds: u64) -> u64 {
    now_unix_ms() - seconds * 1_000
}

fn event(kind: &str, severity: &str, service: Option<&str>, seconds: u64, text: &str) -> Value {
    json!({"eid": "", "seq": 0, "at_unix_ms": ago(seconds), "kind": kind, "severity": severity, "service": service, "text": text})
}

fn broken_events() -> Vec<Value> {
    let failed = "deploy failed in health after 60.0 s: HTTP 500 from /healthz; release 1 serves on";
    vec![
        event("build.started", "info", Some("api"), 402, "building commit b81e77a"),
        event("build.succeeded", "info", Some("api"), 371, "built commit b81e77a in 30.8 s"),
        event(
            "crash.exited",
            "warn",
            Some("worker"),
            350,
            "crashed after 3 min 2 s: exit code 1; starts again at once",
        ),
        event("deploy.failed", "error", Some("api"), 301, failed),
        event("config.degraded", "error", None, 300, "version 2 is degraded: api: not ready within 60 s"),
    ]
}

fn service(name: &str, release: u64, commit: &str, fields: Value) -> Value {
    let mut report = json!({
        "name": name, "state": "ready", "release": release, "commit": commit, "pinned": null, "ready": 1, "wanted": 1, "restarts": 0,
        "since_unix_ms": ago(370), "url": null, "cpu_millicores": 90, "memory_bytes": 143_000_000_u64, "last_error": null,
        "last_error_unix_ms": null, "warnings": [],
    });
    for (key, value) in fields.as_object().into_iter().flatten() {
        report[key] = value.clone();
    }
    report
}

fn host(name: &str) -> Value {
    let (mode, exposure) = if name == "edge-1" { ("daemon-port", "daemon-port") } else { ("tunnel", "none") };
    let tunnel = (mode == "tunnel").then(|| {
        json!({"state": "connected", "since_unix_ms": ago(90_000), "connections": 4, "managed": true, "metrics": "127.0.0.1:20241", "cause": null, "config_drift": null})
    });
    json!({
        "agent": "0.1.0", "os": "Debian GNU/Linux 13 (trixie)", "arch": "x86_64", "agent_started_unix_ms": ago(600_000),
        "security": {"mode": mode, "exposure": exposure, "enforcement": "nftables", "is_kept": true, "notice": null},
        "tunnel": tunnel, "dns": {"address": "127.0.0.153:53", "suffix": "svc.internal"},
        "usage": {"cpus": 4, "load_1m_milli": 1_310, "load_5m_milli": 900, "load_15m_milli": 720, "memory_total_bytes": 8_200_000_000_u64, "memory_available_bytes": 3_100_000_000_u64, "disk_total_bytes": 40_000_000_000_u64, "disk_free_bytes": 21_900_000_000_u64},
        "limitations": [], "refused": null, "clock_skew_ms": 12,
    })
}

fn healthy(name: &str, version: u64, api: &str) -> Value {
    json!({
        "host": host(name),
        "stack": {"name": "shop", "verdict": "applied", "since_unix_ms": ago(370), "version": version, "applied_version": version, "file_problem": null, "problems": []},
        "services": [
            service("web", 1, OLD, json!({"url": "https://shop.example.com/"})),
            service("api", version, api, json!({"ready": 2, "wanted": 2, "url": "https://shop.example.com/api", "cpu_millicores": 240})),
            service("worker", 1, OLD, json!({})),
        ],
        "outbox": {"records": 0, "bytes": 0, "lost": 0},
    })
}

/// The new release of api cannot reach its database; the old one serves on.
fn broken() -> Value {
    let mut snapshot = healthy("web-2", 2, OLD);
    let cause = "not ready within 60 s: HTTP 500 from /healthz";
    snapshot["stack"] = json!({
        "name": "shop", "verdict": "degraded", "since_unix_ms": ago(300), "version": 2, "applied_version": 1, "file_problem": null,
        "problems": [{
            "service": "api", "phase": "health", "cause": cause, "commit": NEW, "release": 2, "since_unix_ms": ago(301),
            "probes": [
                {"at_unix_ms": ago(304), "latency_ms": 3, "outcome": {"status": {"status": 500}}},
                {"at_unix_ms": ago(303), "latency_ms": 4, "outcome": {"status": {"status": 500}}},
                {"at_unix_ms": ago(302), "latency_ms": 3, "outcome": {"status": {"status": 500}}},
            ],
            "log_tail": [
                "listening on 127.0.0.1:20143", "\u{1b}[31mError:\u{1b}[0m connect ECONNREFUSED 10.0.0.9:5432",
                "    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1555:16)", "GET /healthz 500 3.1 ms",
            ],
            "why": {
                "meaning": "the program runs, but its database at 10.0.0.9:5432 refuses connections",
                "key_lines": ["Error: connect ECONNREFUSED 10.0.0.9:5432"],
                "changes": {"since": 1, "from": OLD, "to": NEW, "commits": ["b81e77a use the new payment provider", "90cc1d2 read the database's address from DATABASE_URL"],
                            "more_commits": false, "keys": [], "env_added": ["PAYMENT_KEY"], "env_removed": [], "env_changed": []},
                "next": ["agentctl logs api --since 10m"],
            },
        }],
    });
    snapshot["services"][1] = service(
        "api",
        1,
        OLD,
        json!({
            "state": "partial", "ready": 2, "wanted": 2, "since_unix_ms": ago(301), "last_error": cause, "last_error_unix_ms": ago(301), "url": "https://shop.example.com/api",
        }),
    );
    snapshot["services"][2]["restarts"] = json!(4);
    snapshot
}

/// The new version on its way: one service is being made, the others run.
fn deploying(name: &str, state: &str) -> Value {
    let mut snapshot = healthy(name, 2, OLD);
    snapshot["stack"] = json!({
        "name": "shop", "verdict": "applying", "since_unix_ms": ago(20), "version": 2, "applied_version": 1, "file_problem": null,
        "problems": [],
    });
    snapshot["services"][1] =
        service("api", 1, OLD, json!({"state": state, "ready": 2, "wanted": 2, "since_unix_ms": ago(12)}));
    snapshot
}

/// In every text of it there is what a browser must not act on.
fn attack() -> Value {
    const TEXT: &str = "zq\"'><script>alert(1)</script><img src=//evil.example/x onerror=alert(1)><svg onload=alert(1)>\
        <a href=\"javascript:alert(1)\">x</a><style>*{background:url(//evil.example/y)}</style>\u{202e}\u{1b}[2J";
    fn everywhere(value: &mut Value) {
        match value {
            Value::String(text) => TEXT.clone_into(text),
            Value::Array(all) => all.iter_mut().for_each(everywhere),
            Value::Object(fields) => fields.values_mut().for_each(everywhere),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut snapshot = broken();
    let clean = snapshot.clone();
    everywhere(&mut snapshot);
    // What has a type of its own has no room for it.
    for at in [
        "/host/security/mode",
        "/host/security/exposure",
        "/host/tunnel/state",
        "/host/tunnel/metrics",
        "/host/dns/address",
        "/stack/name",
        "/stack/verdict",
        "/stack/problems/0/service",
        "/stack/problems/0/phase",
        "/stack/problems/0/commit",
        "/stack/problems/0/probes",
        "/stack/problems/0/why/changes/from",
        "/stack/problems/0/why/changes/to",
        "/services/0/name",
        "/services/0/state",
        "/services/0/commit",
        "/services/1/name",
        "/services/1/state",
        "/services/1/commit",
        "/services/2/name",
        "/services/2/state",
        "/services/2/commit",
    ] {
        if let (Some(to), Some(from)) = (snapshot.pointer_mut(at), clean.pointer(at)) {
            to.clone_from(from);
        }
    }
    snapshot["host"]["limitations"] = json!([TEXT]);
    snapshot["host"]["security"]["notice"] = json!(TEXT);
    snapshot["host"]["tunnel"]["cause"] = json!(TEXT);
    snapshot["services"][0]["warnings"] = json!([TEXT]);
    snapshot["services"][0]["last_error"] = json!(TEXT);
    snapshot
}

fn attack_events() -> Vec<Value> {
    let text = attack()["host"]["agent"].as_str().unwrap_or_default().to_owned();
    vec![event("deploy.failed", "error", Some("api"), 1, &text)]
}
