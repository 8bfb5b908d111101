//! Keeper and shim together: they are killed in every order, and the program never notices.

use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::{Exit, Phase};
use agentd_protocol::shim::wire::{Envelope, Message};
use agentd_sys::process;
use agentd_sys::seqpacket::{Blocking, Connection};
use nix::sys::signal::Signal;

use crate::host::{Host, Kernel, answer, inode, pipe, send, wait_for};

/// Counts on standard output without end.
const COUNTER: &str = r#"echo "fds $LISTEN_FDS"; i=0; while :; do i=$((i+1)); echo "n $i"; sleep 0.003; done"#;

#[derive(Debug, Clone, Copy)]
enum Death {
    Shim,
    Keeper,
    /// Nobody is left to start anything until a manager starts a keeper and asks again.
    KeeperThenShim,
    /// The keeper dies while it starts the next shim.
    ShimThenKeeper,
}

const DEATHS: [Death; 4] = [Death::Shim, Death::Keeper, Death::KeeperThenShim, Death::ShimThenKeeper];

fn last_number(host: &Host) -> u64 {
    let log = host.log();
    log.lines().rev().find_map(|line| line.strip_prefix("n ")?.parse().ok()).unwrap_or_default()
}

fn every_death_in_turn(kernel: Kernel) {
    let mut host = Host::running(kernel, RestartPolicy::Always, COUNTER);
    let (listener, _other) = pipe();
    assert_eq!(host.spawn(&["listen.web"], &[&listener]), Message::Done);
    let program = host.program(None);
    for death in DEATHS.into_iter().cycle().take(3 * DEATHS.len()) {
        let shim = host.shim(0);
        let logged = last_number(&host);
        match death {
            Death::Shim => send(shim, Signal::SIGKILL),
            Death::Keeper => {
                host.kill_and_replace_keeper();
            }
            Death::KeeperThenShim => {
                host.stop_keeper(Signal::SIGKILL);
                send(shim, Signal::SIGKILL);
                host.start_keeper();
            }
            Death::ShimThenKeeper => {
                send(shim, Signal::SIGKILL);
                host.kill_and_replace_keeper();
            }
        }
        // As the manager does after every change of the keeper.
        assert_eq!(host.spawn(&["listen.web"], &[&listener]), Message::Done, "{death:?}");
        let before = if matches!(death, Death::Keeper) { 0 } else { shim };
        let next = host.shim(before);
        wait_for("shim in the list", || host.listed().iter().any(|(_, pid)| *pid == next).then_some(()));
        assert_eq!(host.program(None), program, "{death:?}");
        wait_for("more output", || (last_number(&host) > logged).then_some(()));
    }
    send(program.pid, Signal::SIGKILL);
    let second = host.program(Some(&program));
    let last = host.state().unwrap().last_exit.unwrap();
    assert_eq!((last.incarnation, last.exit), (1, Exit::Signal { number: 9, core: false }));
    assert_eq!(host.stop_keeper(Signal::SIGTERM).code(), Some(0));
    assert!(process::stat(second.pid).is_none(), "the host went down with its programs");
    assert_eq!(host.state().unwrap().phase, Phase::Down);

    let log = host.log();
    let runs: Vec<&str> = log.split("fds ").skip(1).collect();
    assert_eq!(runs.len(), 2, "one program at a time, two in all");
    for run in runs {
        let (fds, lines) = run.split_once('\n').unwrap();
        assert_eq!(fds, "1", "the listener reaches every start");
        for (expected, line) in (1..).zip(lines.lines()) {
            assert_eq!(line, format!("n {expected}"), "no line lost, none twice");
        }
    }
}

#[test]
fn every_death_in_turn_leaves_the_program_alone() {
    every_death_in_turn(Kernel::Own);
}

#[test]
fn every_death_in_turn_leaves_the_program_alone_on_an_old_kernel() {
    every_death_in_turn(Kernel::Old);
}

/// The program's parent was a shim that is dead: the keeper reaps it and its record tells the next shim.
fn exit_behind_a_dead_shim(kernel: Kernel) {
    let script = "while [ ! -e end ]; do sleep 0.01; done; echo last words; exit 7";
    let host = Host::running(kernel, RestartPolicy::Never, script);
    assert_eq!(host.spawn(&[], &[]), Message::Done);
    host.program(None);
    let shim = host.shim(0);
    send(shim, Signal::SIGKILL);
    std::fs::write(host.root.path().join("end"), b"").unwrap();
    let exit = wait_for("recorded exit", || host.state()?.last_exit);
    assert_eq!(exit.exit, Exit::Code(7));
    wait_for("last words", || host.log().contains("last words").then_some(()));
}

#[test]
fn an_exit_behind_a_dead_shim_is_known() {
    exit_behind_a_dead_shim(Kernel::Own);
}

#[test]
fn an_exit_behind_a_dead_shim_is_known_on_an_old_kernel() {
    exit_behind_a_dead_shim(Kernel::Old);
}

#[test]
fn a_new_keeper_gets_the_descriptors_back_from_the_shim() {
    let mut host = Host::running(Kernel::Own, RestartPolicy::Always, "exec sleep 600");
    let (listener, reserved) = pipe();
    assert_eq!(host.spawn(&["listen.web", "reserve.port"], &[&listener, &reserved]), Message::Done);
    host.program(None);
    let shim = host.shim(0);
    greet_as_manager(&host, 5);
    host.kill_and_replace_keeper();
    wait_for("held descriptors", || {
        let (names, inodes) = host.held();
        (names == ["listen.web", "reserve.port"] && inodes == [inode(&listener), inode(&reserved)]).then_some(())
    });
    assert_eq!(host.shim(0), shim);
}

/// From now on the shim refuses whoever comes with a lower epoch.
fn greet_as_manager(host: &Host, epoch: u64) {
    let connection = Connection::connect(&host.dir(), "ctl.sock", Blocking::Yes).unwrap();
    let message = Message::Hello { version_min: 1, version_max: 1, epoch, events_after: 0 };
    connection.send(&Envelope { seq: 5, re: 0, message }, &[]).unwrap();
    assert!(matches!(answer(&connection).0, Message::Welcome { .. }));
}
