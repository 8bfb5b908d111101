//! One host: made, booted, stopped, booted again.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::cgroup::Cgroup;
use super::command::{self, Inside};
use crate::Ran;
use crate::net::Program;

/// From power to all units up; a free machine needs a second.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Longer than any unit's own stop timeout.
const STOP_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// The other end of the host's cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uplink {
    Up,
    Down,
}

/// A host. Its disk lives as long as this value.
#[derive(Debug)]
pub struct Host {
    base: PathBuf,
    dir: TempDir,
    outside: Child,
    running: Option<Running>,
}

/// Power is on.
#[derive(Debug)]
struct Running {
    /// `unshare`, our child.
    starter: Child,
    /// systemd, as the machine counts.
    init: u32,
    _cgroup: Cgroup,
}

impl Host {
    /// A fresh host, booted.
    pub fn new() -> Self {
        let mut host = Self::unplugged();
        host.boot();
        host
    }

    /// A fresh host, not booted yet.
    pub fn unplugged() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "run by `cargo xtask test-root`");
        let base = base();
        let dir = tempfile::Builder::new().prefix("agentd-host").tempdir().unwrap();
        for part in ["upper", "work", "root"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        let outside = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let host = Self { base, dir, outside, running: None };
        let upper = host.dir.path().join("upper");
        fs::set_permissions(&upper, Permissions::from_mode(0o755)).unwrap();
        let units = upper.join("etc/systemd/system");
        for target in ["multi-user.target.wants", "network-online.target.wants"] {
            fs::create_dir_all(units.join(target)).unwrap();
            std::os::unix::fs::symlink("../uplink.service", units.join(target).join("uplink.service")).unwrap();
        }
        fs::write(units.join("uplink.service"), include_str!("uplink.service")).unwrap();
        fs::write(upper.join("etc/hostname"), "host\n").unwrap();
        host
    }

    pub fn boot(&mut self) {
        self.boot_with(Uplink::Up);
    }

    /// Returns when systemd says that every unit is up, or which one is not.
    pub fn boot_with(&mut self, uplink: Uplink) {
        assert!(self.running.is_none(), "the host runs already");
        let cgroup = Cgroup::create();
        let mut starter = self.starter(&cgroup);
        let mut said = BufReader::new(starter.stdout.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n", "the root tree is not mounted: {}", self.console());
        let (init, mut go_on) = (only_child(starter.id()), starter.stdin.take().expect("piped"));
        // From here on drop ends it, also when the rest panics.
        self.running = Some(Running { starter, init, _cgroup: cgroup });
        self.plug_in(init, uplink);
        go_on.write_all(b"plugged\n").unwrap();
        let waited = "for second in $(seq 300); do systemctl is-system-running --wait 2>/dev/null && exit 0; \
                      systemctl is-system-running 2>/dev/null | grep -q degraded && exit 1; sleep 0.1; done; exit 2";
        let up = self.run(waited);
        assert_eq!(
            up.code,
            0,
            "not all is up within {BOOT_LIMIT:?}: {up:?}\n{}",
            self.run("systemctl --failed").stdout
        );
    }

    fn starter(&self, cgroup: &Cgroup) -> Child {
        let moved_in = "echo $$ >\"$0\"; exec \"$@\"";
        Command::new("sh")
            .args(["-euc", moved_in])
            .arg(cgroup.processes_file())
            .args(["setpriv", "--pdeathsig", "KILL"])
            .args(["unshare", "--mount", "--propagation=private", "--pid", "--net", "--uts", "--ipc", "--cgroup"])
            .args(["--fork", "--kill-child=KILL", "sh", "-euc", include_str!("boot.sh"), "boot.sh"])
            .args([&self.base, self.dir.path()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// A new pair: the old one goes with the namespace of the host's last boot, in the kernel's own time.
    fn plug_in(&self, init: u32, uplink: Uplink) {
        self.must_outside("! ip link show wire >/dev/null 2>&1 || ip link delete wire || ! ip link show wire");
        let outside = self.outside.id();
        let pair = format!("ip link add uplink type veth peer name wire netns {outside}");
        let made = command::shell(init, Inside::Network, &pair);
        assert_eq!(made.code, 0, "{made:?}");
        self.must_outside(
            "ip link set lo up; ip address add 198.51.100.1/24 dev wire; \
             ip address add 2001:db8:1::1/64 dev wire nodad",
        );
        self.plug(uplink);
    }

    /// Plugs the cable in or out at the other end.
    pub fn plug(&self, uplink: Uplink) {
        self.must_outside(match uplink {
            Uplink::Up => "ip link set wire up",
            Uplink::Down => "ip link set wire down",
        });
    }

    /// A shell command as root in the host.
    pub fn run(&self, command: &str) -> Ran {
        command::shell(self.init(), Inside::Host, command)
    }

    /// The same, which is to succeed; its stdout.
    pub fn must(&self, command: &str) -> String {
        let ran = self.run(command);
        assert_eq!(ran.code, 0, "`{command}` in the host: {ran:?}");
        ran.stdout
    }

    /// A program that goes on while the test does something else; ended by the limit of all commands at the latest.
    pub fn start(&self, arguments: &[&str]) -> Child {
        let mut command = command::entering(self.init(), Inside::Host);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A shell command on the machine outside: it shares our files, and nothing but the cable with the host.
    pub fn outside(&self, command: &str) -> Ran {
        command::shell(self.outside.id(), Inside::Network, command)
    }

    pub fn must_outside(&self, command: &str) -> String {
        let ran = self.outside(command);
        assert_eq!(ran.code, 0, "`{command}` outside: {ran:?}");
        ran.stdout
    }

    /// A program on the machine outside that goes on until it is dropped; it has said `ready`.
    pub fn start_outside(&self, arguments: &[&str]) -> Program {
        Program::start(command::beside(self.outside.id()).args(arguments))
    }

    /// A program on the machine outside, to be started.
    pub fn command_outside(&self, arguments: &[&str]) -> Command {
        let mut command = command::beside(self.outside.id());
        command.args(arguments);
        command
    }

    /// Waits for a command to succeed.
    pub fn until(&self, what: &str, command: &str) {
        let started = Instant::now();
        loop {
            let ran = self.run(command);
            if ran.code == 0 {
                return;
            }
            assert!(
                started.elapsed() < command::LIMIT,
                "waited {:?} until {what}; last: {ran:?}\n{}",
                command::LIMIT,
                self.story()
            );
            std::thread::park_timeout(POLL);
        }
    }

    /// A file of the running host, as this machine reaches it.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.init())).join(path.trim_start_matches('/'))
    }

    /// Writes a file in the running host, folders included.
    pub fn put(&self, path: &str, text: &str) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().expect("a file lies in a folder")).unwrap();
        fs::write(file, text).unwrap();
    }

    /// Shuts down as an administrator would.
    pub fn stop(&mut self) {
        self.must("systemctl poweroff --no-block");
        let running = self.running.as_mut().expect("`run` has found it running");
        let started = Instant::now();
        while running.starter.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < STOP_LIMIT, "no shutdown within {STOP_LIMIT:?}: {}", self.console());
            std::thread::park_timeout(POLL);
        }
        self.running = None;
    }

    /// Every process ends at once.
    pub fn cut_power(&mut self) {
        if let Some(running) = self.running.take() {
            running.cut();
        }
    }

    fn init(&self) -> u32 {
        self.running.as_ref().expect("the host is booted").init
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }

    /// For failures.
    pub fn story(&self) -> String {
        self.run("systemctl --no-pager --failed; journalctl --no-pager --lines 60 --output short-precise").stdout
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Running {
    fn cut(mut self) {
        // The kernel ends all processes of a namespace with its first.
        let _ = kill(pid(self.init), Signal::SIGKILL); // gone already: also well
        self.starter.wait().unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.cut_power();
        let _ = self.outside.kill(); // gone already: also well
        let _ = self.outside.wait(); // killed above
    }
}

/// The root tree below every host.
fn base() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/host/base.sh");
    let made = Command::new("sh").arg(script).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(made.status.success(), "{script} failed; see above");
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}

fn only_child(parent: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    children.trim().parse().expect("unshare has one child")
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).expect("pids fit"))
}
