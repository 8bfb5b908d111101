//! A killed shim and the next one: the program never notices, nothing is lost, nothing runs twice.

use std::time::Duration;

use agentd_protocol::shim::event::EventKind;
use agentd_protocol::shim::log::Source;
use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::{Exit, Phase};
use agentd_protocol::shim::wire::Message;

use crate::harness::{Instance, Kernel, is_alive, wait_for};

/// SIGKILLs of the shim while the program writes.
const KILLS: u64 = 50;
/// Lines on standard output; every third also on standard error.
const LINES: usize = 20_000;

#[test]
fn a_running_program_is_adopted_and_still_obeys() {
    let mut instance = Instance::shell("exec sleep 600");
    instance.start();
    let program = instance.wait_up();
    instance.kill_shim();
    let mut session = instance.start();
    assert_eq!(session.state.phase.program(), Some(&program));
    session.wait_event("adoption", |kind| *kind == EventKind::Adopted);
    assert!(is_alive(program.pid));
    session.order(Message::Stop { timeout_ms: None });
    instance.reap_as_keeper(&program);
    assert_eq!(session.wait_exit().0, Exit::Signal { number: 15, core: false });
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
}

/// Ends when the file `end` appears, with status 7.
fn ends_on_request() -> Instance {
    let mut instance = Instance::shell("while [ ! -e end ]; do sleep 0.01; done; echo last words; exit 7");
    instance.spec.restart = RestartPolicy::Never;
    instance
}

fn status_is_learned_while_watching(kernel: Kernel) {
    let mut instance = ends_on_request();
    instance.kernel = kernel;
    instance.start();
    let program = instance.wait_up();
    instance.kill_shim();
    let mut session = instance.start();
    std::fs::write(instance.root().join("end"), "").unwrap();
    instance.reap_as_keeper(&program);
    assert_eq!(session.wait_exit().0, Exit::Code(7));
    instance.wait_log("last words");
}

#[test]
fn the_status_of_an_adopted_program_is_learned() {
    status_is_learned_while_watching(Kernel::Real);
}

#[test]
fn the_status_of_an_adopted_program_is_learned_on_an_old_kernel() {
    status_is_learned_while_watching(Kernel::Old);
}

#[test]
fn the_status_is_learned_from_the_keeper_when_nobody_watched() {
    for kernel in [Kernel::Real, Kernel::Old] {
        let mut instance = ends_on_request();
        instance.kernel = kernel;
        instance.start();
        let program = instance.wait_up();
        instance.kill_shim();
        std::fs::write(instance.root().join("end"), "").unwrap();
        instance.reap_as_keeper(&program);
        assert_eq!(instance.start().wait_exit().0, Exit::Code(7), "{kernel:?}");
        instance.wait_log("last words");
    }
}

#[test]
fn what_nobody_can_know_is_unknown_and_not_a_success() {
    let mut instance = ends_on_request();
    instance.start();
    let program = instance.wait_up();
    instance.kill_shim();
    std::fs::write(instance.root().join("end"), "").unwrap();
    instance.reap_as_keeper(&program);
    std::fs::remove_file(instance.root().join("keeper/exits")).unwrap();
    assert_eq!(instance.start().wait_exit().0, Exit::Unknown);
}

#[test]
fn another_boot_means_a_new_start() {
    let mut instance = Instance::shell("exec sleep 600");
    instance.start();
    let program = instance.wait_up();
    instance.kill_shim();
    agentd_sys::process::find(&program).unwrap().unwrap().signal(9).unwrap();
    instance.reap_as_keeper(&program);
    let mut state = instance.state();
    let Phase::Up { program: named, .. } = &mut state.phase else { panic!("{state:?}") };
    named.boot_id = "another".into();
    std::fs::write(instance.dir().join("state"), state.encode()).unwrap();
    let mut session = instance.start();
    assert_eq!(session.wait_exit().0, Exit::Unknown);
    assert_eq!(session.wait_started().incarnation, 2);
}

#[test]
fn a_lost_state_never_leads_to_two_copies() {
    let mut instance = Instance::shell("exec sleep 600");
    instance.start();
    let program = instance.wait_up();
    instance.kill_shim();
    std::fs::write(instance.dir().join("state"), b"torn").unwrap();
    let mut session = instance.start();
    session.wait_started();
    assert_eq!(session.wait_started().incarnation, 2);
    assert!(!is_alive(program.pid));
}

#[test]
fn a_stop_under_way_is_carried_on_by_the_next_shim() {
    let mut instance = Instance::shell("trap '' TERM; echo ready; while :; do sleep 1; done");
    let mut session = instance.start();
    instance.wait_log("ready");
    session.order(Message::Stop { timeout_ms: Some(500) });
    instance.kill_shim();
    let mut session = instance.start();
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    assert_eq!(instance.state().phase, Phase::Down);
}

#[test]
fn a_start_cut_short_at_any_moment_never_leads_to_two_copies() {
    let mut instance = Instance::shell("echo $$ >> runs; exec sleep 600");
    for kill in 0..KILLS {
        instance.spawn_shim();
        // Not for luck: the moments of the kills are spread over the shim's first steps.
        std::thread::sleep(Duration::from_micros(kill * 7_919 % 12_000)); // poll: spreads the kills over the first steps
        instance.kill_shim();
    }
    instance.spawn_shim();
    let program = instance.wait_up();
    let runs = wait_for("the program's note", || {
        std::fs::read_to_string(instance.root().join("runs")).map_err(|error| error.to_string())
    });
    assert_eq!(runs, format!("{}\n", program.pid));
    assert_eq!(instance.state().last_exit, None);
}

#[test]
fn no_line_is_lost_or_doubled_however_often_the_shim_is_killed() {
    let script = format!(
        "import os, time\n\
         for n in range({LINES}):\n\
         \x20   os.write(1, b'out %d\\n' % n)\n\
         \x20   if n % 3 == 0: os.write(2, b'err %d\\n' % n)\n\
         \x20   if n % 8 == 0: time.sleep(0.001)\n\
         os._exit(7)"
    );
    let mut instance = Instance::python(&script);
    instance.spec.restart = RestartPolicy::Never;
    instance.spec.log_segment_bytes = 50_000;
    instance.spec.log_segments_max = 1_000;
    for kill in 0..KILLS {
        instance.spawn_shim();
        // Not for luck: the moments of the kills are spread over the shim's life.
        std::thread::sleep(Duration::from_micros(kill * 7_919 % 40_000)); // poll: spreads the kills over a life
        instance.kill_shim();
    }
    let mut session = instance.start();
    assert_eq!(session.wait_exit().0, Exit::Code(7));
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    let expected =
        |word: &str, step: usize| -> Vec<String> { (0..LINES).step_by(step).map(|n| format!("{word} {n}")).collect() };
    let lines = |source| instance.log(source).lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(lines(Source::Stdout) == expected("out", 1), "standard output differs");
    assert!(lines(Source::Stderr) == expected("err", 3), "standard error differs");
    let recorded = instance.recorded();
    assert!(recorded.iter().zip(1..).all(|(event, seq)| event.seq == seq), "{recorded:?}");
    let kinds = |is: fn(&EventKind) -> bool| recorded.iter().filter(|event| is(&event.kind)).count();
    assert_eq!(kinds(|kind| matches!(kind, EventKind::Exited { .. })), 1);
    assert!(kinds(|kind| *kind == EventKind::Adopted) > 0, "the kills hit a running program");
    // A start that never got through its gate is recorded too; all others would show as doubled lines.
    assert!(kinds(|kind| *kind == EventKind::Started) >= 1);
}
