//! Start, end, restart.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use agentd_protocol::shim::event::EventKind;
use agentd_protocol::shim::log::Source;
use agentd_protocol::shim::spec::{RestartPolicy, User};
use agentd_protocol::shim::state::{Exit, Phase};
use agentd_protocol::shim::wire::{Envelope, Message};
use agentd_sys::seqpacket::{Blocking, Listener, Received};

use crate::harness::{Instance, is_alive, wait_for};

#[test]
fn output_and_exit_status_of_a_job_are_recorded() {
    let mut instance = Instance::shell("echo out; echo err >&2; exit 42");
    instance.spec.restart = RestartPolicy::Never;
    let mut session = instance.start();
    assert_eq!(session.wait_exit().0, Exit::Code(42));
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    assert_eq!(instance.log(Source::Stdout), "out\n");
    assert_eq!(instance.log(Source::Stderr), "err\n");
    let state = instance.state();
    assert_eq!((state.phase, state.incarnation), (Phase::Down, 1));
    assert_eq!(state.last_exit.unwrap().exit, Exit::Code(42));
}

#[test]
fn a_death_by_signal_is_told_real_time_signals_too() {
    for (script, number) in [("kill -9 $$", 9), ("kill -40 $$", 40)] {
        let mut instance = Instance::shell(script);
        instance.spec.restart = RestartPolicy::Never;
        assert_eq!(instance.start().wait_exit().0, Exit::Signal { number, core: false });
    }
}

#[test]
fn a_stable_program_starts_again_at_once_after_a_crash() {
    let mut instance = Instance::shell("exec sleep 600");
    instance.spec.stable_after_ms = 0;
    let mut session = instance.start();
    let first = session.wait_started();
    let up = instance.wait_up();
    session.order(Message::MarkReady { incarnation: 1 });
    agentd_sys::process::find(&up).unwrap().unwrap().signal(11).unwrap();
    let (exit, ended) = session.wait_exit();
    assert!(matches!(exit, Exit::Signal { number: 11, .. }));
    let again = session.wait_started();
    assert!(again.boot_ms - ended.boot_ms < 2_000, "{} ms", again.boot_ms - ended.boot_ms);
    assert_eq!((again.incarnation, first.incarnation), (2, 1));
    assert!(is_alive(again.pid));
    assert_eq!(instance.state().unstable_exits, 0);
}

#[test]
fn an_unstable_program_is_started_later_and_later() {
    let mut instance = Instance::shell("exit 3");
    let mut session = instance.start();
    let mut waits = Vec::new();
    for _ in 0..3 {
        let event = session.wait_event("backoff", |kind| matches!(kind, EventKind::Backoff { .. }));
        let EventKind::Backoff { retry_at_boot_ms } = event.kind else { panic!("{event:?}") };
        waits.push(retry_at_boot_ms.saturating_sub(event.boot_ms));
    }
    assert!((190..=310).contains(&waits[0]) && (790..=1_210).contains(&waits[2]), "{waits:?}");
    assert!(waits[0] < waits[1] && waits[1] < waits[2], "{waits:?}");
    session.order(Message::Start);
    session.wait_started();
}

#[test]
fn what_cannot_be_executed_is_quarantined_with_its_errno_and_a_word_in_the_log() {
    let mut instance = Instance::new(&["no-such-command-anywhere"]);
    let mut session = instance.start();
    assert_eq!(session.wait_exit().0, Exit::ExecFailed { errno: nix::libc::ENOENT });
    session.wait_event("quarantine", |kind| matches!(kind, EventKind::Quarantined { .. }));
    assert!(instance.log(Source::Stderr).contains("no-such-command-anywhere"), "{}", instance.log(Source::Stderr));
    session.order(Message::Stop { timeout_ms: None });
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
}

#[test]
fn a_missing_working_folder_is_no_success_either() {
    let mut instance = Instance::shell("exit 0");
    instance.spec.cwd = b"/no/such/folder".to_vec();
    assert_eq!(instance.start().wait_exit().0, Exit::ExecFailed { errno: nix::libc::ENOENT });
}

#[test]
fn a_build_past_its_limit_is_killed_with_all_its_children() {
    let mut instance = Instance::shell("sleep 600 & echo $!; trap '' TERM; wait; sleep 600");
    instance.spec.restart = RestartPolicy::Never;
    instance.spec.run_limit_ms = 300;
    let mut session = instance.start();
    assert_eq!(session.wait_exit().0, Exit::TimeLimit);
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    let child = instance.log(Source::Stdout).trim().parse().unwrap();
    assert!(!is_alive(child));
}

#[test]
fn a_listener_is_handed_over_and_survives_restarts() {
    let script = "import os, socket\n\
        assert os.environ['LISTEN_PID'] == str(os.getpid())\n\
        assert os.environ['LISTEN_FDS'] == '1' and os.environ['LISTEN_FDNAMES'] == 'web'\n\
        s = socket.socket(fileno=3)\n\
        assert sorted(map(int, os.listdir('/proc/self/fd')))[:4] == [0, 1, 2, 3]\n\
        c, _ = s.accept()\n\
        c.sendall(str(os.getpid()).encode())\n";
    let mut instance = Instance::python(script);
    instance.spec.stable_after_ms = 0;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reserve = TcpListener::bind("127.0.0.1:0").unwrap();
    instance.hold("reserve.port", far_from_three(OwnedFd::from(reserve)));
    instance.hold("listen.web", far_from_three(OwnedFd::from(listener)));
    instance.spawn_shim();
    let mut pids = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut pid = String::new();
        std::io::Read::read_to_string(&mut stream, &mut pid).unwrap();
        pids.push(pid.parse::<u32>().unwrap_or_else(|_| panic!("{pid:?}: {}", instance.log(Source::Stderr))));
    }
    pids.dedup();
    assert_eq!(pids.len(), 3, "each connection was served by another incarnation");
    let (names, fds) = instance.connect(1).ask_held();
    assert_eq!((names, fds.len()), (vec!["reserve.port".to_owned(), "listen.web".to_owned()], 2));
}

