//! Commit-confirm with a real manager in a network namespace and an outside that tries to get in (C2, C3, C6, T2).
//!
//! `host` and `outside` are two namespaces with a link between them; the manager runs in `host`. On port 2200 of `host`
//! something listens that no mode lets in, so "shut" is told from "open" by connecting.

mod fight;
mod place;
mod terminal;

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use agentd_protocol::security::{Exposure, Mode};
use agentd_tests::program;

use self::place::{HOST, Net, OUTSIDE, Place, eprint};

#[test]
fn a_trial_is_confirmed_and_stays() {
    let place = Place::new("ok");
    assert!(place.net.gets_in(2200), "control: nothing is shut yet");
    assert_eq!(place.status().exposure, Exposure::Unmanaged);
    let told = place.good(&["apply", "--mode", "daemon-port"]).stdout;
    assert!(told.contains("daemon-port is on trial for 1") && told.contains("proxy         green"), "{told}");
    assert!(!place.net.gets_in(2200), "the trial's rules are in force");
    let status = place.status();
    assert_eq!((status.mode, status.trial.map(|trial| trial.to)), (Mode::Open, Some(Mode::DaemonPort)));
    assert_eq!(place.security(&["apply", "--mode", "tunnel"]).code, 1, "one trial at a time");
    place.good(&["confirm"]);
    assert!(!place.pending());
    let status = place.status();
    assert_eq!((status.mode, status.exposure, status.trial), (Mode::DaemonPort, Exposure::DaemonPort, None));
    assert!(!place.net.gets_in(2200) && place.security(&["confirm"]).code == 1);
    let shown = place.world.ctl(&["status"]).stdout;
    assert!(shown.contains("security: daemon-port, exposure daemon-port"), "{shown}");
    place.good(&["apply", "--mode", "open"]);
    place.good(&["confirm"]);
    assert!(place.net.gets_in(2200) && !place.has_table(), "open leaves no trace (C7)");
    let events = place.events();
    assert!(events.contains("security.trial") && events.contains("security.confirmed"), "{events}");
}

#[test]
fn a_trial_nobody_confirms_ends_though_the_manager_is_dead() {
    let mut place = Place::new("dead");
    let start = Instant::now();
    place.good(&["apply", "--mode", "tunnel", "--window", "8s"]);
    let shut = !place.net.gets_in(2200);
    place.world.kill_manager();
    assert!(shut, "control: the trial shuts the port");
    place.until("the kernel lets the port in again", |place| place.net.gets_in(2200));
    eprint(&format!("back {:.1} s after the order, for a window of 8 s", start.elapsed().as_secs_f32()));
    place.until("the watchdog has tidied up", |place| !place.pending() && !place.has_table());
    place.start();
    place.until("the manager has looked", |place| place.status().exposure == Exposure::Unmanaged);
    assert_eq!(place.status().mode, Mode::Open);
}

#[test]
fn a_check_that_turns_red_ends_the_trial_at_once() {
    let mut place = Place::new("red");
    // Answers one question: the check before. What comes after finds it silent.
    let code = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('0.0.0.0',53))\nprint('ready',flush=True)\nd,a=s.recvfrom(999)\ns.sendto(d,a)\nwhile True: s.recvfrom(999)";
    let outside = place.net.outside.clone();
    place.net.python(&outside, code);
    std::fs::write(&place.resolv, format!("nameserver {OUTSIDE}\n")).unwrap();
    let refused = place.security(&["apply", "--mode", "tunnel"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("rules of before are back") && refused.stderr.contains("dns"), "{refused:?}");
    assert!(place.net.gets_in(2200) && !place.pending() && !place.has_table());
    let refused = place.security(&["apply", "--mode", "tunnel"]);
    assert!(refused.stderr.contains("nothing was changed") && refused.stderr.contains("--without-check dns"));
    place.good(&["apply", "--mode", "tunnel", "--without-check", "dns"]);
    assert!(!place.net.gets_in(2200));
    place.good(&["revert"]);
    assert!(place.net.gets_in(2200));
}

