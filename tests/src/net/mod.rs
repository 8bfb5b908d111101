//! Four network namespaces of one test: `outside` - `router` - `host` - `guest`. The hop from the router outwards has an
//! MTU of 1300 that neither end knows of; the guest sits behind a bridge of the host, as containers do.
//!
//! Dropping a [`Net`] removes them; what still ran in them was ended by its own [`Program`].

mod program;

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

pub use program::Program;

pub const HOST4: &str = "203.0.113.10";
pub const HOST6: &str = "2001:db8:1::10";
pub const OUTSIDE4: &str = "198.51.100.20";
pub const OUTSIDE6: &str = "2001:db8:2::20";
/// Another address of the same neighbour, in no network that SSH is ever let in from.
pub const STRANGER4: &str = "198.51.100.99";
pub const STRANGER6: &str = "2001:db8:2::99";
pub const GUEST4: &str = "172.31.0.2";
pub const GUEST6: &str = "fd31::2";

/// What the programs say to each other about ports.
pub const SCAN: &str = concat!(include_str!("wire.py"), include_str!("scan.py"));
pub const FRAMES: &str = concat!(include_str!("wire.py"), include_str!("frames.py"));
pub const SERVE: &str = include_str!("serve.py");
pub const REACH: &str = include_str!("reach.py");
pub const SINK: &str = include_str!("sink.py");
pub const FLOOD: &str = include_str!("flood.py");
/// Datagrams and SYNs without end, and what comes back.
pub const STORM: &str = concat!(include_str!("wire.py"), include_str!("storm.py"));
pub const SESSION: &str = include_str!("session.py");

/// What container engines do: a published port, and one address for all that goes out. With it the host tracks
/// connections, as it does not by itself.
const ENGINE: &str = "
table ip engine {
  chain published { type nat hook prerouting priority dstnat; ip daddr 203.0.113.10 tcp dport 8081 dnat to 172.31.0.2:80; }
  chain shared { type nat hook postrouting priority srcnat; ip saddr 172.31.0.0/24 oifname != guests masquerade; }
}
table ip6 engine {
  chain published { type nat hook prerouting priority dstnat; ip6 daddr 2001:db8:1::10 tcp dport 8081 dnat to [fd31::2]:80; }
  chain shared { type nat hook postrouting priority srcnat; ip6 saddr fd31::/64 oifname != guests masquerade; }
}";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Outside,
    Router,
    Host,
    Guest,
}

impl Place {
    const ALL: [Self; 4] = [Self::Outside, Self::Router, Self::Host, Self::Guest];

    fn word(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Router => "router",
            Self::Host => "host",
            Self::Guest => "guest",
        }
    }
}

#[derive(Debug)]
pub struct Net {
    name: String,
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}

impl Net {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let net = Self { name: format!("agt{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)) };
        for place in Place::ALL {
            let name = net.namespace(place);
            done(Command::new("ip").args(["netns", "add", &name]));
        }
        let names = Place::ALL.map(|place| net.namespace(place));
        let [outside, router, host, guest] = &names;
        let script = include_str!("topology.sh");
        done(Command::new("sh").args(["-eu", "-c", script, "topology", outside, router, host, guest]));
        for place in Place::ALL {
            net.run(place, &["ip", "link", "set", "lo", "up"]);
        }
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
        for place in [Place::Router, Place::Host] {
            net.run(place, &["sh", "-c", forward]);
        }
        net
    }

    /// As `new`, with a container engine's rules on the host.
    pub fn with_engine() -> Self {
        let net = Self::new();
        net.run(Place::Host, &["nft", ENGINE]);
        net
    }

    fn namespace(&self, place: Place) -> String {
        format!("{}-{}", self.name, place.word())
    }

    /// A command there; `ip netns exec` becomes the program, so its pid is the program's.
    pub fn command(&self, place: Place, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(place)]).args(words);
        command
    }

    /// What it printed. Fails with what it complained of.
    pub fn run(&self, place: Place, words: &[&str]) -> String {
        done(&mut self.command(place, words))
    }

    /// A Python program's last line, which is JSON.
    pub fn python(&self, place: Place, script: &str, words: &[&str]) -> Value {
        let printed = self.run(place, &[&["python3", "-c", script], words].concat());
        let line = printed.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    /// A Python program that runs on until it is dropped; it has said `ready`.
    pub fn start(&self, place: Place, script: &str, words: &[&str]) -> Program {
        let mut command = self.command(place, &[&["python3", "-u", "-c", script], words].concat());
        Program::start(&mut command)
    }

    /// Feeds nft its own JSON, as one transaction.
    pub fn nft(&self, place: Place, text: &str) {
        let mut command = self.command(place, &["nft", "-j", "-f", "-"]);
        let output = program::fed(&mut command, text);
        assert!(output.status.success(), "{}", complaint(&output));
    }

    /// `agentd firewall …` on the host: what it printed.
    pub fn firewall(&self, words: &[&str]) -> String {
        let agentd = crate::program("agentd");
        let agentd = agentd.to_str().expect("the target folder has a plain name");
        self.run(Place::Host, &[&[agentd, "firewall"], words].concat())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in Place::ALL {
            // One that was never made cannot be removed; the others still can.
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(place)]).output(); // see above
        }
    }
}

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", complaint(&output));
    String::from_utf8(output.stdout).expect("programs print text")
}

fn complaint(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}
