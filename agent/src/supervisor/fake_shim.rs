//! A shim that says what a test tells it to, and the task of an instance that talks to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::api::ProbeOutcome;
use agentd_protocol::ids::{Epoch, Incarnation, InstanceId};
use agentd_protocol::shim::CONTROL_SOCKET;
use agentd_protocol::shim::event::{Event, EventKind};
use agentd_protocol::shim::state::{Exit, Identity, Phase, State};
use agentd_protocol::shim::wire::{Envelope, Message, Refusal};
use agentd_sys::seqpacket::{Blocking, Connection, Listener, Received};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::health::{Allowances, Prober};
use super::launch::{Gate, Label, ProbePolicy, Record};
use super::layout::Layout;
use super::room::{Room, Spawn, Views};
use super::task::{InstanceTask, Order, Reply, Request};
use super::tracked::{Now, Tracked};
use super::{Error, InstanceView, Readiness};

const CAP: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

struct Stage {
    _root: tempfile::TempDir,
    dir: PathBuf,
    id: InstanceId,
    cancel: CancellationToken,
    requests: mpsc::Sender<Request>,
    nudge: Arc<Notify>,
    views: watch::Receiver<Views>,
    events: mpsc::Receiver<(InstanceId, Event)>,
    spawns: mpsc::Receiver<Spawn>,
    task: tokio::task::JoinHandle<()>,
}

/// The task of one instance, its folder made; no shim yet.
fn stage(gate: Gate, port: Option<u16>, probe: ProbePolicy) -> Stage {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::prepare(&root.path().join("run"), &root.path().join("log"), &root.path().join("tmp")).unwrap();
    let id = InstanceId::new("abcdef012345").unwrap();
    let dir = layout.dir(&id);
    std::fs::create_dir(&dir).unwrap();
    let (events_in, events) = mpsc::channel(64);
    let (spawns_in, spawns) = mpsc::channel(4);
    let (views_in, views) = watch::channel(Views::default());
    let room = Arc::new(Room {
        layout,
        epoch: Epoch(7),
        prober: Prober::new().unwrap(),
        allowances: Allowances::default(),
        reaching: Semaphore::new(1),
        views: views_in,
        events: events_in,
        spawns: spawns_in,
    });
    let record = Record {
        id: id.clone(),
        service: "api".into(),
        label: Label::Edge,
        port,
        gate,
        probe,
        stop_timeout: CAP,
        log_dir: root.path().join("log/api/abcdef012345"),
        uid: nix::unistd::geteuid().as_raw(),
    };
    let (requests, requests_taken) = mpsc::channel(4);
    let nudge = Arc::new(Notify::new());
    let task = InstanceTask {
        tracked: Tracked::new(record, 0, Now::read()),
        dir: dir.clone(),
        room,
        events_kept: 0,
        requests: requests_taken,
        nudge: Arc::clone(&nudge),
        welcomed: None,
        _lease: None,
    };
    let cancel = CancellationToken::new();
    let task = crate::lifecycle::spawn("test-instance", task.run(cancel.clone()));
    Stage { _root: root, dir, id, cancel, requests, nudge, views, events, spawns, task }
}

impl Stage {
    /// Waits until the view is as wanted; fails with the last one seen.
    async fn until(&mut self, wanted: impl Fn(&InstanceView) -> bool) -> InstanceView {
        let mut last = None;
        let found = timeout(CAP, async {
            loop {
                last = self.views.borrow_and_update().get(&self.id).cloned();
                if let Some(view) = last.as_ref().filter(|view| wanted(view)) {
                    return view.clone();
                }
                self.views.changed().await.unwrap();
            }
        });
        found.await.unwrap_or_else(|_| panic!("not seen; last view: {last:#?}"))
    }

    async fn order(&self, order: Order) -> oneshot::Receiver<Result<Reply, Error>> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { order, reply }).await.unwrap();
        answer
    }
}

/// The other end of a conversation.
struct FakeShim {
    _listener: Listener,
    connection: Connection,
    events: u64,
}

impl FakeShim {
    async fn accept(listener: Listener) -> Self {
        let accepted = timeout(CAP, async {
            loop {
                match listener.accept(Blocking::No).unwrap() {
                    Some(connection) => return connection,
                    None => sleep(POLL).await,
                }
            }
        });
        let connection = accepted.await.expect("the task connects");
        Self { _listener: listener, connection, events: 0 }
    }