/// The harness places descriptors from 3 on, so they must not stand there.
#[expect(unsafe_code, reason = "fcntl of nix gives a raw descriptor")]
fn far_from_three(fd: OwnedFd) -> OwnedFd {
    let far = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(100)).unwrap();
    // SAFETY: the kernel just made this descriptor for us.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(far) }
}

#[test]
fn the_environment_is_the_specs_and_nothing_else() {
    let mut instance = Instance::new(&["env"]);
    instance.spec.restart = RestartPolicy::Never;
    instance.start().wait_exit();
    let mut names: Vec<String> =
        instance.log(Source::Stdout).lines().map(|line| line.split('=').next().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["AGENTD_INSTANCE", "PATH", "PYTHONUNBUFFERED"]);
}

#[test]
fn signals_and_umask_of_the_program_are_the_defaults() {
    let mut instance = Instance::shell("umask; grep -E '^Sig(Blk|Ign)' /proc/self/status; ulimit -c");
    instance.spec.restart = RestartPolicy::Never;
    instance.start().wait_exit();
    let zero = "0".repeat(16);
    assert_eq!(instance.log(Source::Stdout), format!("0022\nSigBlk:\t{zero}\nSigIgn:\t{zero}\n0\n"));
}

#[test]
fn a_second_shim_leaves_the_first_alone() {
    let mut instance = Instance::shell("exec sleep 600");
    instance.start();
    let up = instance.wait_up();
    let second =
        std::process::Command::new(env!("CARGO_BIN_EXE_agentd-shim")).arg("run").arg(instance.dir()).output().unwrap();
    assert!(second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another shim"), "{second:?}");
    assert_eq!(instance.wait_up(), up);
    wait_for("the first shim", || if is_alive(instance.shim_pid()) { Ok(()) } else { Err("dead".into()) });
}

#[test]
fn nothing_runs_that_no_record_tells_of() {
    let mut instance = Instance::shell("echo ran; exec sleep 600");
    // No file can be renamed over a folder: the state cannot be written.
    let in_the_way = instance.dir().join("state");
    std::fs::create_dir(&in_the_way).unwrap();
    let mut session = instance.start();
    session.wait_started();
    session.wait_event("the next try", |kind| *kind == EventKind::Started);
    assert_eq!(instance.log(Source::Stdout), "", "the gate stayed shut");
    std::fs::remove_dir(&in_the_way).unwrap();
    instance.wait_log("ran");
    let state = instance.wait_phase("the program to be up", |phase| matches!(phase, Phase::Up { .. }));
    assert_eq!((state.unstable_exits, state.last_exit), (0, None), "what never ran is no crash");
    assert_eq!(instance.log(Source::Stdout), "ran\n");
}

#[test]
fn a_start_waits_as_long_as_the_keeper_says_and_never_for_a_hung_one() {
    let mut instance = Instance::shell("exec sleep 600");
    let keeper = Listener::bind(&instance.root().join("keeper"), "ctl.sock").unwrap();
    let mut asker = None;
    instance.spawn_shim();
    let granted_at = wait_for("the question", || {
        let Some(connection) = keeper.accept(Blocking::Yes).unwrap() else { return Err("nobody".to_owned()) };
        let Received::Message { envelope, .. } = connection.receive().unwrap() else { panic!("no message") };
        let expected = Message::AskStart { instance: instance.spec.instance.clone() };
        assert_eq!(envelope.message, expected);
        let answer = Envelope { seq: 1, re: envelope.seq, message: Message::GrantStart { wait_ms: 300 } };
        connection.send(&answer, &[]).unwrap();
        asker = Some(connection);
        Ok(agentd_sys::clock::boot_ms())
    });
    let mut session = instance.connect(1);
    let started = session.wait_started();
    assert!((granted_at + 299..granted_at + 5_000).contains(&started.boot_ms), "{granted_at} {started:?}");
    // From now on nobody answers.
    session.order(Message::Restart);
    let (_, ended) = session.wait_exit();
    let again = session.wait_started();
    assert!(again.boot_ms - ended.boot_ms < 5_000);
}

#[test]
fn a_program_becomes_its_user_and_can_gain_nothing() {
    let own = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let (uid, gid) = if own.0 == 0 { (65_534, 65_534) } else { own };
    let mut instance = Instance::shell("grep -E '^(Uid|Gid|CapEff|CapPrm|NoNewPrivs)' /proc/self/status");
    instance.spec.user = Some(User { uid, gid });
    instance.spec.restart = RestartPolicy::Never;
    assert_eq!(instance.start().wait_exit().0, Exit::Code(0));
    let zero = "0".repeat(16);
    let expected = format!(
        "Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\n\
         CapPrm:\t{zero}\nCapEff:\t{zero}\nNoNewPrivs:\t1\n"
    );
    assert_eq!(instance.log(Source::Stdout), expected);
}
