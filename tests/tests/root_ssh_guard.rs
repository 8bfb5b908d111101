//! Who is on SSH is found by the sockets: a process by the name of an SSH server holds a connection from outside, in a
//! network namespace of the test. The controls: the same under another name, and nobody at all.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use agentd_tests::program;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// One process listens, another connects from the peer's address, a third has what was accepted: each by its name.
const SERVER: &str = "
import ctypes, os, socket, sys
PR_SET_NAME = 15
name = lambda text: ctypes.CDLL(None).prctl(PR_SET_NAME, text.encode(), 0, 0, 0)
name(sys.argv[1])
listener = socket.create_server(('192.0.2.1', 2222))
if os.fork() == 0:
    name('visitor')
    listener.close()
    client = socket.create_connection(('192.0.2.1', 2222), source_address=('198.51.100.20', 0))
    client.recv(1)
    os._exit(0)
connection = listener.accept()[0]
if os.fork() == 0:
    name(sys.argv[2])
    listener.close()
    print('ready', flush=True)
    sys.stdin.read()
    os._exit(0)
connection.close()
os.wait()
os.wait()
";

/// Ends with its standard input, and its visitor with it.
struct Server(Child);

impl Server {
    fn start(listener: &str, session: &str) -> Self {
        let mut command = Command::new("python3");
        let mut child = command
            .args(["-c", SERVER, listener, session])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn on_a_host<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
        let ip = |arguments: &str| Command::new("ip").args(arguments.split(' ')).status().unwrap().success();
        assert!(ip("link set lo up"));
        // Some kernels have no dummy links.
        assert!(ip("link add guard0 type dummy") || ip("link add guard0 type veth peer name guard1"));
        for order in ["addr add 192.0.2.1/24 dev guard0", "addr add 198.51.100.20/24 dev guard0", "link set guard0 up"]
        {
            assert!(ip(order), "{order}");
        }
        act()
    };
    std::thread::scope(|scope| scope.spawn(body).join().unwrap())
}

fn look(arguments: &[&str]) -> Value {
    let output = Command::new(program("agentd")).args(["firewall", "ssh-peers"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn whoever_is_on_ssh_is_found_and_judged() {
    on_a_host(|| {
        for (listener, name) in [("sshd", "sshd"), ("sshd", "sshd-session"), ("dropbear", "dropbear")] {
            let _server = Server::start(listener, name);
            let seen = look(&["--mode", "daemon-port"]);
            let peer = json!({ "address": "198.51.100.20", "port": 2222, "interface": "guard0", "how": "held" });
            assert_eq!((&seen["peers"], &seen["ports"]), (&json!([peer]), &json!([2222])), "{name}: {seen}");
            let ended = json!({
                "is": "would-end", "phrase": "block ssh from 198.51.100.20", "propose": ["198.51.100.20/32"],
            });
            assert_eq!(seen["verdict"], ended, "{name}");
        }
        let _server = Server::start("sshd", "sshd-session");
        let is = |arguments: &[&str]| look(arguments)["verdict"]["is"].clone();
        assert_eq!(is(&["--mode", "daemon-port", "--ssh", "198.51.100.0/24"]), "still-allowed");
        assert_eq!(is(&["--mode", "daemon-port", "--ssh", "203.0.113.0/24"]), "would-end");
        assert_eq!(is(&["--mode", "tunnel", "--ssh", "198.51.100.0/24"]), "would-end");
        assert_eq!(is(&["--mode", "tunnel", "--ssh-interface", "guard0"]), "still-allowed");
        assert_eq!(is(&["--mode", "open"]), "still-allowed");
    });
}

#[test]
fn others_are_not_taken_for_ssh() {
    on_a_host(|| {
        let nobody = json!({ "is": "nobody-on-ssh" });
        assert_eq!(look(&["--mode", "tunnel"])["verdict"], nobody);
        let _server = Server::start("nginx", "nginx");
        let seen = look(&["--mode", "tunnel"]);
        assert_eq!((&seen["verdict"], &seen["ports"]), (&nobody, &json!([22])), "{seen}");
    });
}
