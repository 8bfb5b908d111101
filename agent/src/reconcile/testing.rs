//! Values for this room's pure tests.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::SystemTime;

use agentd_protocol::ids::{Commit, Incarnation, InstanceId, ReleaseNumber, ServiceName};
use agentd_protocol::shim::state::{Exit, Identity, LastExit, Phase};
use agentd_protocol::stack::{Kind, Restart, Revision, Service, Span, Stop, StopSignal};

use crate::supervisor::{InstanceView, Label, Readiness};

pub(super) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

/// Ids have twelve letters.
pub(super) fn id(letter: char) -> InstanceId {
    InstanceId::new(letter.to_string().repeat(12)).unwrap()
}

pub(super) fn commit(letter: char) -> Commit {
    Commit::new(letter.to_string().repeat(40)).unwrap()
}

pub(super) fn entry(service: &str, commit_of: char) -> Service {
    Service {
        name: name(service),
        kind: Kind::Web,
        repo: "file:///r".into(),
        source: Revision::Commit(commit(commit_of)),
        dir: None,
        git_auth: None,
        build: None,
        run: Some("x".into()),
        root: None,
        fallback: None,
        port: None,
        host: None,
        path: Some(format!("/{service}")),
        strip_prefix: false,
        public: true,
        replicas: 1,
        depends_on: Vec::new(),
        env: BTreeMap::new(),
        env_file: None,
        health: None,
        start_deadline: Span::from_secs(60),
        restart: Restart::Always,
        stop: Stop { signal: StopSignal::Term, timeout: Span::from_secs(30) },
        drain: Span::from_secs(30),
    }
}

/// Up and ready in release 1 of `api`, on port 20000.
pub(super) fn ready(letter: char) -> InstanceView {
    InstanceView {
        id: id(letter),
        service: "api".into(),
        label: Label::Instance { release: ReleaseNumber(1) },
        phase: Phase::Up { program: Identity::default(), since_real_ns: 1, ready: true },
        incarnation: Incarnation(1),
        shim_pid: Some(1),
        port: Some(20_000),
        readiness: Readiness::Ready { since: SystemTime::UNIX_EPOCH },
        last_exit: None,
        restarts: 0,
        probes: VecDeque::new(),
        warnings: Vec::new(),
        last_event_seq: 1,
        log_dir: PathBuf::new(),
    }
}

pub(super) fn failing(letter: char) -> InstanceView {
    InstanceView { readiness: Readiness::Failing { since: SystemTime::UNIX_EPOCH, failures: 3 }, ..ready(letter) }
}

pub(super) fn not_ready(letter: char) -> InstanceView {
    InstanceView { readiness: Readiness::NotReady { since: SystemTime::UNIX_EPOCH }, ..ready(letter) }
}

pub(super) fn ended(exit: Exit) -> Option<LastExit> {
    Some(LastExit { exit, at_real_ns: 1, incarnation: 1, uptime_ms: 1 })
}

pub(super) fn views(all: impl IntoIterator<Item = InstanceView>) -> BTreeMap<InstanceId, InstanceView> {
    all.into_iter().map(|view| (view.id.clone(), view)).collect()
}
