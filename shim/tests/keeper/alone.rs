//! What must outlive which death, with a stand-in for the shims.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use agentd_protocol::shim::event::{REAP_BYTES, ReapRecord};
use agentd_protocol::shim::state::{Phase, State};
use agentd_protocol::shim::wire::{Message, Refusal};
use agentd_sys::files;
use nix::sys::signal::Signal;

use crate::host::{Host, Kernel, Shim, field, id, inode, pid_of, pipe, send, start_keeper, wait_for};

#[test]
fn a_killed_shim_comes_back_with_the_same_descriptors() {
    let host = Host::new();
    let (one, two) = pipe();
    assert_eq!(host.spawn(&["listen.web", "reserve.port"], &[&one, &two]), Message::Done);
    let first = host.start(1);
    let inodes = format!("{}, {}", inode(&one), inode(&two));
    assert_eq!(field(&first, "names"), r#""listen.web", "reserve.port""#);
    assert_eq!(field(&first, "inodes"), inodes);
    assert_eq!(field(&first, "stdin"), r#""/dev/null""#);
    let env = field(&first, "env");
    assert!(env.contains("AGENTD_HELD_FDS") && !env.contains("A_SECRET"), "{env}");
    assert_eq!(host.listed(), [(id().to_owned(), pid_of(&first))]);

    send(pid_of(&first), Signal::SIGKILL);
    let second = host.start(2);
    assert_ne!(pid_of(&first), pid_of(&second));
    assert_eq!(field(&second, "inodes"), inodes);

    assert_eq!(host.spawn(&[], &[]), Message::Done, "it runs: nothing to do");
    assert_eq!(host.listed(), [(id().to_owned(), pid_of(&second))]);
    let (names, inodes) = host.held();
    assert_eq!(names, ["listen.web", "reserve.port"]);
    assert_eq!(inodes, [inode(&one), inode(&two)]);
}

#[test]
fn bytes_in_the_log_pipe_outlive_writer_and_readers() {
    let host = Host::new();
    host.spawn(&[], &[]);
    host.start(1);
    let fifo = host.dir().join("out.fifo");
    // A writer that opens without waiting finds ENXIO when nobody holds the other end.
    let mut writer = std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&fifo).unwrap();
    writer.write_all(b"last words\n").unwrap();
    drop(writer);
    let mut reader = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&fifo).unwrap();
    let mut bytes = [0; 64];
    let len = reader.read(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"last words\n");
}

#[test]
fn what_a_dead_shim_left_is_recorded_before_it_is_reaped() {
    let host = Host::new();
    std::fs::write(host.dir().join("program"), "while [ ! -e end ]; do sleep 0.02; done; exit 42").unwrap();
    host.spawn(&[], &[]);
    let first = host.start(1);
    let program: u32 = field(&first, "program").parse().unwrap();
    send(pid_of(&first), Signal::SIGKILL);
    host.start(2);
    let pidfd = agentd_sys::process::PidFd::open(program).unwrap();
    let identity = agentd_sys::process::identify(program, &pidfd).unwrap();
    std::fs::write(host.dir().join("end"), b"").unwrap();
    let record = wait_for("record of the program's exit", || {
        let bytes = std::fs::read(host.root.path().join("keeper/exits")).ok()?;
        let records = bytes.chunks_exact(REAP_BYTES).map(|chunk| ReapRecord::decode(chunk.try_into().unwrap()));
        records.into_iter().find(|record| record.pid == program)
    });
    assert_eq!(record.wait_status, 42 << 8);
    assert_eq!((record.pidfd_inode, record.start_ticks), (identity.pidfd_inode, identity.start_ticks));
    wait_for("reap", || agentd_sys::process::stat(program).is_none().then_some(()));
}

#[test]
fn a_new_keeper_finds_living_shims_and_what_they_hold() {
    finds_living_shims(Host::new());
}

#[test]
fn a_new_keeper_finds_living_shims_on_an_old_kernel_too() {
    finds_living_shims(Host::on(Kernel::Old));
}