    /// Listens, reads Hello, answers with this state. Returns `events_after`.
    async fn welcome(dir: &Path, state: State) -> (Self, u64) {
        let listener = Listener::bind(dir, CONTROL_SOCKET).unwrap();
        let mut shim = Self::accept(listener).await;
        let hello = shim.next().await;
        let Message::Hello { epoch: 7, events_after, .. } = hello.message else { panic!("{hello:?}") };
        shim.events = state.event_seq;
        let welcome = Message::Welcome { version: 1, shim_pid: 77, shim_build: "fake".into(), state, held: Vec::new() };
        shim.say(hello.seq, welcome);
        (shim, events_after)
    }

    async fn next(&self) -> Envelope {
        let received = timeout(CAP, async {
            loop {
                match self.connection.receive() {
                    Ok(Received::Message { envelope, .. }) => return envelope,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => sleep(POLL).await,
                    other => panic!("{other:?}"),
                }
            }
        });
        received.await.expect("the task says something")
    }

    fn say(&self, re: u32, message: Message) {
        self.connection.send(&Envelope { seq: 1, re, message }, &[]).unwrap();
    }

    /// Tells an event and takes the Ack.
    async fn event(&mut self, incarnation: u32, kind: EventKind) {
        self.events += 1;
        let event = Event {
            seq: self.events,
            real_ns: agentd_sys::clock::real_ns(),
            boot_ms: 1,
            incarnation,
            pid: std::process::id(),
            kind,
        };
        self.say(0, Message::Event(event));
        assert_eq!(self.next().await.message, Message::Ack { event_seq: self.events });
    }
}

fn up(incarnation: u32, ready: bool, event_seq: u64) -> State {
    let program = Identity { pid: std::process::id(), ..Identity::default() };
    let phase = Phase::Up { program, since_real_ns: agentd_sys::clock::real_ns(), ready };
    State { phase, incarnation, event_seq, ..State::fresh() }
}

fn quick() -> ProbePolicy {
    ProbePolicy { interval: Duration::from_millis(20), ..ProbePolicy::default() }
}

#[tokio::test]
async fn a_gate_is_passed_and_a_new_incarnation_starts_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut stage = stage(Gate::Tcp, Some(port), quick());
    let (mut shim, after) = FakeShim::welcome(&stage.dir, up(1, false, 4)).await;
    assert_eq!(after, 0);
    assert_eq!(shim.next().await.message, Message::MarkReady { incarnation: 1 });
    let view = stage.until(InstanceView::is_ready).await;
    assert_eq!((view.shim_pid, view.restarts, view.last_event_seq), (Some(77), 0, 4));
    assert!(matches!(view.phase, Phase::Up { ready: true, .. }));

    shim.event(1, EventKind::Exited { exit: Exit::Code(3), uptime_ms: 9 }).await;
    let view = stage.until(|view| !view.is_ready()).await;
    assert_eq!(view.last_exit.unwrap().exit, Exit::Code(3));
    shim.event(2, EventKind::Started).await;
    assert_eq!(shim.next().await.message, Message::MarkReady { incarnation: 2 });
    let view = stage.until(InstanceView::is_ready).await;
    assert_eq!((view.incarnation, view.restarts), (Incarnation(2), 1));
    let (id, event) = stage.events.recv().await.unwrap();
    assert_eq!((id, event.seq), (stage.id.clone(), 5));
}

#[tokio::test]
async fn a_failing_instance_is_told_and_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut stage = stage(Gate::Tcp, Some(address.port()), quick());
    let (_shim, _) = FakeShim::welcome(&stage.dir, up(1, true, 1)).await;
    stage.until(|view| view.is_ready() && !view.probes.is_empty()).await;
    drop(listener);
    stage.nudge.notify_one();
    let view = stage.until(|view| matches!(view.readiness, Readiness::Failing { failures: 3.., .. })).await;
    assert_eq!(view.probes.back().unwrap().outcome, ProbeOutcome::Refused);
    let _listener = TcpListener::bind(address).await.unwrap();
    let view = stage.until(InstanceView::is_ready).await;
    assert!(view.probes.len() <= 10);
}

