//! One host that is careless, a machine outside that tries all its doors, and what both looked like.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use agentd_protocol::api::SecurityStatus;
use agentd_tests::host::{HOST_V4, HOST_V6, Host, OUTSIDE_V4, OUTSIDE_V6};
use agentd_tests::net::{Program, REACH, SCAN, STORM};
use agentd_tests::{Ran, web};
use serde_json::Value;
use tempfile::TempDir;

/// Another address of the machine outside, in no network that SSH is let in from.
pub(crate) const STRANGER_V4: &str = "198.51.100.99";
pub(crate) const STRANGER_V6: &str = "2001:db8:1::99";
pub(crate) const URL: &str = "http://127.0.0.1:8080/";
const BROADCAST_V4: &str = "198.51.100.255";
const POLL: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(30);

/// For the log: figures.
pub(crate) fn say(text: &str) {
    // A closed stderr is no failure of the host's.
    let _ = writeln!(std::io::stderr(), "{text}"); // see above
}

pub(crate) struct Dark {
    pub(crate) host: Host,
    /// Scripts and the key of the machine outside.
    dir: TempDir,
    _internet: Program,
}

/// What an outsider found at one address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    pub(crate) open: Vec<u64>,
    pub(crate) closed: u64,
}

impl Dark {
    /// Booted, with everything listening that should not.
    pub(crate) fn new() -> Self {
        let (host, dir) = (Host::new(), tempfile::tempdir().unwrap());
        for (name, text) in
            [("scan.py", SCAN), ("storm.py", STORM), ("reach.py", REACH), ("internet.py", include_str!("internet.py"))]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let internet = host.start_outside(&["python3", "-u", &file(&dir, "internet.py")]);
        for (path, text) in [
            ("/usr/local/lib/listeners.py", include_str!("listeners.py")),
            ("/usr/local/lib/reach.py", REACH),
            ("/usr/local/lib/published.nft", include_str!("published.nft")),
            ("/usr/local/lib/outbound.py", include_str!("outbound.py")),
            ("/etc/systemd/system/outbound.service", include_str!("outbound.service")),
            ("/etc/systemd/system/listeners.service", include_str!("listeners.service")),
            ("/etc/systemd/system/guest.service", include_str!("guest.service")),
            ("/srv/api/web.py", &web("v1")),
            ("/var/tmp/stack.toml", STACK),
        ] {
            host.put(path, text);
        }
        host.must(&format!("printf 'nameserver {OUTSIDE_V4}\\nnameserver {OUTSIDE_V6}\\n' >/etc/resolv.conf"));
        host.must("systemctl enable --quiet listeners guest nftables outbound");
        host.must(
            "cd /srv/api && git init --quiet --initial-branch=main && git add --all && \
             git -c user.name=t -c user.email=t@example.com commit --quiet --message one",
        );
        let dark = Self { host, dir, _internet: internet };
        dark.make_key();
        dark
    }

    fn make_key(&self) {
        let key = file(&self.dir, "key");
        self.host.must_outside(&format!("ssh-keygen -q -t ed25519 -N '' -f {key}"));
        self.host.put("/root/.ssh/authorized_keys", &std::fs::read_to_string(format!("{key}.pub")).unwrap());
        self.host.must("chmod 700 /root/.ssh; chmod 600 /root/.ssh/authorized_keys");
    }

    /// Off and on again, with a storm from outside from before the uplink exists until all is up.
    pub(crate) fn reboot_in_a_storm(&mut self) -> Value {
        self.host.stop();
        let mut storm = self.storm();
        self.host.boot();
        let told = storm.ask("how many");
        drop(storm);
        self.more_addresses();
        told
    }

    pub(crate) fn storm(&self) -> Program {
        let script = file(&self.dir, "storm.py");
        self.host.start_outside(&[
            "python3",
            "-u",
            &script,
            OUTSIDE_V4,
            HOST_V4,
            BROADCAST_V4,
            OUTSIDE_V6,
            HOST_V6,
            "wire",
        ])
    }

    /// The outside's end of the cable is another one after each boot.
    fn more_addresses(&self) {
        self.host.must_outside(&format!(
            "ip address add {STRANGER_V4}/24 dev wire; ip address add {STRANGER_V6}/64 dev wire nodad preferred_lft 0; \
             ip route replace 172.31.0.0/24 via {HOST_V4}; ip -6 route replace fd31::/64 via {HOST_V6}"
        ));
    }

    /// All TCP ports of one address.
    pub(crate) fn scan(&self, from: &str, to: &str) -> Scan {
        let script = file(&self.dir, "scan.py");
        let found: Value =
            serde_json::from_str(&self.host.must_outside(&format!("python3 {script} {from} {to} 1"))).unwrap();
        say(&format!("scan {from} -> {to}: {found}"));
        let open = found["open"].as_array().unwrap().iter().map(|port| port.as_u64().unwrap()).collect();
        Scan { open, closed: found["closed"].as_u64().unwrap() }
    }

