//! The real ufw, on a copy of its files in namespaces of the test: what agentd adds is taken back to the byte, and what
//! its owner wrote is neither changed nor deleted. Each hijack has its control: ufw itself, asked the plain way.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use agentd_tests::{program, ufw};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

const FILES: [&str; 3] = ["/etc/ufw/user.rules", "/etc/ufw/user6.rules", "/etc/ufw/ufw.conf"];

/// A host of its own with ufw's files as the package brings them. Lives in the thread that made it.
struct Host {
    journal_path: PathBuf,
}

impl Host {
    fn ufw(&self, arguments: &str) -> String {
        let output = run(Command::new("/usr/sbin/ufw").args(arguments.split(' ')));
        assert!(output.status.success(), "ufw {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn agentd(&self, arguments: &[&str]) -> Output {
        run(Command::new(program("agentd")).arg("firewall").args(arguments).arg("--journal").arg(&self.journal_path))
    }

    fn allow(&self) -> Output {
        let ssh = ["--ssh-port", "22", "--ssh", "203.0.113.0/24", "--ssh", "2001:db8::/32"];
        self.agentd(&[&["ufw-allow", "--proxy-port", "8443"][..], &ssh].concat())
    }

    fn allowed(&self) -> Value {
        said(&self.allow())
    }

    fn undone(&self) -> Value {
        said(&self.agentd(&["ufw-undo"]))
    }

    /// `### tuple ###` lines of both files.
    fn tuples(&self) -> Vec<String> {
        let texts = FILES[..2].iter().map(|path| fs::read_to_string(path).unwrap());
        let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
        lines.filter(|line| line.starts_with("### tuple ###")).collect()
    }
}

fn run(command: &mut Command) -> Output {
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").output().unwrap()
}

fn said(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn contents() -> BTreeMap<&'static str, Vec<u8>> {
    FILES.iter().map(|path| (*path, fs::read(path).unwrap())).collect()
}

/// Runs `act` on a thread in namespaces of its own.
fn on_a_host<T: Send>(act: impl FnOnce(&Host) -> T + Send) -> T {
    let dir = tempfile::tempdir().unwrap();
    let body = || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("root may unshare");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        for (copy, place) in ufw::fresh(dir.path()) {
            mount(Some(&copy), place, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        }
        // ufw's lock.
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        act(&Host { journal_path: dir.path().join("state/firewall/journal.json") })
    };
    std::thread::scope(|scope| scope.spawn(body).join().unwrap())
}

fn on_an_active_host<T: Send>(act: impl FnOnce(&Host) -> T + Send) -> T {
    on_a_host(|host| {
        host.ufw("--force enable");
        host.ufw("allow 80/tcp comment web");
        act(host)
    })
}

#[test]
fn what_is_added_is_in_the_kernel_and_taken_back_to_the_byte() {
    on_an_active_host(|host| {
        let before = contents();
        assert_eq!(host.allowed()["added"].as_array().unwrap().len(), 4, "{:?}", host.tuples());
        let chain = String::from_utf8(run(Command::new("iptables").args(["-S", "ufw-user-input"])).stdout).unwrap();
        assert!(chain.contains("--dport 8443 -j ACCEPT") && chain.contains("-s 203.0.113.0/24"), "{chain}");
        let chain = String::from_utf8(run(Command::new("ip6tables").args(["-S", "ufw6-user-input"])).stdout).unwrap();
        assert!(chain.contains("--dport 8443 -j ACCEPT") && chain.contains("-s 2001:db8::/32"), "{chain}");
        assert_ne!(contents(), before);
        assert_eq!(host.allowed(), json!({ "added": [], "pre_existing": [] }), "twice is once");

        let undone = host.undone();
        assert_eq!(undone["removed"].as_array().unwrap().len(), 4);
        assert!(undone["files"].as_object().unwrap().values().all(|file| file == "restored exactly"), "{undone}");
        assert_eq!(contents(), before);
        assert!(!host.journal_path.exists());
    });
}

#[test]
fn an_owners_allow_keeps_its_comment_and_outlives_ours() {
    on_an_active_host(|host| {
        host.ufw("allow 8443/tcp comment mine");
        let before = contents();
        let allowed = host.allowed();
        assert_eq!(
            (allowed["added"].as_array().unwrap().len(), allowed["pre_existing"].as_array().unwrap().len()),
            (2, 2)
        );
        host.undone();
        assert_eq!(contents(), before);
        // The control: ufw asked plainly grafts our comment on theirs, and deletes it.
        host.ufw("allow 8443/tcp comment agentd:proxy");
        host.ufw("delete allow 8443/tcp");
        assert!(!host.tuples().iter().any(|line| line.contains("8443")), "{:?}", host.tuples());
    });
}

#[test]
fn an_owners_deny_stops_us_and_stays() {
    on_an_active_host(|host| {
        host.ufw("deny 8443/tcp");
        let before = contents();
        let refused = host.allow();
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains("Deny") && text.contains("8443"), "{refused:?}");
        assert_eq!(contents(), before);
        assert!(!host.journal_path.exists(), "nothing was done, nothing is to be undone");
        // The controls: `prepend` says success and leaves the deny, a plain `allow` replaces it.
        host.ufw("prepend allow 8443/tcp");
        assert!(host.tuples().iter().any(|line| line.contains("deny tcp 8443")));
        host.ufw("allow 8443/tcp");
        assert!(!host.tuples().iter().any(|line| line.contains("deny tcp 8443")));
    });
}