#[tokio::test]
async fn a_dead_shim_is_asked_for_and_its_history_goes_on() {
    let mut stage = stage(Gate::None, None, ProbePolicy::default());
    let spawn = timeout(CAP, stage.spawns.recv()).await.unwrap().unwrap();
    assert_eq!(spawn.id, stage.id);
    spawn.done.send(Ok(())).unwrap();
    let (shim, _) = FakeShim::welcome(&stage.dir, up(1, true, 5)).await;
    stage.until(|view| view.shim_pid == Some(77)).await;
    drop(shim);
    let spawn = timeout(CAP, stage.spawns.recv()).await.unwrap().unwrap();
    spawn.done.send(Ok(())).unwrap();
    let (_shim, after) = FakeShim::welcome(&stage.dir, up(1, true, 6)).await;
    assert_eq!(after, 5, "nothing is told twice");
    let view = stage.until(|view| view.last_event_seq == 6).await;
    assert!(view.warnings.is_empty(), "{view:?}");
}

#[tokio::test]
async fn a_silent_shim_is_unsupervised_and_tried_again() {
    let mut stage = stage(Gate::None, None, ProbePolicy::default());
    let listener = Listener::bind(&stage.dir, CONTROL_SOCKET).unwrap();
    let view = stage.until(|view| !view.warnings.is_empty()).await;
    assert_eq!(view.shim_pid, None);
    assert!(view.warnings[0].contains("does not answer"), "{view:?}");
    drop(listener);
    let (_shim, _) = FakeShim::welcome(&stage.dir, up(1, true, 1)).await;
    let view = stage.until(|view| view.shim_pid == Some(77)).await;
    assert!(view.warnings.is_empty(), "{view:?}");
}

#[tokio::test]
async fn orders_are_answered_refused_or_lost() {
    let mut stage = stage(Gate::None, None, ProbePolicy::default());
    let (mut shim, _) = FakeShim::welcome(&stage.dir, up(1, true, 1)).await;
    let stopped = stage.order(Order::Stop { timeout: Some(Duration::from_millis(5)) }).await;
    let stop = shim.next().await;
    assert_eq!(stop.message, Message::Stop { timeout_ms: Some(5) });
    shim.say(stop.seq, Message::Done);
    assert!(matches!(stopped.await.unwrap(), Ok(Reply::Done)));

    let left = stage.order(Order::Leave).await;
    let leave = shim.next().await;
    shim.say(leave.seq, Message::Refused { reason: Refusal::Busy, text: "stopping".into() });
    assert!(matches!(left.await.unwrap(), Err(Error::Refused { reason: Refusal::Busy, .. })));

    shim.event(1, EventKind::Stopped).await;
    stage.until(|view| view.phase == Phase::Down).await;
    let left = stage.order(Order::Leave).await;
    assert_eq!(shim.next().await.message, Message::Leave);
    drop(shim);
    assert!(matches!(left.await.unwrap(), Ok(Reply::Done)), "a shim that ended has left");
    timeout(CAP, &mut stage.task).await.expect("the task ends with its shim").unwrap();
}

#[tokio::test]
async fn restarts_that_were_asked_for_are_not_counted() {
    let mut stage = stage(Gate::None, None, ProbePolicy::default());
    let (mut shim, _) = FakeShim::welcome(&stage.dir, up(1, true, 1)).await;
    let answer = stage.order(Order::Restart).await;
    let restart = shim.next().await;
    assert_eq!(restart.message, Message::Restart);
    shim.say(restart.seq, Message::Done);
    assert!(answer.await.unwrap().is_ok());
    shim.event(2, EventKind::Started).await;
    assert_eq!(stage.until(|view| view.incarnation == Incarnation(2)).await.restarts, 0);
    assert_eq!(std::fs::read_to_string(stage.dir.join("asked")).unwrap(), "1\n");
    stage.cancel.cancel();
    timeout(CAP, &mut stage.task).await.expect("the task ends").unwrap();
}

#[tokio::test]
async fn a_newer_manager_is_respected() {
    let mut stage = stage(Gate::None, None, ProbePolicy::default());
    let shim = FakeShim::accept(Listener::bind(&stage.dir, CONTROL_SOCKET).unwrap()).await;
    let hello = shim.next().await;
    shim.say(hello.seq, Message::Refused { reason: Refusal::OldEpoch, text: String::new() });
    let view = stage.until(|view| !view.warnings.is_empty()).await;
    assert!(view.warnings[0].contains("newer agentd"), "{view:?}");
}