fn finds_living_shims(mut host: Host) {
    let (one, _two) = pipe();
    host.spawn(&["listen.web"], &[&one]);
    let first = host.start(1);
    host.kill_and_replace_keeper();
    assert_eq!(host.listed(), [(id().to_owned(), pid_of(&first))]);
    wait_for("held descriptors", || (host.held() == (vec!["listen.web".to_owned()], vec![inode(&one)])).then_some(()));

    // It is not our child now, but its death is seen all the same.
    let mut state = State::fresh();
    state.phase = Phase::Backoff { retry_at_boot_ms: 1 };
    std::fs::write(host.dir().join("state"), state.encode()).unwrap();
    std::fs::write(host.dir().join("spec"), b"").unwrap();
    send(pid_of(&first), Signal::SIGKILL);
    let second = host.start(2);
    assert_eq!(field(&second, "inodes"), inode(&one).to_string());
    assert_eq!(field(&second, "env").contains("AGENTD_NO_PIDFD_INFO"), host.kernel == Kernel::Old);
}

#[test]
fn a_new_keeper_starts_shims_for_programs_without_one() {
    let mut host = Host::new();
    host.spawn(&[], &[]);
    let first = host.start(1);
    let mut state = State::fresh();
    state.phase = Phase::Backoff { retry_at_boot_ms: 1 };
    std::fs::write(host.dir().join("state"), state.encode()).unwrap();
    std::fs::write(host.dir().join("spec"), b"").unwrap();
    host.stop_keeper(Signal::SIGKILL);
    send(pid_of(&first), Signal::SIGKILL);
    wait_for("free lock", || (!files::is_locked(&host.dir().join("lock")).unwrap()).then_some(()));
    host.start_keeper();
    assert_eq!(host.listed(), [], "the manager has a moment to bring the descriptors");
    let second = host.start(2);
    assert_eq!(host.listed(), [(id().to_owned(), pid_of(&second))]);
}

#[test]
fn the_keeper_ends_only_when_nothing_is_left() {
    let mut host = Host::new();
    host.spawn(&[], &[]);
    let first = host.start(1);
    for message in [Message::Shutdown, Message::Forget { instance: id().to_owned() }] {
        assert!(matches!(host.ask(message), Message::Refused { reason: Refusal::Busy, .. }));
    }
    // Exit status 0: it was told to leave.
    send(pid_of(&first), Signal::SIGTERM);
    wait_for("empty list", || host.listed().is_empty().then_some(()));
    assert_eq!(host.ask(Message::Shutdown), Message::Done);
    assert!(wait_for("the keeper's end", || host.keeper.try_wait().unwrap()).success());
    let text = std::fs::read_to_string(host.dir().join("starts")).unwrap();
    assert_eq!(text.lines().count(), 1, "a shim that left is not started again");
}

#[test]
fn sigterm_ends_the_host_and_sigint_nothing() {
    let mut host = Host::new();
    host.spawn(&[], &[]);
    let first = host.start(1);
    send(host.keeper.id(), Signal::SIGINT);
    assert_eq!(host.listed().len(), 1);
    assert!(host.stop_keeper(Signal::SIGTERM).success());
    assert!(agentd_sys::process::stat(pid_of(&first)).is_none(), "the shim ended before the keeper");
}

#[test]
fn a_second_keeper_leaves_with_its_own_code() {
    let host = Host::new();
    host.connect();
    assert_eq!(start_keeper(host.root.path(), host.kernel, Shim::StandIn).wait().unwrap().code(), Some(7));
    assert_eq!(host.listed(), []);
}

#[test]
fn wrong_requests_are_refused_and_change_nothing() {
    let host = Host::new();
    let refusal = |message: Message| match host.ask(message) {
        Message::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    let spawn = |instance: &str, names: Vec<String>| Message::Spawn { instance: instance.to_owned(), names };
    assert_eq!(refusal(spawn("../../escape", vec![])), Refusal::Unknown);
    assert_eq!(refusal(spawn("000000000000", vec![])), Refusal::Unknown);
    assert_eq!(refusal(spawn(id(), vec!["listen.web".into()])), Refusal::Failed);
    assert_eq!(refusal(Message::AskHeld { instance: None }), Refusal::Unknown);
    assert_eq!(refusal(Message::Start), Refusal::Unsupported);
    assert_eq!(host.ask(Message::Forget { instance: "000000000000".into() }), Message::Done);
    assert_eq!(host.listed(), []);
    for turn in 0..21 {
        let Message::GrantStart { wait_ms } = host.ask(Message::AskStart { instance: id().into() }) else {
            panic!("no grant")
        };
        assert!(turn == 20 || wait_ms == 0, "turn {turn}: {wait_ms}");
    }
}
