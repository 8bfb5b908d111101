//! A host that sends attacks in every text it may send, through the hosts' own calls; and every page, every answer and
//! every verb that could show them. Which pages there are is read from the tables of routes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use agentd_protocol::api::*;
use agentd_protocol::control::join::JoinString;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::report::*;
use agentd_protocol::control::request::{HOST_LABEL, NEW_HOST_KEYID, Signer, TOKEN_LABEL};
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::{ReleaseNumber, Version};
use agentd_protocol::security::{Exposure, Mode};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::html;
use crate::server::{Host, Server, Signed, document, http, send, wish};
use crate::visitor::{Visitor, coded};

/// In every attack, with the number of the field it stands in; no id that is drawn has a 9.
const MARK: &str = "zq9";

struct Attack {
    name: &'static str,
    text: fn(usize) -> String,
}

const ATTACKS: [Attack; 7] = [
    Attack {
        name: "markup",
        text: |n| {
            format!("{MARK}{n}\"'><script>alert({n})</script><img src=x onerror=alert({n})><{MARK}-el {MARK}-at=1>")
        },
    },
    Attack {
        name: "attributes",
        text: |n| format!("{MARK}{n}\" onfocus=alert({n}) autofocus {MARK}-at='` style=x:y "),
    },
    Attack { name: "addresses", text: |n| format!("javascript:alert({n})//{MARK}{n}") },
    Attack {
        name: "unseen",
        text: |n| {
            format!(
                "{MARK}{n}\u{202e}live\u{2066}\u{0}\u{7}\u{8}\u{7f}\u{9b}31m\r\ndata: x\r\revent: y\u{feff}\u{e0041}\u{ad}\u{61c}"
            )
        },
    },
    Attack {
        name: "terminals",
        text: |n| {
            format!(
                "{MARK}{n}\u{1b}[2J\u{1b}[1;1H\u{1b}]0;owned\u{7}\u{1b}]8;;http://evil.example\u{1b}\\x\u{1b}]8;;\u{1b}\\\u{1b}P1$r\u{1b}"
            )
        },
    },
    Attack {
        name: "templates",
        text: |n| format!("{MARK}{n}{{{{7*7}}}}</textarea></pre></title><!--<base href=//evil> hx-get=\"/x\"]]>"),
    },
    Attack { name: "size", text: |n| format!("{MARK}{n}{}", "<b>&amp;".repeat(480)) },
];

