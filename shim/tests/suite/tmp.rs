//! A /tmp of its own is given where the host allows it, and is never the reason for a program not to run. That it is
//! private is held by the suite of root's, where the home lies elsewhere.

use agentd_protocol::shim::event::EventKind;
use agentd_protocol::shim::log::Source;
use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::Exit;

use crate::harness::Instance;

#[test]
fn a_folder_that_is_not_there_keeps_no_program_from_running() {
    let mut instance = Instance::shell("echo runs; exit 3");
    instance.spec.restart = RestartPolicy::Never;
    instance.spec.tmp_dir = Some(instance.root().join("absent").into_os_string().into_encoded_bytes());
    let mut session = instance.start();
    assert_eq!(session.wait_exit().0, Exit::Code(3));
    session.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    assert_eq!(instance.log(Source::Stdout), "runs\n");
    assert!(instance.log(Source::Stderr).contains("shares /tmp"), "{}", instance.log(Source::Stderr));
}