#[test]
fn rules_are_back_within_two_seconds_while_an_order_waits_for_a_slow_check() {
    let mut place = Place::confirmed("slow", "tunnel");
    let heard = place.world.dir().join("heard");
    // Never answers: the check of names takes 4 s.
    let code = format!(
        "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('0.0.0.0',53))\nprint('ready',flush=True)\nwhile True:\n  s.recvfrom(999)\n  open('{}','w')",
        heard.display()
    );
    let outside = place.net.outside.clone();
    place.net.python(&outside, &code);
    std::fs::write(&place.resolv, format!("nameserver {OUTSIDE}\n")).unwrap();
    let place = &place;
    std::thread::scope(|scope| {
        let order = scope.spawn(|| place.security(&["apply", "--mode", "daemon-port"]));
        place.until("the check asks", |_| heard.exists());
        place.net.nft(&["flush", "ruleset"]);
        let took = place.until("the table is back", |place| place.has_table());
        eprint(&format!("nft flush ruleset during a check: back after {} ms", took.as_millis()));
        assert!(!order.is_finished() && took < Duration::from_secs(2) && !place.net.gets_in(2200));
        let refused = order.join().unwrap();
        assert!(refused.stderr.contains("nothing was changed") && refused.stderr.contains("dns"), "{refused:?}");
    });
}

#[test]
fn ending_and_starting_the_manager_changes_no_rule() {
    let mut place = Place::confirmed("calm", "tunnel");
    let before = place.net.nft(&["-a", "list", "table", "inet", "agentd"]);
    place.world.kill_manager();
    assert!(!place.net.gets_in(2200));
    place.start();
    place.until("the manager has looked", |place| place.status().exposure == Exposure::None);
    let after = place.net.nft(&["-a", "list", "table", "inet", "agentd"]);
    let rules = |text: &str| {
        text.lines()
            .filter(|line| line.contains("# handle") && !line.contains("counter"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(rules(&before), rules(&after), "the same rules with the same handles (C4)");
    assert_eq!(place.status().repairs, 0);
}

#[test]
fn boot_forgets_a_trial_and_loads_what_was_confirmed() {
    let mut place = Place::confirmed("boot", "daemon-port");
    place.good(&["apply", "--mode", "open", "--window", "1h"]);
    assert!(place.net.gets_in(2200) && place.pending());
    place.world.kill_manager();
    // A restart of the machine, as far as a namespace has one: no rules, another boot id in the file.
    place.net.nft(&["flush", "ruleset"]);
    let path = place.world.home.join("state/firewall/pending.json");
    let mut pending: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    pending["boot_id"] = "another".into();
    std::fs::write(&path, pending.to_string()).unwrap();
    let mut load = Net::within(&place.net.host, program("agentd").to_str().unwrap());
    load.args(["firewall", "load", "--state"]).arg(place.world.home.join("state"));
    let output = load.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!place.pending() && place.has_table());
    assert!(!place.net.gets_in(2200), "the mode of before the trial is in force (C3)");
    std::fs::write(place.world.home.join("state/firewall/active.json"), "{").unwrap();
    place.net.nft(&["flush", "ruleset"]);
    let output = load.output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(!place.net.gets_in(2200) && place.net.gets_in(22), "unreadable: everything but SSH is shut");
}

#[test]
fn the_watchdog_is_a_process_of_its_own_with_one_thread() {
    let mut place = Place::new("dog");
    place.good(&["apply", "--mode", "tunnel", "--window", "1h"]);
    let dogs = |place: &Place| {
        let is_dog = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains("watchdog"))
        };
        place.world.processes().into_iter().filter(is_dog).collect::<Vec<_>>()
    };
    let [dog] = dogs(&place)[..] else { panic!("{:?}", dogs(&place)) };
    assert_eq!(std::fs::read_dir(format!("/proc/{dog}/task")).unwrap().count(), 1, "neither tokio nor SQLite");
    let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(i32::try_from(dog).unwrap()))).unwrap();
    assert_eq!(u32::try_from(session.as_raw()).unwrap(), dog, "a session of its own");
    place.world.kill_manager();
    assert_eq!(dogs(&place), [dog], "it outlives the manager");
    place.start();
    place.good(&["revert"]);
    place.until("the watchdog has nothing left to guard", |place| dogs(place).is_empty());
}