/// With every field there is, each written out: one that is added does not compile until it stands here.
pub(crate) fn report_in_full(host: &mut Host) -> Report {
    let commit = "ab".repeat(20);
    let text = || "text".to_owned();
    let problem = |outcome, exit| Problem {
        service: Some("api".parse().unwrap()),
        phase: DeployPhase::Health,
        cause: text(),
        commit: Some(commit.parse().unwrap()),
        release: Some(ReleaseNumber(2)),
        probes: vec![Probe { at_unix_ms: 1, latency_ms: 1, outcome }],
        log_tail: vec![text(), text()],
        why: Why {
            exit: Some(exit),
            meaning: Some(text()),
            key_lines: vec![text()],
            changes: Some(Changes {
                since: ReleaseNumber(1),
                from: commit.parse().unwrap(),
                to: commit.parse().unwrap(),
                commits: vec![text()],
                more_commits: true,
                keys: vec![text()],
                env_added: vec![text()],
                env_removed: vec![text()],
                env_changed: vec![text()],
            }),
            next: vec![text()],
        },
        since_unix_ms: 1,
    };
    let snapshot = Snapshot {
        host: HostReport {
            agent: text(),
            os: text(),
            arch: text(),
            agent_started_unix_ms: 1,
            security: Some(SecurityBrief {
                mode: Mode::Tunnel,
                exposure: Exposure::None,
                enforcement: text(),
                is_kept: false,
                notice: Some(text()),
            }),
            tunnel: Some(TunnelStatus {
                state: TunnelState::Degraded,
                since_unix_ms: 1,
                connections: 1,
                managed: true,
                metrics: "127.0.0.1:20241".parse().unwrap(),
                cause: Some(text()),
                config_drift: Some(text()),
            }),
            dns: DnsReport { address: Some("127.0.0.153:53".parse().unwrap()), suffix: text() },
            usage: Some(agentd_protocol::api::Host {
                cpus: 1,
                load_1m_milli: u64::MAX,
                load_5m_milli: 1,
                load_15m_milli: 1,
                memory_total_bytes: 1,
                memory_available_bytes: u64::MAX,
                disk_total_bytes: Some(0),
                disk_free_bytes: Some(u64::MAX),
            }),
            limitations: vec![text()],
            refused: Some(Refusal {
                version: Some(Version(u64::MAX)),
                kind: text(),
                reasons: vec![text(), text()],
                since_unix_ms: u64::MAX,
            }),
            clock_skew_ms: i64::MIN,
        },
        stack: StackStatus {
            name: Some("shop".parse().unwrap()),
            verdict: Verdict::Degraded,
            since_unix_ms: Some(u64::MAX),
            version: Some(Version(1)),
            applied_version: Some(Version(0)),
            file_problem: Some(text()),
            problems: vec![
                problem(ProbeOutcome::Failed { error: text() }, ProgramExit::NotExecuted { error: text() }),
                problem(ProbeOutcome::TimedOut, ProgramExit::Signal { name: text(), core_dumped: true }),
            ],
        },
        services: vec![ServiceReport {
            name: "api".parse().unwrap(),
            state: ServiceState::Failing,
            release: Some(ReleaseNumber(2)),
            commit: Some(commit.parse().unwrap()),
            pinned: Some(ReleaseNumber(1)),
            ready: 0,
            wanted: u32::MAX,
            restarts: u32::MAX,
            since_unix_ms: u64::MAX,
            url: Some(text()),
            cpu_millicores: Some(u32::MAX),
            memory_bytes: Some(u64::MAX),
            last_error: Some(text()),
            last_error_unix_ms: Some(u64::MAX),
            warnings: vec![text()],
        }],
        outbox: OutboxReport { records: u64::MAX, bytes: u64::MAX, lost: u64::MAX },
    };
    let mut events = Vec::new();
    for severity in [Severity::Info, Severity::Warn, Severity::Error] {
        host.event_seq += 1;
        events.push(EventRecord {
            eid: format!("{}-{}", host.stream, host.event_seq),
            seq: host.event_seq,
            at_unix_ms: u64::MAX,
            kind: "deploy.failed".into(),
            severity,
            service: Some("api".parse().unwrap()),
            release: Some(ReleaseNumber(1)),
            instance: Some("abcdefghijkl".parse().unwrap()),
            suppressed: u64::MAX,
            data: BTreeMap::from([("key".to_owned(), Value::from("text"))]),
            text: text(),
        });
    }
    let mut report = host.next_report(events);
    report.snapshot = Some(snapshot);
    report
}

