//! A private /etc/hosts: seen by the program where the host allows it, and never the reason for one not to run. Passes
//! on hosts that refuse namespaces too: what to expect is asked of the shim, as the manager does.

use std::path::PathBuf;
use std::process::Command;

use agentd_protocol::shim::event::EventKind;
use agentd_protocol::shim::hosts::{RENEW_VERB, Refused, Step, TRY_VERB};
use agentd_protocol::shim::log::Source;
use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::Exit;
use agentd_protocol::shim::wire::Message;

use crate::harness::{Instance, is_alive, wait_for};

const NAMES: &str = "127.0.0.1 private.test\n";

fn ask(verb: &str, arguments: &[&str]) -> Result<(), Refused> {
    let output = Command::new(env!("CARGO_BIN_EXE_agentd-shim")).arg(verb).args(arguments).output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(Refused::parse(&String::from_utf8(output.stdout).unwrap()).unwrap())
}

/// With a hosts file in its folder; tells also whether this host lets it be seen.
fn with_names(script: &str) -> (Instance, PathBuf, bool) {
    let mut instance = Instance::shell(script);
    let path = instance.root().join("hosts");
    std::fs::write(&path, NAMES).unwrap();
    instance.spec.hosts_file = Some(path.as_os_str().as_encoded_bytes().to_vec());
    let is_seen = ask(TRY_VERB, &[path.to_str().unwrap()]).is_ok();
    (instance, path, is_seen)
}

#[test]
fn the_program_sees_the_file_and_is_what_it_was() {
    let (mut instance, _, is_seen) =
        with_names("cat /etc/hosts; echo; id -u; id -g; grep -E 'CapPrm|CapEff|NoNewPrivs' /proc/self/status");
    instance.spec.restart = RestartPolicy::Never;
    let mut session = instance.start();
    assert_eq!(session.wait_exit().0, Exit::Code(0));
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    let log = instance.log(Source::Stdout);
    assert_eq!(log.starts_with(NAMES), is_seen, "{log}");
    assert_eq!(instance.log(Source::Stderr).contains("service names are not in"), !is_seen);
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    assert!(log.contains(&format!("\n{uid}\n{gid}\n")), "{log}");
    assert!(log.contains("NoNewPrivs:\t1"), "{log}");
    if !uid.is_root() {
        assert!(log.contains("CapPrm:\t0000000000000000\n") && log.contains("CapEff:\t0000000000000000\n"), "{log}");
    }
    assert!(!std::fs::read_to_string("/etc/hosts").unwrap().contains("private.test"), "the machine's own is as before");
}

#[test]
fn a_file_that_is_not_there_keeps_no_program_from_running() {
    let (mut instance, path, _) = with_names("echo runs; exit 3");
    instance.spec.restart = RestartPolicy::Never;
    std::fs::remove_file(&path).unwrap();
    let mut session = instance.start();
    assert_eq!(session.wait_exit().0, Exit::Code(3));
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    assert_eq!(instance.log(Source::Stdout), "runs\n");
    assert!(instance.log(Source::Stderr).contains("service names are not in"), "{}", instance.log(Source::Stderr));
    if let Err(refused) = ask(TRY_VERB, &[path.to_str().unwrap()]) {
        assert!(refused.step != Step::Bind || refused.errno == nix::libc::ENOENT, "{refused:?}");
    }
}

#[test]
fn a_program_in_its_own_namespace_is_adopted_and_ended_with_its_tree() {
    // A child that left the session and has another parent is known by its environment alone.
    let (mut instance, _, _) =
        with_names("(setsid sh -c 'echo $$ > escaped; exec sleep 600' &) ; sleep 0.1; exec sleep 600");
    instance.start();
    let program = instance.wait_up();
    let escaped: u32 = wait_for("the child's pid", || {
        let text = std::fs::read_to_string(instance.root().join("escaped")).map_err(|error| error.to_string())?;
        text.trim().parse().map_err(|_| text)
    });
    instance.kill_shim();
    let mut session = instance.start();
    session.wait_event("adoption", |kind| *kind == EventKind::Adopted);
    assert_eq!(session.state.phase.program(), Some(&program));
    session.order(Message::Stop { timeout_ms: None });
    instance.reap_as_keeper(&program);
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    assert!(!is_alive(escaped), "found by its environment across the namespace");
}

#[test]
fn a_start_cut_short_is_adopted_or_sent_away() {
    let (mut instance, _, _) = with_names("echo $$ >> runs; exec sleep 600");
    for kill in 0..20 {
        instance.spawn_shim();
        std::thread::sleep(std::time::Duration::from_micros(kill * 7_919 % 12_000)); // poll: spreads the kills over the first steps
        instance.kill_shim();
    }
    instance.spawn_shim();
    let program = instance.wait_up();
    let runs = wait_for("the program's note", || {
        std::fs::read_to_string(instance.root().join("runs")).map_err(|error| error.to_string())
    });
    assert_eq!(runs, format!("{}\n", program.pid));
}

#[test]
fn a_file_changed_in_place_is_seen_by_who_runs() {
    let (mut instance, path, is_seen) =
        with_names("while ! grep -q later.test /etc/hosts; do sleep 0.01; done; echo seen");
    if !is_seen {
        // Refused here: the first test holds that it runs all the same.
        return;
    }
    instance.spec.restart = RestartPolicy::Never;
    instance.start();
    instance.wait_up();
    let text = format!("{NAMES}127.0.0.1 later.test\n");
    agentd_sys::files::write_in_place(&path, text.as_bytes(), 0o644).unwrap();
    instance.wait_log("seen");
}

#[test]
fn renewing_touches_nothing_that_is_not_ours_or_already_covered() {
    let (mut instance, path, is_seen) = with_names("exec sleep 600");
    instance.start();
    let program = instance.wait_up();
    let file = path.to_str().unwrap();
    let mounts = || {
        let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", program.pid)).unwrap();
        table.lines().filter(|line| line.split(' ').nth(4) == Some("/etc/hosts")).count()
    };
    wait_for("the program itself", || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", program.pid)).unwrap_or_default();
        if name.trim() == "sleep" { Ok(()) } else { Err(name) }
    });
    let before = mounts();
    let pid = program.pid.to_string();
    assert_eq!(ask(RENEW_VERB, &[&pid, &instance.spec.instance, file]), Ok(()));
    assert_eq!(ask(RENEW_VERB, &[&pid, "another", file]), Ok(()));
    assert_eq!(ask(RENEW_VERB, &[&std::process::id().to_string(), "another", file]), Ok(()));
    assert_eq!(mounts(), before);
    if is_seen {
        // Another file is another mount: the way into a running instance is open.
        let other = instance.root().join("other");
        std::fs::write(&other, NAMES).unwrap();
        assert_eq!(ask(RENEW_VERB, &[&pid, &instance.spec.instance, other.to_str().unwrap()]), Ok(()));
        assert_eq!(mounts(), before + 1);
    }
}