    /// Both families, which look the same.
    pub(crate) fn scan_both(&self) -> Scan {
        let v4 = self.scan(OUTSIDE_V4, HOST_V4);
        assert_eq!(v4, self.scan(OUTSIDE_V6, HOST_V6));
        v4
    }

    /// Whether the listeners on UDP answer an outsider: both families do, or none.
    pub(crate) fn udp_answers(&self) -> bool {
        self.asked_from_outside(&[&format!("udp/9001:{HOST_V4}"), &format!("udp/9001:{HOST_V6}")])
    }

    pub(crate) fn pings(&self) -> bool {
        self.asked_from_outside(&[&format!("ping:{HOST_V4}"), &format!("ping:{HOST_V6}")])
    }

    fn asked_from_outside(&self, words: &[&str]) -> bool {
        let script = file(&self.dir, "reach.py");
        one_answer(&self.host.must_outside(&format!("python3 {script} 0.5 {}", words.join(" "))))
    }

    /// TCP and UDP of both families from the host to the machine outside.
    pub(crate) fn reaches_outside(&self) -> bool {
        let words: Vec<String> = [OUTSIDE_V4, OUTSIDE_V6]
            .iter()
            .flat_map(|address| [format!("tcp/443:{address}"), format!("udp/53:{address}"), format!("ping:{address}")])
            .collect();
        one_answer(&self.host.must(&format!("python3 /usr/local/lib/reach.py 2 {}", words.join(" "))))
    }

    /// Who came to the listeners since the last time.
    pub(crate) fn callers(&self) -> usize {
        let count = self.host.must("wc -l </var/log/callers; : >/var/log/callers");
        count.trim().parse().unwrap()
    }

    /// Questions asked since boot without a pause, and those that were never answered.
    pub(crate) fn outbound(&self) -> (u64, String) {
        (self.host.must("cat /run/outbound").trim().parse().unwrap(), self.host.must("cat /var/log/outbound"))
    }

    /// Whether a TCP port takes a connection from outside.
    pub(crate) fn gets_in(&self, port: u16) -> bool {
        let connect = format!("import socket; socket.create_connection(('{HOST_V4}', {port}), 0.3)");
        self.host.outside(&format!("python3 -c \"{connect}\" 2>/dev/null")).code == 0
    }

    fn ssh_words(&self, from: &str) -> Vec<String> {
        let key = file(&self.dir, "key");
        let options = "-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=2";
        let words = format!("ssh {options} -i {key} -b {from} root@{HOST_V4}");
        words.split(' ').map(str::to_owned).collect()
    }

    /// A command in a new SSH session from outside.
    pub(crate) fn ssh(&self, from: &str, command: &str) -> Ran {
        self.host.outside(&format!("{} '{command}'", self.ssh_words(from).join(" ")))
    }

    /// An SSH session that says back what is typed.
    pub(crate) fn ssh_session(&self) -> Program {
        let mut words = self.ssh_words(OUTSIDE_V4);
        words.push("echo ready; exec cat".to_owned());
        self.host.start_outside(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub(crate) fn status(&self) -> SecurityStatus {
        let ran = self.host.run("agentctl security status --json");
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}\n{}", self.host.story()))
    }

    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < LIMIT, "waited {LIMIT:?} until {what}\n{}", self.host.story());
            std::thread::park_timeout(POLL);
        }
        start.elapsed()
    }

    pub(crate) fn table(&self) -> Option<String> {
        let ran = self.host.run("nft --handle --stateless list table inet agentd");
        (ran.code == 0).then_some(ran.stdout)
    }

    pub(crate) fn answers(&self) {
        self.host.until("the service answers", &format!("curl --silent --fail {URL} >/dev/null"));
    }

    /// Whether the service answers an outsider, at this address.
    pub(crate) fn serves_outside(&self, address: &str) -> bool {
        self.host
            .outside(&format!("curl --silent --fail --globoff --max-time 1 http://{address}:8080/ >/dev/null"))
            .code
            == 0
    }
}

const STACK: &str = "\
schema = 1
[stack]
name = \"test\"
poll_interval = \"1s\"
[proxy]
port = 8080
[[service]]
name = \"api\"
repo = \"file:///srv/api\"
ref = \"main\"
run = \"python3 web.py\"
path = \"/\"
health = { path = \"/healthz\" }
";

fn file(dir: &TempDir, name: &str) -> String {
    Path::new(dir.path()).join(name).to_str().expect("temporary folders have plain names").to_owned()
}

/// All were answered, or none.
fn one_answer(said: &str) -> bool {
    let answers: Value = serde_json::from_str(said).unwrap();
    let answers = answers.as_object().unwrap();
    let answered = answers.values().filter(|answer| !answer.as_str().unwrap().starts_with("failed")).count();
    assert!(answered == 0 || answered == answers.len(), "{said}");
    answered > 0
}
