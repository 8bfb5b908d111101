//! A tunnel's program is run or watched as agentd.toml says, outlives the manager, and its secret is nowhere to be seen.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use agentd_protocol::api::{Event, TunnelState, TunnelStatus, Verdict};
use agentd_tests::{World, free_port};
use serde_json::{Value, json};

const UUID: &str = "6ff42ae2-765d-4adf-8112-31c55c1551ef";
const TOKEN: &str = "eyJhIjoiYWNjb3VudCIsInQiOiJ0dW5uZWwiLCJzIjoiaHVzaC1odXNoLWh1c2gifQ==";

/// A world with the stand-in beside it.
struct Rig {
    world: World,
    program: PathBuf,
    metrics: u16,
}

impl Rig {
    fn new() -> Self {
        let world = World::new();
        let program = world.dir().join("cloudflared");
        write(&program, include_str!("../apps/cloudflared.py"), 0o755);
        let folder = world.dir().join("cf");
        std::fs::create_dir(&folder).unwrap();
        // Root's programs run as nobody.
        std::fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        write(&world.dir().join("tunnel.token"), &format!("{TOKEN}\n"), 0o600);
        let repo = world.web_repo("web", "v1");
        let (name, path, run) = ("name = \"web\"", "path = \"/\"", "run = \"python3 web.py\"");
        world.stack(&format!("[[service]]\n{name}\nrepo = \"{}\"\nref = \"main\"\n{run}\n{path}\n", repo.url()));
        Self { world, program, metrics: free_port() }
    }

    /// agentd.toml with this in it; taken up at the next start.
    fn settle(&self, tunnel: &str) {
        let World { home, internal_port, dns_port, .. } = &self.world;
        std::fs::create_dir_all(home).unwrap();
        let text = format!("[ports]\ninternal = {internal_port}\ndns = {dns_port}\n\n{tunnel}");
        std::fs::write(home.join("agentd.toml"), text).unwrap();
    }

    fn by_token(&self) -> String {
        let (program, dir) = (self.program.display(), self.world.dir().display());
        format!(
            "[tunnel]\nprogram = \"{program}\"\ntoken_file = \"{dir}/tunnel.token\"\nmetrics = \"127.0.0.1:{}\"\n",
            self.metrics
        )
    }

    fn control(&self, what: &Value) {
        let path = self.world.dir().join("cf/control.json");
        let temp = path.with_extension("new");
        write(&temp, &what.to_string(), 0o644);
        std::fs::rename(temp, path).unwrap();
    }

    fn tunnel(&self) -> TunnelStatus {
        self.world.status().tunnel.expect("there is one")
    }

    fn becomes(&self, state: TunnelState) -> TunnelStatus {
        self.world.until(&format!("the tunnel is {state:?}"), |world| {
            world.try_status().is_ok_and(|status| status.tunnel.is_some_and(|tunnel| tunnel.state == state))
        });
        self.tunnel()
    }

    /// Pids that said so, with what they said, in order of their pids.
    fn said(&self, what: &str) -> Vec<(u32, Value)> {
        let entries = std::fs::read_dir(self.world.dir().join("cf")).unwrap();
        let mut said: Vec<(u32, Value)> = entries
            .filter_map(|entry| {
                let path = entry.unwrap().path();
                let pid = path.file_stem()?.to_str()?.parse().ok()?;
                let is = path.extension().is_some_and(|extension| extension == what);
                is.then(|| (pid, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()))
            })
            .collect();
        said.sort_by_key(|(pid, _)| *pid);
        said
    }

    fn words(&self) -> Vec<String> {
        let ran = self.world.ctl(&["events", "--json", "--lines", "1000"]);
        let events = ran.stdout.lines().map(|line| serde_json::from_str::<Event>(line).unwrap());
        events.map(|event| event.what.word().to_owned()).filter(|word| word.starts_with("tunnel.")).collect()
    }