#[test]
fn those_on_ssh_are_neither_cut_off_by_mistake_nor_a_proof() {
    let mut place = Place::new("ssh");
    let peer = place.net.stay_connected(22);
    let phrase = format!("block ssh from {OUTSIDE}");
    let refused = place.security(&["apply", "--mode", "daemon-port", "--ssh", "203.0.113.0/24"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains(&phrase) && refused.stderr.contains(&format!("--ssh {OUTSIDE}/32")), "{refused:?}");
    assert!(!place.has_table());
    assert_eq!(place.security(&["apply", "--mode", "tunnel", "--phrase", "yes"]).code, 1);
    let plan = place.good(&["plan", "--mode", "daemon-port", "--ssh", "10.213.7.0/24"]).stdout;
    assert!(plan.contains("could come back") && plan.contains("2200/tcp"), "{plan}");
    assert_eq!(place.security(&["apply"]).code, 2, "without a terminal one says what is wanted");

    place.good(&["apply", "--mode", "daemon-port", "--ssh", "10.213.7.0/24"]);
    assert!(place.net.gets_in(22) && !place.net.gets_in(2200));
    let from = |peer: SocketAddr| {
        let connection = format!("{} {} {HOST} 22", peer.ip(), peer.port());
        let mut command = Command::new(program("agentctl"));
        command.arg("--home").arg(&place.world.home).args(["security", "confirm"]);
        command.env("SSH_CONNECTION", connection).output().unwrap()
    };
    let old = from(peer);
    assert_eq!(old.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&old.stderr).contains("log in anew"), "{old:?}");
    assert!(place.pending(), "nothing was confirmed");
    let new = from(SocketAddr::new(peer.ip(), 1));
    assert!(new.status.success(), "a new connection proves the way in: {new:?}");
    place.good(&["apply", "--mode", "tunnel", "--phrase", &phrase]);
    let output = from(peer);
    assert!(output.status.success(), "in tunnel the phrase was the proof: {output:?}");
}

#[test]
fn ssh_that_was_let_in_for_a_while_is_shut_by_the_kernel() {
    let mut place = Place::confirmed("glass", "tunnel");
    assert!(!place.net.gets_in(22));
    let start = Instant::now();
    place.good(&["open", "--ssh", &format!("{OUTSIDE}/32"), "--for", "6s"]);
    assert!(place.net.gets_in(22) && !place.net.gets_in(2200));
    assert!(start.elapsed() < Duration::from_secs(6), "too slow a machine for this test");
    place.world.kill_manager();
    let took = place.until("the kernel shuts it", |place| !place.net.gets_in(22));
    eprint(&format!("shut {} ms later, the manager being dead", took.as_millis()));
    assert!(start.elapsed() > Duration::from_secs(5));
}

#[test]
fn an_active_ufw_lets_in_what_the_mode_lets_in_and_has_its_own_rules_back_in_the_end() {
    let place = Place::with_ufw("ufw", "allow 80/tcp comment web");
    let (before, port) = (place.ufw_rules(), place.world.port);
    assert!(!place.net.gets_in(2200), "control: ufw denies by default");
    let plan = place.good(&["plan", "--mode", "daemon-port"]).stdout;
    assert!(plan.contains("enforced by: nftables (+ufw allows)"), "{plan}");

    place.good(&["apply", "--mode", "daemon-port", "--window", "3s"]);
    assert_ne!(place.ufw_rules(), before, "control: ufw was told");
    place.until("a trial that nobody confirms is taken out of ufw, too", |place| place.ufw_rules() == before);
    place.until("it is over", |place| !place.pending());

    place.good(&["apply", "--mode", "daemon-port"]);
    place.good(&["confirm"]);
    assert!(place.net.gets_in(port), "although ufw denies by default: {}", place.ufw("status"));
    assert!(!place.net.gets_in(2200) && !place.net.gets_in(22));
    assert_eq!(place.status().enforcement.split(';').next(), Some("nftables (+ufw allows)"));

    let told = place.remove();
    assert!(told.contains("table `inet agentd` is removed") && told.contains("as it was before agentd"), "{told}");
    assert_eq!(place.ufw_rules(), before, "byte for byte");
    assert!(!place.has_table() && !place.world.home.join("state/firewall").join("active.json").exists());
    assert!(!place.net.gets_in(port), "control: it was our allow that let it in");
    place.remove();
}