/// Pointers to every text of a report.
fn texts(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(at.to_owned()),
        Value::Array(all) => {
            for (index, one) in all.iter().enumerate() {
                texts(one, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (key, one) in fields {
                texts(one, &format!("{at}/{key}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The report with the attack in every text that its type has room for, those texts, and those that it has none for.
fn attacked(report: &Report, attack: &Attack) -> (Value, Vec<String>, Vec<String>) {
    let mut value = serde_json::to_value(report).unwrap();
    let mut all = Vec::new();
    texts(&value, "", &mut all);
    // Of these the server knows the host and the order of its reports.
    all.retain(|at| {
        !["/rid", "/time", "/machine", "/digest", "/stream"].contains(&at.as_str()) && !at.ends_with("/eid")
    });
    let (mut open, mut shut) = (Vec::new(), Vec::new());
    for at in all {
        let before = value.pointer(&at).unwrap().clone();
        *value.pointer_mut(&at).unwrap() = (attack.text)(open.len()).into();
        // A kind is a word, and checked as such by hand.
        let is_word = at.ends_with("/kind") && !at.starts_with("/snapshot");
        if !is_word && serde_json::from_value::<Report>(value.clone()).is_ok() {
            open.push(at);
            continue;
        }
        *value.pointer_mut(&at).unwrap() = before;
        shut.push(at);
    }
    (value, open, shut)
}

pub(crate) struct Scene {
    pub(crate) stack: String,
    /// The one that reports.
    pub(crate) host: String,
    /// All of the stack's.
    pub(crate) hosts: Vec<String>,
    pub(crate) open: Vec<String>,
}

async fn scene(server: &Server, attack: &Attack) -> Scene {
    let name = format!("shop-{}", attack.name);
    let stack = server.stack(&name);
    server.publish(&name, &document(&[("api", '1', "KEY = \"v\"")]));
    let mut host = join(server, &server.join(&name), attack).await;
    let report = report_in_full(&mut host);
    let (value, open, shut) = attacked(&report, attack);
    let (status, body) = host.call(Method::POST, "/v1/report", value.to_string().into_bytes(), &[]).await;
    assert_eq!(status, StatusCode::OK, "{}: {}", attack.name, String::from_utf8_lossy(&body));
    // What has a type of its own takes no other text.
    for at in &shut {
        let mut next = serde_json::to_value(report_in_full(&mut host)).unwrap();
        *next.pointer_mut(at).unwrap() = (attack.text)(0).into();
        let (status, _) = host.call(Method::POST, "/v1/report", next.to_string().into_bytes(), &[]).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{at} took {}", attack.name);
    }
    // One that waits for a person, and one that was sent away.
    let asks = server.cli(&["token", "create", &name, "--approval"]);
    ask_to_join(server, asks["join"].as_str().unwrap(), attack, "asks").await;
    let (.., gone) = ask_to_join(server, &server.join(&name), attack, "leaves").await;
    let gone: Value = serde_json::from_slice(&gone).unwrap();
    server.cli(&["host", "revoke", gone["host"].as_str().unwrap(), "--reason", "sold"]);
    let hosts = server.cli(&["host", "list", &name]);
    let hosts: Vec<String> =
        hosts.as_array().unwrap().iter().map(|host| host["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(hosts.len(), 3);
    Scene { stack, host: host.id, hosts, open }
}

/// Name, labels and facts of the machine are attacks as well, as far as they are let in.
async fn join(server: &Server, text: &str, attack: &Attack) -> Host {
    let (join, key, machine, body) = ask_to_join(server, text, attack, "reports").await;
    Host::enrolled(server, &join, key, &body, machine)
}

/// `machine`: another one each, so that it has a key of its own.
async fn ask_to_join(
    server: &Server,
    text: &str,
    attack: &Attack,
    machine: &str,
) -> (JoinString, SecretKey, Digest, Vec<u8>) {
    let join = JoinString::read(text).unwrap();
    let machine = format!("{machine} {}", attack.name);
    let key = SecretKey::from_seed(Digest::of(machine.as_bytes()).as_bytes());
    // As much of it as a wish of 16 KiB has room for, five times.
    let said: String = (attack.text)(900).chars().take(1_500).collect();
    let mut wanted = wish(&join, &key, &machine);
    (wanted.name, wanted.os, wanted.arch, wanted.agent) = (said.clone(), said.clone(), said.clone(), said.clone());
    wanted.features = vec![said.clone()];
    wanted.labels = BTreeMap::from([(said.clone(), said)]);
    let signers = [
        Signer { label: TOKEN_LABEL, keyid: join.token.as_str(), key: &join.key },
        Signer { label: HOST_LABEL, keyid: NEW_HOST_KEYID, key: &key },
    ];
    loop {
        let body = serde_json::to_vec(&wanted).unwrap();
        let signed = Signed { method: Method::POST, path: "/v1/enroll", body, later_s: 0 };
        let (status, body) = send(&http(), &server.url, signed, &signers, &[]).await;
        if [StatusCode::CREATED, StatusCode::ACCEPTED].contains(&status) {
            return (join, key, wanted.machine, body);
        }
        assert_eq!(
            (status, wanted.labels.is_empty()),
            (StatusCode::BAD_REQUEST, false),
            "{}",
            String::from_utf8_lossy(&body)
        );
        wanted.labels = BTreeMap::new();
    }
}

/// Every address of a GET, with what it names filled in.
pub(crate) fn addresses(scene: &Scene) -> Vec<String> {
    let token = "tok_abcdefabcdefabcdef";
    let known = [
        ("{stack}", scene.stack.as_str()),
        ("{host}", scene.host.as_str()),
        ("{service}", "api"),
        ("{version}", "1"),
        ("{token}", token),
        ("{name}", "app.css"),
        ("{id}", "apt_0"),
        ("{file}", "x"),
    ];
    let mut all: Vec<String> = Vec::new();
    let api = agentd_control::operator_api::entries()
        .into_iter()
        .map(|entry| (entry.method, format!("/api/v1{}", entry.path)));
    let rest = agentd_control::dashboard::entries().into_iter().chain(agentd_control::auth::entries());
    for (method, path) in api.chain(rest.map(|entry| (entry.method, entry.path.to_owned()))) {
        let filled = known.iter().fold(path, |path, (name, value)| path.replace(name, value));
        assert!(!filled.contains('{'), "say here what stands for the new parameter of {filled}");
        if method == Method::GET && !filled.ends_with("/events/stream") && filled != "/live" {
            all.push(filled);
        }
    }
    let attack = coded(&(ATTACKS[0].text)(0));
    for query in [
        "/events?stack={}",
        "/events?service={}&kind={}&since={}&severity={}",
        "/hosts?stack={}",
        "/login?next={}",
        "/setup?link={}",
        "/?did={}",
        "/{}",
        "/stacks/{}",
        "/api/v1/events?kind={}",
        "/api/v1/{}",
    ] {
        all.push(query.replace("{}", &attack));
    }
    all.push(format!("/events?host={}", scene.host));
    all.extend(scene.hosts.iter().map(|host| format!("/hosts/{host}")));
    all.push(format!("/events?stack={}&before=3", scene.stack));
    all.push(format!("/stacks/{}/versions?before=2", scene.stack));
    all.push(format!("/api/v1/stacks/{}/diff?from=0&to=1", scene.stack));
    all
}

/// Where words of hosts may stand in a tag: those are for eyes and ears alone.
const FOR_EYES: [&str; 4] = ["value", "aria-label", "title", "data-kind"];
const LEADING: [&str; 5] = ["href", "src", "action", "hx-get", "formaction"];

fn check_page(path: &str, html: &str) {
    let page = html::read(html);
    for tag in &page.tags {
        let said = format!("{path}: <{} {:?}>", tag.name, tag.attributes);
        assert!(!tag.name.starts_with(MARK), "{said}");
        assert!(
            !["img", "iframe", "object", "embed", "base", "svg", "style", "template"].contains(&tag.name.as_str()),
            "{said}"
        );
        for (name, value) in &tag.attributes {
            assert!(!name.starts_with(MARK) && !name.starts_with("on") && name != "style", "{said}");
            assert!(!value.contains(MARK) || FOR_EYES.contains(&name.as_str()) || path.contains('%'), "{said}");
            if LEADING.contains(&name.as_str()) {
                let is_own = (value.starts_with('/') && !value.starts_with("//")) || value == "#main";
                assert!(is_own && !value.contains(':'), "{said}");
            }
            assert!(tag.name != "script" || ["src", "defer"].contains(&name.as_str()), "{said}");
        }
    }
}

fn check_unseen(path: &str, text: &str) {
    let is_unseen = |char: char| {
        (char.is_control() && char != '\n')
            || matches!(char, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    let at = text.char_indices().find(|(_, char)| is_unseen(*char)).map(|(at, _)| at);
    if let Some(at) = at {
        let from = (0..=at.saturating_sub(80)).rev().find(|from| text.is_char_boundary(*from)).unwrap_or(0);
        panic!("{path}: unseen {:?}", text[from..].chars().take(120).collect::<String>());
    }
}

/// Numbers of the fields that a text shows.
fn seen(text: &str, fields: usize) -> BTreeSet<usize> {
    (0..fields)
        .filter(|n| {
            text.match_indices(&format!("{MARK}{n}"))
                .any(|(at, found)| !text[at + found.len()..].starts_with(|char: char| char.is_ascii_digit()))
        })
        .collect()
}

#[tokio::test]
async fn no_text_of_a_host_is_more_than_text_on_any_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let owner = Visitor::set_up(&server).await;
    for attack in &ATTACKS {
        let scene = scene(&server, attack).await;
        let (mut shown, mut pages) = (BTreeSet::new(), 0);
        for path in addresses(&scene) {
            let answer = owner.ask(Method::GET, &path).header("accept", "text/html").send().await.unwrap();
            assert!(!answer.status().is_server_error(), "{path}: {}", answer.status());
            let header = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
            let (media, nosniff, csp) =
                (header("content-type"), header("x-content-type-options"), header("content-security-policy"));
            assert_eq!(nosniff, "nosniff", "{path}");
            assert!(csp.contains("script-src 'self'") && !csp.contains("unsafe"), "{path}");
            let text = answer.text().await.unwrap();
            if media.starts_with("text/html") {
                check_page(&path, &text);
                check_unseen(&path, &text);
                shown.extend(seen(&text, scene.open.len()));
                pages += 1;
            } else {
                let plain = ["application/json", "application/problem+json", "text/css", ""];
                assert!(plain.iter().any(|known| media.split(';').next() == Some(known)), "{path}: {media}");
            }
        }
        assert!(pages > 20, "{pages} pages");
        let hidden: Vec<&String> =
            scene.open.iter().enumerate().filter(|(n, _)| !shown.contains(n)).map(|(_, at)| at).collect();
        // What is asked for from the host and shown nowhere is not worth sending.
        let unshown = [
            "/events/0/data/key",
            "/events/1/data/key",
            "/events/2/data/key",
            "/snapshot/host/os",
            "/snapshot/host/arch",
        ];
        assert!(hidden.iter().all(|at| unshown.contains(&at.as_str())), "{}: nowhere shown: {hidden:?}", attack.name);
        refusals(&owner, &scene).await;
        streams(&owner, &scene).await;
    }
    terminals(&server);
    assert!(server.stop());
}

/// Pages that answer a form which could not be done.
async fn refusals(owner: &Visitor, scene: &Scene) {
    for host in &scene.hosts {
        for (act, form) in [
            ("approve", &[("code", "NONE-0000"), ("back", "host")][..]),
            ("name", &[("name", "")]),
            ("labels", &[("labels", "no pair")]),
            ("clear-conflict", &[]),
            ("revoke", &[("name", "another"), ("reason", "none")]),
        ] {
            let path = format!("/hosts/{host}/{act}");
            let answer = owner.post(&path, form).await;
            assert!(answer.status().is_client_error(), "{path}: {}", answer.status());
            let text = answer.text().await.unwrap();
            check_page(&path, &text);
            check_unseen(&path, &text);
        }
    }
}

/// A message of a stream ends with an empty line: no text may bring one, nor a field of its own.
async fn streams(owner: &Visitor, scene: &Scene) {
    let path = format!("/api/v1/events/stream?after=0&stack={}", scene.stack);
    let mut answer = owner.get(&path).await;
    let mut text = String::new();
    while text.matches("\n\n").count() < 3 {
        text.push_str(std::str::from_utf8(&answer.chunk().await.unwrap().expect("three events come")).unwrap());
    }
    // What /live says holds no word of anybody's.
    let mut live = owner.get("/live").await;
    assert_eq!(live.chunk().await.unwrap().unwrap(), "retry: 3000\n\n");
    let events: Vec<&str> = text.split("\n\n").take(3).collect();
    for event in events {
        let lines: Vec<&str> = event.split(['\n', '\r']).collect();
        let fields: BTreeSet<&str> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!((fields, lines.len()), (BTreeSet::from(["data", "id"]), 2), "{event}");
        let data = lines.iter().find_map(|line| line.strip_prefix("data: ")).unwrap();
        serde_json::from_str::<Value>(data).unwrap();
    }
}

/// What the command line writes, in both of its forms.
fn terminals(server: &Server) {
    let stacks: Vec<String> = ATTACKS.iter().map(|attack| format!("shop-{}", attack.name)).collect();
    let hosts = server.cli(&["host", "list"]);
    let mut all: Vec<Vec<&str>> = vec![
        vec!["stack", "list"],
        vec!["host", "list"],
        vec!["events", "--limit", "100"],
        vec!["audit", "--limit", "200"],
    ];
    for stack in &stacks {
        all.extend([vec!["stack", "show", stack], vec!["stack", "versions", stack]]);
    }
    for host in hosts.as_array().unwrap() {
        all.push(vec!["host", "show", host["id"].as_str().unwrap()]);
    }
    all.push(vec!["host", "show", "no\u{202e}such\u{1b}[2Jhost"]);
    for words in all {
        for form in [&[][..], &["--json"][..]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_controld"));
            let ran = command.arg("--home").arg(&server.home).args(form).args(&words).output().unwrap();
            for text in [ran.stdout, ran.stderr] {
                check_unseen(&format!("{words:?}"), std::str::from_utf8(&text).unwrap());
            }
        }
    }
}