    fn until_words(&self, words: &[&str]) {
        self.world.until(&format!("the events are {words:?}"), |_| self.words() == words);
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Files below `dir` that hold the bytes.
fn holding(dir: &Path, bytes: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let facts = entry.file_type().unwrap();
        if facts.is_dir() {
            found.extend(holding(&entry.path(), bytes));
        } else if facts.is_file() {
            // A file that went meanwhile holds nothing.
            let content = std::fs::read(entry.path()).unwrap_or_default();
            if content.windows(bytes.len()).any(|window| window == bytes.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Command lines and environments of all processes that hold the bytes.
fn processes_holding(bytes: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir("/proc").unwrap().flatten().flat_map(|entry| {
        let is_process = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        is_process.then(|| ["cmdline", "environ"].map(|name| entry.path().join(name))).into_iter().flatten()
    });
    let holds = |path: &PathBuf| {
        let content = std::fs::read(path).unwrap_or_default();
        content.windows(bytes.len()).any(|window| window == bytes.as_bytes())
    };
    files.filter(holds).collect()
}

#[test]
fn a_managed_tunnel_connects_degrades_goes_down_and_outlives_the_manager() {
    let mut rig = Rig::new();
    rig.settle(&rig.by_token());
    rig.world.start();
    assert_eq!(rig.tunnel().state, TunnelState::Connecting);
    rig.world.applied();
    rig.control(&json!({"connections": 4}));
    let connected = rig.becomes(TunnelState::Connected);
    assert_eq!((connected.connections, connected.managed, connected.metrics.port()), (4, true, rig.metrics));
    assert_eq!((connected.cause, connected.config_drift), (None, None));
    let line = rig.world.ctl(&["status"]).stdout;
    assert!(line.contains("tunnel: connected, 4 connections"), "{line}");

    rig.control(&json!({"connections": 1}));
    assert!(rig.becomes(TunnelState::Degraded).cause.unwrap().contains("one connection"));
    rig.control(&json!({"connections": 0}));
    assert!(rig.becomes(TunnelState::Down).cause.unwrap().contains("7844"));
    let down = rig.world.status();
    assert_eq!((down.stack.verdict, rig.world.get("/x").status), (Verdict::Applied, 200), "services serve on");
    let doctor = rig.world.ctl(&["doctor"]);
    assert!(doctor.stdout.contains("tunnel") && doctor.code == 6, "{doctor:?}");
    let ssh = json!([{"hostname": "s.test", "service": "ssh://localhost:22"}]);
    rig.control(&json!({"connections": 4, "ingress": ssh}));
    rig.becomes(TunnelState::Connected);
    let told = ["tunnel.connected", "tunnel.degraded", "tunnel.down", "tunnel.connected"];
    rig.until_words(&told);
    rig.world.until("the drift is seen", |_| {
        rig.tunnel().config_drift.is_some_and(|drift| drift.contains("ssh://localhost:22"))
    });

    let started = rig.said("started");
    rig.world.kill_manager();
    rig.world.start();
    rig.becomes(TunnelState::Connected);
    assert_eq!(rig.said("started"), started, "it is the same program");
    assert_eq!(started.len(), 1);
    assert_eq!(rig.words(), told, "a manager that comes back has no news");

    rig.settle("");
    rig.world.end_manager();
    assert!(rig.said("ended").is_empty(), "the manager's end is not the tunnel's");
    rig.world.start();
    rig.world.until("the tunnel nobody asks for ends", |_| rig.said("ended").len() == 1);
    assert_eq!(rig.world.status().tunnel, None);
    rig.world.down();
}

#[test]
fn the_secret_is_nowhere_to_be_seen() {
    let mut rig = Rig::new();
    rig.settle(&rig.by_token());
    rig.control(&json!({"connections": 4}));
    rig.world.start();
    rig.becomes(TunnelState::Connected);
    let (pid, seen) = rig.said("started").remove(0);
    let token_sha256 = "ef3b1714517b1c2d653df53e8ebc110316b031ace6ab20489661e6c74ab1a67c";
    assert_eq!(seen["secret_sha256"], token_sha256, "it was handed over whole");
    let told = format!("{}{}", seen["argv"], seen["env"]);
    assert!(!told.contains(TOKEN), "{told}");
    let proxies: Vec<&String> = seen["env"].as_object().unwrap().keys().filter(|name| name.contains("roxy")).collect();
    assert!(proxies.is_empty() && !told.contains("PROXY"), "{told}");
    for (verb, said) in [("status", 0), ("events", 0), ("logs", 0)] {
        let arguments: &[&str] = match verb {
            "logs" => &["logs", "tunnel"],
            "events" => &["events", "--json"],
            _ => &["status", "--json"],
        };
        let ran = rig.world.ctl(arguments);
        assert_eq!((ran.code, ran.stdout.contains(TOKEN)), (said, false), "{ran:?}");
    }
    let log = rig.world.ctl(&["logs", "tunnel"]).stdout;
    assert!(log.contains("starting with [masked tunnel secret]"), "{log}");
    assert_eq!(processes_holding(TOKEN), Vec::<PathBuf>::new());
    assert!(
        processes_holding(&rig.program.display().to_string())
            .iter()
            .any(|path| path.starts_with(format!("/proc/{pid}")))
    );
    let files = holding(&rig.world.home, TOKEN);
    // The stand-in prints its secret, which the real one does not; what is shown of that log is masked.
    assert!(files.iter().all(|path| path.starts_with(rig.world.home.join("log/tunnel"))), "{files:?}");
    rig.world.down();
    assert_eq!(rig.said("ended").len(), 1, "taken down with everything else, and in order");
}

#[test]
fn a_tunnel_configured_here_leads_to_the_external_listener_and_follows_its_settings() {
    let mut rig = Rig::new();
    let file = rig.world.dir().join("credentials.json");
    let credentials = format!("{{\"AccountTag\":\"a\",\"TunnelSecret\":\"aHVzaC1odXNo\",\"TunnelID\":\"{UUID}\"}}");
    write(&file, &credentials, 0o600);
    let section = |protocol: &str| {
        format!(
            "[tunnel]\nprogram = \"{}\"\ntunnel = \"{UUID}\"\ncredentials_file = \"{}\"\n\
             hostnames = [\"app.example.com\"]\nmetrics = \"127.0.0.1:{}\"\nprotocol = \"{protocol}\"\n",
            rig.program.display(),
            file.display(),
            rig.metrics
        )
    };
    let (first, second) = (section("auto"), section("http2"));
    rig.settle(&first);
    rig.control(&json!({"connections": 4}));
    rig.world.start();
    assert_eq!(rig.becomes(TunnelState::Connected).config_drift, None);
    let (pid, seen) = rig.said("started").remove(0);
    let origin = format!("http://127.0.0.1:{}", rig.world.port);
    let rules = json!([{"hostname": "app.example.com", "service": origin}, {"service": "http_status:404"}]);
    assert_eq!((&seen["rules"], &seen["settings"]["tunnel"]), (&rules, &json!(UUID)));

    rig.settle(&second);
    rig.world.end_manager();
    rig.world.start();
    rig.world.until("another one runs", |_| rig.said("started").len() == 2);
    assert_eq!(rig.said("ended")[0].0, pid, "the old one ended in order before");
    rig.becomes(TunnelState::Connected);

    // Another secret by the same name is another tunnel's program, too.
    write(&file, &credentials.replace("aHVzaC1odXNo", "b3RoZXItaHVzaA"), 0o600);
    rig.world.end_manager();
    rig.world.start();
    rig.world.until("one with the new secret runs", |_| rig.said("started").len() == 3);
    rig.world.down();
    assert_eq!(rig.said("ended").len(), 3);
}

/// What the service was told of its client.
fn client(rig: &Rig, headers: &[(&str, &str)]) -> Value {
    let answer = rig.world.request(reqwest::Method::GET, "/headers", headers, Vec::new()).unwrap();
    let seen = answer.json();
    json!([seen["x-forwarded-for"], seen["cf-connecting-ip"], seen["x-forwarded-proto"]])
}

#[test]
fn what_cloudflare_says_of_a_client_is_believed_only_with_a_tunnel() {
    let mut rig = Rig::new();
    let said = [("cf-connecting-ip", "203.0.113.9"), ("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https")];
    rig.settle("");
    rig.world.start();
    rig.world.applied();
    assert_eq!(client(&rig, &said), json!(["127.0.0.1", null, "http"]));
    rig.world.end_manager();

    rig.settle(&format!("[tunnel]\nwatch = \"127.0.0.1:{}\"\n", rig.metrics));
    rig.world.start();
    rig.world.applied();
    rig.world.until("the edge believes it", |_| client(&rig, &said) == json!(["203.0.113.9", "203.0.113.9", "https"]));
    assert_eq!(client(&rig, &said[1..]), json!(["127.0.0.1", null, "http"]));
    let watched = rig.becomes(TunnelState::Down);
    assert!(!watched.managed && watched.cause.unwrap().contains("nothing answers"));
    assert!(rig.said("started").is_empty(), "somebody else is to run it");
    rig.world.down();
}

#[test]
fn what_cannot_be_used_is_said_with_its_cure() {
    let mut rig = Rig::new();
    rig.settle("[tunnel]\nwatch = \"127.0.0.1:1\"\ntoken_file = \"/t\"\n");
    let refused = rig.world.run_to_end(&[]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("line 7:") && refused.stderr.contains("take one of them out"), "{refused:?}");

    rig.settle(&rig.by_token());
    let token = rig.world.dir().join("tunnel.token");
    std::fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    rig.control(&json!({"connections": 4}));
    rig.world.start();
    assert_eq!(rig.world.applied().stack.verdict, Verdict::Applied, "services do not wait for it");
    assert!(rig.becomes(TunnelState::Down).cause.unwrap().contains("chmod 600"));
    let doctor = rig.world.ctl(&["doctor"]);
    assert!(doctor.stdout.contains("chmod 600") && !doctor.stdout.contains(TOKEN), "{doctor:?}");
    assert!(rig.said("started").is_empty());
    std::fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    rig.becomes(TunnelState::Connected);
    rig.until_words(&["tunnel.down", "tunnel.connected"]);
    rig.world.down();
}
