//! Stopping: the whole tree, wherever it hides, and never a second copy beside what is left.

use agentd_protocol::shim::event::EventKind;
use agentd_protocol::shim::log::Source;
use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::{Exit, Phase};
use agentd_protocol::shim::wire::Message;

use crate::harness::{Instance, Kernel, is_alive, wait_for};

/// A child, one in a session of its own, and one forked twice, in a session of its own, without our environment.
const HIDING: &str = "import os, time\n\
    def hide(*steps):\n\
    \x20   if os.fork() == 0:\n\
    \x20       for step in steps: step()\n\
    \x20       os.write(1, b'hidden %d\\n' % os.getpid())\n\
    \x20       time.sleep(600)\n\
    def again():\n\
    \x20   if os.fork(): os._exit(0)\n\
    hide()\n\
    hide(os.setsid)\n\
    hide(again, os.setsid, again)\n\
    os.write(1, b'ready\\n')\n";

fn hidden(instance: &Instance, count: usize) -> Vec<u32> {
    wait_for("the hidden processes", || {
        let log = instance.log(Source::Stdout);
        let pids: Vec<u32> = log.lines().filter_map(|line| line.strip_prefix("hidden ")?.parse().ok()).collect();
        if pids.len() == count { Ok(pids) } else { Err(log) }
    })
}

#[test]
fn a_stop_ends_every_process_of_the_tree() {
    let mut instance = Instance::python(&format!("{HIDING}time.sleep(600)"));
    let mut session = instance.start();
    let pids = hidden(&instance, 3);
    session.order(Message::Stop { timeout_ms: Some(5_000) });
    assert_eq!(session.wait_exit().0, Exit::Signal { number: 15, core: false });
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    let state = instance.state();
    assert_eq!((state.phase, state.unstable_exits), (Phase::Down, 0));
    assert_eq!(session.ask(Message::Leave), Message::Done);
    assert!(instance.shim_status().success());
}

#[test]
fn a_tree_of_an_adopted_program_is_found_too() {
    let mut instance = Instance::python(&format!("{HIDING}time.sleep(600)"));
    instance.start();
    let pids = hidden(&instance, 3);
    instance.kill_shim();
    let mut session = instance.start();
    session.order(Message::Kill);
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn who_ignores_the_stop_signal_is_killed_at_the_deadline() {
    let mut instance = Instance::shell("trap '' TERM; echo ready; while :; do sleep 1; done");
    let mut session = instance.start();
    instance.wait_log("ready");
    let asked = agentd_sys::clock::boot_ms();
    session.order(Message::Stop { timeout_ms: Some(300) });
    let (exit, event) = session.wait_exit();
    assert_eq!(exit, Exit::Signal { number: 9, core: false });
    assert!(event.boot_ms - asked >= 300);
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
}

#[test]
fn the_stop_signal_reaches_what_runs_behind_a_wrapper() {
    let program = "import signal, sys\n\
        def bye(*_):\n\
        \x20   print('graceful'); sys.exit(0)\n\
        signal.signal(signal.SIGINT, bye)\n\
        print('ready')\n\
        signal.pause()\n";
    for kernel in [Kernel::Real, Kernel::Old] {
        let mut instance = Instance::shell("python3 program.py; true");
        std::fs::write(instance.root().join("program.py"), program).unwrap();
        instance.kernel = kernel;
        instance.spec.stop_signal = 2;
        let mut session = instance.start();
        instance.wait_log("ready");
        session.order(Message::Stop { timeout_ms: None });
        session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
        instance.wait_log("graceful");
    }
}

#[test]
fn nothing_starts_beside_stragglers() {
    let mut instance = Instance::python(&format!(
        "{HIDING}import signal\nwhile True:\n    if os.path.exists('crash'): os._exit(9)\n    time.sleep(0.01)"
    ));
    let mut session = instance.start();
    let pids = hidden(&instance, 3);
    std::fs::write(instance.root().join("crash"), "").unwrap();
    assert_eq!(session.wait_exit().0, Exit::Code(9));
    let stragglers = session.wait_event("stragglers", |kind| matches!(kind, EventKind::Stragglers { .. }));
    assert_eq!(stragglers.kind, EventKind::Stragglers { count: 3 });
    session.wait_event("backoff", |kind| matches!(kind, EventKind::Backoff { .. }));
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "gone before the next start is even planned");
}

#[test]
fn a_restart_is_one_stop_and_one_start() {
    let mut instance = Instance::shell("exec sleep 600");
    let mut session = instance.start();
    let first = instance.wait_up();
    session.order(Message::Restart);
    session.wait_exit();
    session.wait_event("second start", |kind| *kind == EventKind::Started);
    assert_ne!(instance.wait_up().pid, first.pid);
    assert_eq!(instance.state().unstable_exits, 0);
}

#[test]
fn a_shim_that_is_told_to_end_stops_its_program_first() {
    let mut instance = Instance::shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    instance.start();
    instance.wait_log("ready");
    let program = instance.wait_up();
    let shim = agentd_sys::process::PidFd::open(instance.shim_pid()).unwrap();
    shim.signal(2).unwrap();
    shim.signal(1).unwrap();
    shim.signal(15).unwrap();
    assert!(instance.shim_status().success());
    assert!(!is_alive(program.pid));
    instance.wait_log("bye");
    assert_eq!(instance.state().phase, Phase::Down);
}

#[test]
fn a_policy_of_failure_takes_a_clean_end_for_the_end() {
    let mut instance = Instance::shell("exit 0");
    instance.spec.restart = RestartPolicy::OnFailure;
    let mut session = instance.start();
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    assert_eq!(instance.state().incarnation, 1);
}
