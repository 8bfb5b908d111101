//! Small stacks and a store in a temporary folder, for this room's tests and sync's.

use agentd_protocol::api::{DeployPhase, Problem};
use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::statement::{ROOT_TYPE, Role, Root, RootKey, Thresholds, TrustMode};
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::TrustRecord;
use agentd_protocol::ids::{Commit, ServiceName};
use agentd_protocol::stack::{
    Kind, Proxy, Restart, Revision, SCHEMA, Service, Span, Stack, StackSection, Stop, StopSignal,
};

use super::{Digest, Joining, Store};

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

pub(crate) fn commit(digit: char) -> Commit {
    Commit::new(digit.to_string().repeat(40)).unwrap()
}

pub(crate) fn service(text: &str) -> Service {
    Service {
        name: name(text),
        kind: Kind::Web,
        repo: format!("https://git.example.com/{text}"),
        source: Revision::Commit(commit('1')),
        dir: None,
        git_auth: None,
        build: None,
        run: Some("./serve".into()),
        root: None,
        fallback: None,
        port: None,
        host: None,
        path: Some(format!("/{text}")),
        strip_prefix: false,
        public: true,
        replicas: 1,
        depends_on: Vec::new(),
        env: Default::default(),
        env_file: None,
        health: None,
        start_deadline: Span::from_secs(60),
        restart: Restart::Always,
        stop: Stop { signal: StopSignal::Term, timeout: Span::from_secs(30) },
        drain: Span::from_secs(30),
    }
}

pub(crate) fn stack(services: Vec<Service>) -> Stack {
    Stack {
        schema: SCHEMA,
        stack: StackSection { name: name("shop"), poll_interval: Span::from_secs(15) },
        proxy: Proxy { port: 8080, health_path: None },
        security: None,
        service: services,
    }
}

pub(crate) fn problem() -> Problem {
    Problem {
        service: Some(name("api")),
        phase: DeployPhase::Build,
        cause: "build exited with 2".into(),
        commit: Some(commit('1')),
        release: None,
        probes: Vec::new(),
        log_tail: vec!["no rule to make target".into()],
        why: Default::default(),
        since_unix_ms: 1,
    }
}

/// The folder goes when the first of the pair is dropped.
pub(crate) fn open_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("agentd.db")).unwrap();
    (dir, store)
}

/// What a host believes that has just joined.
pub(crate) fn trust() -> TrustRecord {
    let (stack, key) = (StackId::of(&[1; 16]), SecretKey::from_seed(&[2; 32]));
    let root = Root {
        stack: stack.clone(),
        version: 1,
        epoch: 1,
        mode: TrustMode::Managed,
        expires: Time::from_unix_secs(4_000_000_000),
        keys: [(key.public().id(), RootKey::of(&key.public(), &[Role::Root, Role::Version, Role::Fresh]))].into(),
        threshold: Thresholds { root: 1, version: 1, fresh: 1 },
    };
    let payload = serde_json::to_vec(&root).unwrap();
    let envelope = Envelope::sign(ROOT_TYPE, &payload, &[&key]);
    TrustRecord::begin(&stack, &Digest::of(&payload), &[envelope]).unwrap()
}

pub(crate) async fn joined_store() -> (tempfile::TempDir, Store) {
    let (dir, store) = open_store();
    store.begin_control(Joining { id: "one".to_owned(), trust: trust() }).await.unwrap();
    (dir, store)
}