#[test]
fn an_owners_deny_in_ufw_refuses_the_mode() {
    let mut place = Place::with_ufw("deny", "allow 80/tcp");
    place.ufw(&format!("deny {}/tcp", place.world.port));
    let before = place.ufw_rules();
    let refused = place.security(&["apply", "--mode", "daemon-port"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("a rule of yours that does otherwise (Deny)"), "{refused:?}");
    let plan = place.good(&["plan", "--mode", "daemon-port"]).stdout;
    assert!(plan.contains("a rule of yours that does otherwise"), "{plan}");
    assert!(place.ufw_rules() == before && !place.has_table() && !place.pending());
    // In `tunnel` nothing of ufw is needed.
    place.good(&["apply", "--mode", "tunnel"]);
    place.good(&["revert"]);
    assert_eq!(place.ufw_rules(), before);
    place.world.kill_manager();
}

#[test]
fn the_self_test_hears_what_is_let_in_and_nothing_else() {
    let place = Place::confirmed("self", "tunnel");
    let told = place.good(&["selftest"]).stdout;
    assert!(told.contains("none answers that should not"), "{told}");
    assert!(place.security(&["status"]).stdout.contains("dropped:"));
    place.good(&["apply", "--mode", "daemon-port"]);
    place.good(&["confirm"]);
    // Control: the far end hears what is let in. Good means that the proxy's port answered, and it alone.
    place.good(&["selftest"]);
    place.good(&["apply", "--mode", "open"]);
    place.good(&["confirm"]);
    let refused = place.security(&["selftest"]);
    assert!(refused.code == 1 && refused.stderr.contains("nothing is shut"), "{refused:?}");
    let links = Command::new("ip").args(["-n", &place.net.host, "-o", "link"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&links.stdout).contains("agd-t-"), "the link is gone");
}

#[test]
fn without_nft_and_ufw_closed_modes_are_refused_with_the_cure_and_open_stays() {
    let mut place = Place::before("bare");
    // In the manager's own mount namespace: what is no file is not installed.
    place.mounts +=
        " && for file in /usr/sbin/nft /usr/sbin/ufw; do test ! -e $file || mount --bind /dev/null $file; done";
    place.start();
    for mode in ["daemon-port", "tunnel"] {
        let plan = place.good(&["plan", "--mode", mode]).stdout;
        assert!(plan.contains("nftables") && plan.contains("install"), "{mode}: {plan}");
        let orders = [&["apply", "--mode", mode][..], &["apply", "--mode", mode, "--force", "--accept"]];
        for order in orders {
            let refused = place.security(order);
            assert_eq!(refused.code, 1, "{order:?}: {refused:?}");
            assert!(refused.stderr.contains("nftables") && refused.stderr.contains("install"), "{refused:?}");
        }
    }
    assert!(!place.pending() && place.net.gets_in(2200), "nothing was changed");
    let status = place.good(&["status"]).stdout;
    assert!(status.contains("exposure:    unmanaged") && status.contains("nothing, nor could it be"), "{status}");
    assert!(place.good(&["apply", "--mode", "open"]).stdout.contains("open is in force already"));
    place.world.kill_manager();
    // Control: the same host with nft again.
    place.mounts.truncate(place.mounts.find(" && for").unwrap());
    place.start();
    place.good(&["apply", "--mode", "tunnel"]);
    assert!(!place.net.gets_in(2200));
}
