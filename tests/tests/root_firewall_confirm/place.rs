//! A host and an outside, and a manager that lives in the host.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentd_protocol::api::SecurityStatus;
use agentd_tests::{Ran, World, program, ufw};

/// Of a connection that is to be silent: a SYN that is dropped is sent again after 1 s.
pub(crate) const SILENCE: &str = "1.5";
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const HOST: &str = "10.213.7.1";
pub(crate) const OUTSIDE: &str = "10.213.7.2";

pub(crate) struct Net {
    pub(crate) host: String,
    pub(crate) outside: String,
    children: Vec<Child>,
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Net {
    pub(crate) fn new(name: &str) -> Self {
        let pid = std::process::id();
        let (host, outside) = (format!("agd-{name}-h-{pid}"), format!("agd-{name}-o-{pid}"));
        let net = Self { host, outside, children: Vec::new() };
        for namespace in [&net.host, &net.outside] {
            run("ip", &["netns", "add", namespace]);
            run("ip", &["-n", namespace, "link", "set", "lo", "up"]);
        }
        run(
            "ip",
            &["-n", &net.host, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &net.outside],
        );
        for (namespace, address) in [(&net.host, HOST), (&net.outside, OUTSIDE)] {
            run("ip", &["-n", namespace, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
            run("ip", &["-n", namespace, "link", "set", "eth0", "up"]);
        }
        net
    }

    pub(crate) fn within(namespace: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, program]);
        command
    }

    pub(crate) fn nft(&self, arguments: &[&str]) -> String {
        let output = Self::within(&self.host, "nft").args(arguments).output().unwrap();
        assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A Python program that says a line when it is ready.
    pub(crate) fn python(&mut self, namespace: &str, code: &str) {
        let mut child = Self::within(namespace, "python3").args(["-c", code]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        self.children.push(child);
    }

    /// A listener by the name of a program.
    pub(crate) fn listen(&mut self, name: &str, port: u16) {
        let code = format!(
            "import ctypes,socket\nctypes.CDLL(None).prctl(15,b'{name}',0,0,0)\ns=socket.create_server(('{HOST}',{port}))\nprint('ready',flush=True)\nheld=[]\nwhile True: held.append(s.accept())"
        );
        let host = self.host.clone();
        self.python(&host, &code);
    }

    /// Whether the port takes a connection from outside.
    pub(crate) fn gets_in(&self, port: u16) -> bool {
        let code = format!("import socket\nsocket.create_connection(('{HOST}',{port}),{SILENCE})");
        let mut command = Self::within(&self.outside, "python3");
        command.args(["-c", &code]).stderr(Stdio::null()).status().unwrap().success()
    }

    /// A connection from outside that stays: as those of sshd do.
    pub(crate) fn stay_connected(&mut self, port: u16) -> SocketAddr {
        let code = format!(
            "import socket,sys\nc=socket.create_connection(('{HOST}',{port}))\nopen(sys.argv[1],'w').write(str(c.getsockname()[1]))\nprint('ready',flush=True)\nc.recv(1)"
        );
        let file = std::env::temp_dir().join(format!("{}-port", self.outside));
        let code = code.replace("sys.argv[1]", &format!("{:?}", file.display().to_string()));
        let outside = self.outside.clone();
        self.python(&outside, &code);
        let local: u16 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        std::fs::remove_file(file).unwrap();
        SocketAddr::new(OUTSIDE.parse().unwrap(), local)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ = child.kill();
            // Killed above.
            let _ = child.wait();
        }
        for namespace in [&self.host, &self.outside] {
            // What cannot be removed is a leftover of a failed test, named so that nobody mistakes it.
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// A world whose manager lives in the host's namespace.
pub(crate) struct Place {
    pub(crate) world: World,
    pub(crate) net: Net,
    /// In the mount namespace of each program: what lies over the machine's own files.
    pub(crate) mounts: String,
    pub(crate) resolv: PathBuf,
    with_ufw: bool,
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        let mut place = Self::before(name);
        place.start();
        place
    }

    /// Without a manager yet.
    pub(crate) fn before(name: &str) -> Self {
        let (mut net, world) = (Net::new(name), World::new());
        net.listen("other", 2200);
        net.listen("sshd", 22);
        let resolv = world.dir().join("resolv.conf");
        std::fs::write(&resolv, "").unwrap();
        world.stack("");
        // `ip netns exec` gives a mount namespace: the machine's own file is not touched.
        let mounts = format!("mount --bind {} /etc/resolv.conf", resolv.display());
        Self { world, net, mounts, resolv, with_ufw: false }
    }

    /// On a host with an active ufw, which denies by default and lets in what its owner said.
    pub(crate) fn with_ufw(name: &str, owner: &str) -> Self {
        let mut place = Self::before(name);
        let run_dir = place.world.dir().join("run");
        std::fs::create_dir(&run_dir).unwrap();
        let files = ufw::fresh(place.world.dir()).into_iter().chain([(run_dir, "/run")]);
        for (copy, over) in files {
            place.mounts += &format!(" && mount --bind {} {over}", copy.display());
        }
        place.with_ufw = true;
        place.ufw("--force enable");
        place.ufw(owner);
        place.start();
        place
    }

    pub(crate) fn within(&self, program: &str) -> Command {
        let mut command = Net::within(&self.net.host, "sh");
        command.args(["-c", &format!("{} && exec \"$0\" \"$@\"", self.mounts), program]);
        command
    }

    pub(crate) fn ufw(&self, arguments: &str) -> String {
        let output = self.within("/usr/sbin/ufw").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "ufw {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn ufw_rules(&self) -> [Vec<u8>; 2] {
        ["user.rules", "user6.rules"].map(|name| std::fs::read(self.world.dir().join("etc-ufw").join(name)).unwrap())
    }

    /// `agentd firewall remove`, as the package's removal calls it.
    pub(crate) fn remove(&self) -> String {
        let mut command = self.within(program("agentd").to_str().unwrap());
        let output = command.args(["firewall", "remove", "--state"]).arg(self.world.home.join("state")).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn start(&mut self) {
        let mut command = self.within(program("agentd").to_str().unwrap());
        let arguments = ["--enforce-security", "--ufw"];
        self.world.start_program(&mut command, if self.with_ufw { &arguments } else { &arguments[..1] }, &[]);
    }

    pub(crate) fn security(&self, arguments: &[&str]) -> Ran {
        self.world.ctl(&[&["security"], arguments].concat())
    }

    pub(crate) fn good(&self, arguments: &[&str]) -> Ran {
        let ran = self.security(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran
    }

    pub(crate) fn status(&self) -> SecurityStatus {
        let ran = self.security(&["status", "--json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < LIMIT, "waited {LIMIT:?} until {what}: {:#?}", self.security(&["status"]));
            std::thread::park_timeout(Duration::from_millis(20));
        }
        start.elapsed()
    }

    pub(crate) fn has_table(&self) -> bool {
        Net::within(&self.net.host, "nft")
            .args(["list", "table", "inet", "agentd"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    pub(crate) fn confirmed(name: &str, mode: &str) -> Self {
        let place = Self::new(name);
        place.good(&["apply", "--mode", mode]);
        place.good(&["confirm"]);
        place
    }

    pub(crate) fn events(&self) -> String {
        self.world.ctl(&["events", "-n", "100"]).stdout
    }

    pub(crate) fn pending(&self) -> bool {
        self.world.home.join("state/firewall/pending.json").exists()
    }
}

/// For the log of the test: figures.
pub(crate) fn eprint(text: &str) {
    use std::io::Write as _;
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{text}").unwrap();
}