#[test]
fn ours_stands_in_front_of_a_wider_deny() {
    on_an_active_host(|host| {
        host.ufw("deny proto tcp from any to any port 8000:9000");
        let before = contents();
        host.allowed();
        let tuples = host.tuples();
        let at = |part: &str| tuples.iter().position(|line| line.contains(part)).unwrap();
        assert!(at("allow tcp 8443 0.0.0.0/0") < at("deny tcp 8000:9000 0.0.0.0/0"), "{tuples:?}");
        host.undone();
        assert_eq!(contents(), before);
    });
}

#[test]
fn what_the_owner_changes_meanwhile_is_kept_and_named() {
    on_an_active_host(|host| {
        host.allowed();
        host.ufw("allow 9000/tcp comment later");
        host.ufw("delete allow 80/tcp");
        host.ufw("deny proto tcp from 203.0.113.0/24 to any port 22");
        let undone = host.undone();
        assert_eq!(undone["left"], json!(["TCP port 22 from 203.0.113.0/24"]), "the owner made it a deny: {undone}");
        let v4 = &undone["files"]["/etc/ufw/user.rules"];
        assert!(v4["added"].to_string().contains("9000") && v4["missing"].to_string().contains(" 80 "), "{undone}");
        let tuples = host.tuples();
        assert!(tuples.iter().any(|line| line.contains("deny tcp 22")), "{tuples:?}");
        assert!(!tuples.iter().any(|line| line.contains("8443")), "{tuples:?}");
    });
}

#[test]
fn an_inactive_ufw_is_left_alone() {
    on_a_host(|host| {
        let before = contents();
        let output = host.allow();
        assert!(
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains("not active"),
            "{output:?}"
        );
        assert_eq!(contents(), before);
        assert!(!host.journal_path.exists());
        assert!(host.ufw("status").starts_with("Status: inactive"));
    });
}

#[test]
fn what_filters_here_is_told() {
    let foreign =
        || said(&run(Command::new(program("agentd")).args(["firewall", "foreign", "--mode", "daemon-port", "--json"])));
    let inactive = on_a_host(|_| foreign());
    let active = on_an_active_host(|_| foreign());
    assert_eq!(inactive["enforcement"], "nftables", "{inactive}");
    assert_eq!(active["enforcement"], "nftables-with-ufw-allows", "{active}");
    // A namespace of the test is not the machine's network.
    for verdict in [&inactive, &active] {
        let found = verdict["findings"].as_array().unwrap();
        assert!(found.iter().any(|finding| finding["severity"] == "cannot-vouch"), "{verdict}");
    }
}
