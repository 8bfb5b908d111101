//! A server in a folder of its own, its command line, and a host that does what the protocol says and nothing else.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentd_protocol::api::{Severity, StackStatus, Verdict};
use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::enroll::{Enroll, Enrolled};
use agentd_protocol::control::join::JoinString;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::report::{
    DnsReport, EventRecord, HostReport, OutboxReport, Report, Reported, Seen, Snapshot,
};
use agentd_protocol::control::request::{self, HOST_LABEL, NEW_HOST_KEYID, Parts, Signer, TOKEN_LABEL};
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::{Decision, Now, TrustRecord};
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::Version;
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// Longer than anything takes on a loaded machine.
pub(crate) const CAP: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    child: Child,
    pub(crate) home: PathBuf,
    pub(crate) url: String,
    /// What it has said so far.
    log: Arc<Mutex<String>>,
}

impl Server {
    pub(crate) fn start(home: &Path) -> Self {
        Self::start_with(home, &[]).expect("it serves")
    }

    /// `None` where it ended instead.
    pub(crate) fn start_with(home: &Path, env: &[(&str, &str)]) -> Option<Self> {
        Self::launch(home, env, &[])
    }

    pub(crate) fn launch(home: &Path, env: &[(&str, &str)], args: &[&str]) -> Option<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_controld"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--home"]).arg(home).args(args).envs(env.iter().copied());
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let (said, told) = (Arc::clone(&log), std::sync::mpsc::channel());
        let (tell, hear) = told;
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    said.lock().unwrap().push_str(&format!("{line}\n"));
                    if let Some((_, rest)) = line.split_once("serves url=\"") {
                        let _ = tell.send(rest.split('"').next().unwrap().to_owned()); // nobody may listen any more
                    }
                }
            })
            .unwrap();
        let url = hear.recv_timeout(CAP).ok();
        let Some(url) = url else {
            child.wait().unwrap();
            return None;
        };
        Some(Self { child, home: home.to_owned(), url, log })
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// SIGTERM, and whether it ended well.
    pub(crate) fn stop(mut self) -> bool {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().success()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for it to have ended by itself.
    pub(crate) fn ended(mut self) {
        let end = Instant::now() + CAP;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it runs on: {}", self.log());
            std::thread::sleep(Duration::from_millis(20)); // poll: whether the process has ended
        }
    }

    pub(crate) fn cli(&self, args: &[&str]) -> Value {
        let (code, text) = self.try_cli(args, "");
        assert_eq!(code, 0, "{args:?}: {text}\n{}", self.log());
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn try_cli(&self, args: &[&str], input: &str) -> (i32, String) {
        cli(&self.home, args, input)
    }

    pub(crate) fn stack(&self, name: &str) -> String {
        self.cli(&["stack", "create", name])["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn join(&self, stack: &str) -> String {
        self.cli(&["token", "create", stack])["join"].as_str().unwrap().to_owned()
    }

    pub(crate) fn publish(&self, stack: &str, document: &str) -> u64 {
        let (code, text) = self.try_cli(&["stack", "draft", stack, "-"], document);
        assert_eq!(code, 0, "{text}");
        self.cli(&["stack", "publish", stack, "--reason", "a test"])["number"].as_u64().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, most often.
        let _ = self.child.kill();
        let _ = self.child.wait(); // the same
    }
}

/// Exit code and standard output, or standard error where it failed.
pub(crate) fn cli(home: &Path, args: &[&str], input: &str) -> (i32, String) {
    use std::io::Write;
    let mut command = Command::new(env!("CARGO_BIN_EXE_controld"));
    command.arg("--home").arg(home).arg("--json").args(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let (mut out, mut complaint) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    let code = child.wait().unwrap().code().unwrap_or(-1);
    (code, if code == 0 { out } else { format!("{out}{complaint}") })
}

pub(crate) fn document(services: &[(&str, char, &str)]) -> String {
    let mut text = "schema = 1\n[stack]\nname = \"shop\"\npoll_interval = \"60s\"\n".to_owned();
    for (name, commit, env) in services {
        let commit = commit.to_string().repeat(40);
        text.push_str(&format!(
            "[[service]]\nname = \"{name}\"\nrepo = \"https://git.example.com/{name}\"\ncommit = \"{commit}\"\n\
             run = \"./run\"\npath = \"/{name}\"\nenv = {{ {env} }}\n"
        ));
    }
    text
}

pub(crate) struct Host {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) key: SecretKey,
    pub(crate) stack: String,
    pub(crate) id: String,
    pub(crate) machine: Digest,
    pub(crate) trust: TrustRecord,
    pub(crate) receipt: Envelope,
    pub(crate) boot: u64,
    pub(crate) seq: u64,
    pub(crate) stream: String,
    pub(crate) event_seq: u64,
}

pub(crate) fn http() -> reqwest::Client {
    agentd_sys::http::plain().timeout(CAP).build().unwrap()
}

fn secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn now() -> Now {
    Now { clock: Time::from_unix_secs(i64::try_from(secs()).unwrap()), built: Time::EPOCH }
}

pub(crate) fn wish(join: &JoinString, key: &SecretKey, machine: &str) -> Enroll {
    Enroll {
        stack: join.stack.clone(),
        key: key.public(),
        name: machine.to_owned(),
        machine: Digest::of(machine.as_bytes()),
        os: "debian 13".into(),
        arch: "x86_64".into(),
        agent: "0.1.0".into(),
        cap: 1,
        features: vec!["git".into()],
        labels: BTreeMap::new(),
        receipt: None,
    }
}

pub(crate) struct Signed<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) body: Vec<u8>,
    /// Moves the time that is signed.
    pub(crate) later_s: i64,
}

