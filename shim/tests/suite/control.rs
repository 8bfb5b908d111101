//! The control socket: events, epochs, refusals.

use agentd_protocol::shim::event::EventKind;
use agentd_protocol::shim::state::Phase;
use agentd_protocol::shim::wire::{Message, Refusal};
use agentd_sys::seqpacket::{Blocking, Connection};

use crate::harness::{Instance, wait_for};

fn refused(message: &Message, expected: Refusal) -> bool {
    matches!(message, Message::Refused { reason, .. } if *reason == expected)
}

#[test]
fn a_manager_that_was_away_gets_every_event_it_lacks_and_no_other() {
    let mut instance = Instance::shell("exec sleep 600");
    let mut session = instance.start();
    for _ in 0..5 {
        session.order(Message::Restart);
        session.wait_started();
        instance.wait_up();
    }
    drop(session);
    instance.kill_shim();
    let mut away = instance.start();
    away.order(Message::Stop { timeout_ms: None });
    instance.reap_as_keeper(away.state.phase.program().unwrap());
    away.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    let numbers: Vec<u64> = away.events.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=away.events.last().unwrap().seq).collect::<Vec<_>>());
    let mut knows_some = instance.try_connect(1, 4).ok().unwrap();
    knows_some.wait_event("stopped", |kind| *kind == EventKind::Stopped);
    assert_eq!(knows_some.events.first().unwrap().seq, 5);
    assert_eq!(knows_some.events, away.events[4..]);
}

#[test]
fn an_old_manager_is_shut_out_by_a_newer_one() {
    let mut instance = Instance::shell("exec sleep 600");
    let mut old = instance.start();
    instance.wait_up();
    let new = instance.connect(2);
    assert!(refused(&old.ask(Message::Stop { timeout_ms: None }), Refusal::OldEpoch));
    let shut_out = instance.try_connect(1, 0).err().unwrap();
    assert!(refused(&shut_out, Refusal::OldEpoch));
    instance.kill_shim();
    instance.spawn_shim();
    assert!(refused(&instance.try_connect(1, 0).err().unwrap(), Refusal::OldEpoch), "remembered across shims");
    drop(new);
    let mut new = instance.connect(2);
    new.order(Message::Kill);
    new.wait_event("stopped", |kind| *kind == EventKind::Stopped);
}

#[test]
fn a_manager_of_another_protocol_may_still_stop_the_instance() {
    let mut instance = Instance::shell("exec sleep 600");
    instance.start();
    instance.wait_up();
    let mut future = instance.connect(1);
    let hello = Message::Hello { version_min: 200, version_max: 201, epoch: 9, events_after: 0 };
    let answer = future.ask(hello);
    assert!(refused(&answer, Refusal::Unsupported), "{answer:?}");
    assert!(refused(&future.ask(Message::Restart), Refusal::Unsupported));
    future.order(Message::Stop { timeout_ms: None });
    instance.wait_phase("the stop", |phase| *phase == Phase::Down);
    future.order(Message::Leave);
    assert!(instance.shim_status().success());
}

#[test]
fn what_does_not_fit_is_refused_and_harms_nothing() {
    let mut instance = Instance::shell("exec sleep 600");
    let mut session = instance.start();
    instance.wait_up();
    assert!(refused(&session.ask(Message::Leave), Refusal::Busy));
    assert!(refused(&session.ask(Message::List), Refusal::Unsupported));
    assert!(refused(&session.ask(Message::MarkReady { incarnation: 9 }), Refusal::Busy));
    session.order(Message::MarkReady { incarnation: 1 });
    instance.wait_phase("ready", |phase| matches!(phase, Phase::Up { ready: true, .. }));
    let stranger = Connection::connect(&instance.dir(), "ctl.sock", Blocking::Yes).unwrap();
    let sent = nix::sys::socket::send(
        std::os::fd::AsRawFd::as_raw_fd(&stranger),
        b"GET / HTTP/1.1\r\n\r\n",
        nix::sys::socket::MsgFlags::empty(),
    );
    assert_eq!(sent, Ok(18));
    session.order(Message::Start);
}

#[test]
fn crowds_and_idlers_do_not_stop_the_shim() {
    let mut instance = Instance::shell("exec sleep 600");
    instance.spawn_shim();
    instance.wait_up();
    let idlers: Vec<_> = (0..20).map(|_| Connection::connect(&instance.dir(), "ctl.sock", Blocking::Yes)).collect();
    drop(idlers);
    let mut session = wait_for("a place", || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| instance.connect(1))).map_err(|_| "full".to_owned())
    });
    session.order(Message::Start);
}

#[test]
fn a_crash_loop_longer_than_a_socket_holds_is_delivered_whole() {
    let mut instance = Instance::shell("exec sleep 600");
    let mut session = instance.start();
    instance.wait_up();
    // Nothing is read meanwhile: events pile up in the socket, then in the file.
    let mut writer = instance.connect(1);
    for _ in 0..150 {
        writer.order(Message::Stop { timeout_ms: None });
        writer.wait_event("stopped", |kind| *kind == EventKind::Stopped);
        writer.order(Message::Start);
        writer.wait_started();
    }
    let last = writer.events.last().unwrap().seq;
    loop {
        let event = session.wait_event("the newest event", |_| true);
        if event.seq == last {
            break;
        }
    }
    let numbers: Vec<u64> = session.events.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
}