/// Sends a request as hosts do.
pub(crate) async fn send(
    http: &reqwest::Client,
    url: &str,
    signed: Signed<'_>,
    signers: &[Signer<'_>],
    headers: &[(&str, &str)],
) -> (StatusCode, Vec<u8>) {
    let answer = prepared(http, url, signed, signers, headers).send().await.unwrap();
    (answer.status(), answer.bytes().await.unwrap().to_vec())
}

/// `None`: the server has gone before it answered.
pub(crate) async fn try_send(
    http: &reqwest::Client,
    url: &str,
    signed: Signed<'_>,
    signers: &[Signer<'_>],
) -> Option<StatusCode> {
    prepared(http, url, signed, signers, &[]).send().await.ok().map(|answer| answer.status())
}

fn prepared(
    http: &reqwest::Client,
    url: &str,
    signed: Signed<'_>,
    signers: &[Signer<'_>],
    headers: &[(&str, &str)],
) -> reqwest::RequestBuilder {
    let digest = request::content_digest(&signed.body);
    let parts = Parts { method: signed.method.as_str(), path: signed.path, query: "", content_digest: &digest };
    let created = secs().checked_add_signed(signed.later_s).unwrap();
    let signature = request::sign(parts, created, signers);
    let mut call = http
        .request(signed.method, format!("{url}{}", signed.path))
        .header("content-digest", digest)
        .header("signature-input", signature.signature_input)
        .header("signature", signature.signature)
        .body(signed.body);
    for (name, value) in headers {
        call = call.header(*name, *value);
    }
    call
}

pub(crate) async fn enroll(url: &str, join: &JoinString, key: &SecretKey, machine: &str) -> (StatusCode, Vec<u8>) {
    let body = serde_json::to_vec(&wish(join, key, machine)).unwrap();
    let signers = [
        Signer { label: TOKEN_LABEL, keyid: join.token.as_str(), key: &join.key },
        Signer { label: HOST_LABEL, keyid: NEW_HOST_KEYID, key },
    ];
    let signed = Signed { method: Method::POST, path: "/v1/enroll", body, later_s: 0 };
    send(&http(), url, signed, &signers, &[]).await
}

pub(crate) fn problem(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(body)))
}

pub(crate) fn slug(body: &[u8]) -> String {
    problem(body)["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap().to_owned()
}

/// A server with a stack, whose one host has the first version and has said so.
pub(crate) async fn settled(home: &Path) -> (Server, Host) {
    let server = Server::start(home);
    server.stack("shop");
    let mut host = Host::join(&server, &server.join("shop"), "web-1").await;
    server.publish("shop", &document(&[("api", '1', "")]));
    host.update().await;
    host.report(Vec::new()).await;
    (server, host)
}

/// Everything into the file itself: while a log lies beside it, its pages stand for the file's.
pub(crate) fn settle(path: &Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.pragma_update_and_check(None, "wal_checkpoint", "truncate", |_| Ok(())).unwrap();
}

/// Spoils the journal of a server that has ended; the file as it is then.
pub(crate) fn damage_journal(home: &Path) -> Vec<u8> {
    let path = home.join("journal.db");
    settle(&path);
    let mut file = std::fs::read(&path).unwrap();
    file[16..100].fill(0xff);
    std::fs::write(&path, &file).unwrap();
    file
}

impl Host {
    pub(crate) async fn join(server: &Server, text: &str, machine: &str) -> Self {
        let join = JoinString::read(text).unwrap();
        let key = SecretKey::from_seed(Digest::of(machine.as_bytes()).as_bytes());
        let (status, body) = enroll(&server.url, &join, &key, machine).await;
        assert_eq!(status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&body));
        Self::enrolled(server, &join, key, &body, Digest::of(machine.as_bytes()))
    }

    /// `body`: what the server answered to its wish.
    pub(crate) fn enrolled(server: &Server, join: &JoinString, key: SecretKey, body: &[u8], machine: Digest) -> Self {
        let enrolled: Enrolled = serde_json::from_slice(body).unwrap();
        let trust = TrustRecord::begin(&join.stack, &join.root, &enrolled.roots).unwrap();
        Self {
            http: http(),
            url: server.url.clone(),
            key,
            stack: join.stack.to_string(),
            id: enrolled.host.to_string(),
            machine,
            trust,
            receipt: enrolled.receipt,
            boot: 1,
            seq: 0,
            stream: "stream1".into(),
            event_seq: 0,
        }
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> (StatusCode, Vec<u8>) {
        let signers = [Signer { label: HOST_LABEL, keyid: &self.id, key: &self.key }];
        send(&self.http, &self.url, Signed { method, path, body, later_s: 0 }, &signers, headers).await
    }

    pub(crate) async fn get(&self, file: &str) -> (StatusCode, Vec<u8>) {
        self.call(Method::GET, &format!("/s/{}/{file}", self.stack), Vec::new(), &[]).await
    }

    pub(crate) async fn head(&self) -> Decision {
        let (status, body) = self.get("head.json").await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        self.trust.decide(&body, now()).unwrap()
    }

    /// Adopts the newest version as a host does, and gives back its document and env object.
    pub(crate) async fn update(&mut self) -> (Vec<u8>, Vec<u8>) {
        let Decision::Newer { record, offer } = self.head().await else { panic!("nothing newer") };
        let (status, state) = self.get(&format!("obj/{}", offer.statement.state.sha256)).await;
        assert_eq!(status, StatusCode::OK);
        agentd_protocol::control::trust::check_state(&offer, &state).unwrap();
        let digest = agentd_protocol::published::env_digest(&state).unwrap();
        let (status, env) = self.get(&format!("obj/{digest}")).await;
        assert_eq!(status, StatusCode::OK);
        self.trust = record.adopt(&offer);
        (state, env)
    }

    pub(crate) fn seen(&self) -> Version {
        self.trust.floor.map(|floor| floor.version).unwrap_or_default()
    }

    pub(crate) fn event(&mut self, kind: &str, text: &str) -> EventRecord {
        self.event_seq += 1;
        EventRecord {
            eid: format!("{}-{:08}", self.stream, self.event_seq),
            seq: self.event_seq,
            at_unix_ms: secs() * 1_000,
            kind: kind.into(),
            severity: Severity::Info,
            service: None,
            release: None,
            instance: None,
            suppressed: 0,
            data: BTreeMap::new(),
            text: text.into(),
        }
    }

    pub(crate) fn next_report(&mut self, events: Vec<EventRecord>) -> Report {
        self.seq += 1;
        let snapshot = snapshot();
        let digest = Digest::of(&serde_json::to_vec(&snapshot).unwrap());
        Report {
            rid: format!("{:032x}", self.boot * 1_000_000 + self.seq),
            boot: self.boot,
            seq: self.seq,
            cap: 1,
            time: now().clock,
            machine: self.machine,
            head: Seen { root: 1, epoch: 1, seen: self.seen(), applied: self.seen() },
            digest,
            snapshot: Some(snapshot),
            stream: self.stream.clone(),
            events,
        }
    }

    pub(crate) async fn send_report(&self, report: &Report, headers: &[(&str, &str)]) -> (StatusCode, Vec<u8>) {
        self.call(Method::POST, "/v1/report", serde_json::to_vec(report).unwrap(), headers).await
    }

    pub(crate) async fn report(&mut self, events: Vec<EventRecord>) -> Reported {
        let report = self.next_report(events);
        let (status, body) = self.send_report(&report, &[]).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        host: HostReport {
            agent: "0.1.0".into(),
            os: "debian 13".into(),
            arch: "x86_64".into(),
            agent_started_unix_ms: 1,
            security: None,
            tunnel: None,
            dns: DnsReport { address: None, suffix: "svc.internal".into() },
            usage: None,
            limitations: Vec::new(),
            refused: None,
            clock_skew_ms: 0,
        },
        stack: StackStatus {
            name: None,
            verdict: Verdict::Applied,
            since_unix_ms: None,
            version: None,
            applied_version: None,
            file_problem: None,
            problems: Vec::new(),
        },
        services: Vec::new(),
        outbox: OutboxReport::default(),
    }
}
