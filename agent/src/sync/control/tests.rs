//! The loop against a server that does as it is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentd_protocol::api::{Agent, ControlLink, ControlStatus, Edge, StackStatus, Status, Verdict, What};
use agentd_protocol::control::problem::Slug;
use agentd_protocol::control::report::GAP_KIND;
use agentd_protocol::ids::Version;
use agentd_protocol::stack::{Revision, Span, Stack};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::fake::{FakeControl, Fault};
use super::*;
use crate::store::testing::{service, stack};
use crate::store::{Joining, NewEvent, Store};

pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// A host with everything but services.
pub(super) struct Bench {
    _dir: TempDir,
    pub(super) fake: FakeControl,
    identity: Arc<Identity>,
    pub(super) store: Store,
    /// What the host says of itself.
    pub(super) shown: Arc<Mutex<Status>>,
    versions: mpsc::Receiver<Version>,
    status: watch::Receiver<Option<ControlStatus>>,
    told: Arc<Mutex<Vec<What>>>,
    forbids: Arc<AtomicBool>,
    cancel: CancellationToken,
}

pub(super) fn small(fake_poll: u64) -> Stack {
    let mut small = stack(vec![service("api")]);
    small.stack.poll_interval = Span::from_secs(fake_poll);
    small
}

async fn enrolled(fake: &FakeControl, dir: &TempDir) -> Result<Identity, JoinError> {
    let joining = fake.joining();
    let key = pending_key(dir.path(), &joining.stack).unwrap();
    let reach = Reach { url: joining.url.clone(), authorities: None, plain_http: false };
    let applicant = Applicant { name: "web-1".into(), labels: Default::default() };
    join(&joining, reach, key, applicant, |_| {}).await
}

impl Bench {
    pub(super) async fn new() -> Self {
        Self::of(FakeControl::start()).await
    }

    pub(super) async fn of(fake: FakeControl) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = enrolled(&fake, &dir).await.unwrap();
        identity.store(dir.path()).unwrap();
        let identity = Arc::new(Identity::load(dir.path()).unwrap().unwrap());
        let (_, versions) = mpsc::channel(1);
        let store = Store::open(&dir.path().join("agentd.db")).unwrap();
        let status = watch::channel(None).1;
        let mut bench = Self {
            _dir: dir,
            fake,
            identity,
            store,
            shown: Arc::new(Mutex::new(host_status())),
            versions,
            status,
            told: Arc::default(),
            forbids: Arc::default(),
            cancel: CancellationToken::new(),
        };
        bench.start().await;
        bench
    }

    /// As a manager does; again as one after a kill -9.
    pub(super) async fn start(&mut self) {
        self.cancel.cancel();
        self.cancel = CancellationToken::new();
        let joining = Joining { id: self.identity.joining.clone(), trust: self.identity.trust().unwrap() };
        let remembered = self.store.begin_control(joining).await.unwrap();
        let latest = self.store.latest_version().await.unwrap();
        let (sender, versions) = mpsc::channel(4);
        let (status, seen) = watch::channel(None);
        let (told, forbids) = (Arc::clone(&self.told), Arc::clone(&self.forbids));
        let (shown, db) = (Arc::clone(&self.shown), self.store.clone());
        Control::start(Setup {
            identity: Arc::clone(&self.identity),
            remembered,
            store: self.store.clone(),
            versions: sender,
            snapshot: Arc::new(move || {
                let (shown, db) = (Arc::clone(&shown), db.clone());
                Box::pin(async move {
                    let mut status = shown.lock().unwrap().clone();
                    status.stack.applied_version = db.last_applied().await.ok()?.map(|applied| applied.version);
                    Some(status)
                })
            }),
            judge: Arc::new(move |_| {
                if forbids.load(Ordering::Relaxed) { Err(vec!["service api: too much".into()]) } else { Ok(()) }
            }),
            mask: Arc::new(|_| {}),
            note: Arc::new(move |what| told.lock().unwrap().push(what)),
            ceiling: latest.map(|latest| latest.stack.stack.poll_interval.0),
            newest: None,
            status,
            cancel: self.cancel.clone(),
        })
        .unwrap();
        (self.versions, self.status) = (versions, seen);
    }

    pub(super) fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().iter().map(|what| what.word().to_owned()).collect()
    }

    pub(super) async fn until(&self, what: &str, mut holds: impl FnMut(&ControlStatus) -> bool) -> ControlStatus {
        let start = Instant::now();
        loop {
            let status = self.status.borrow().clone().unwrap();
            if holds(&status) {
                return status;
            }
            assert!(start.elapsed() < LIMIT, "waited until {what}: {status:#?}, told {:?}", self.told());
            tokio::time::sleep(Duration::from_millis(10)).await; // poll: the status of another task
        }
    }

    pub(super) async fn connected(&self) -> ControlStatus {
        self.until("connected", |status| status.link == ControlLink::Connected).await
    }

    pub(super) async fn adopts(&mut self, version: Version) -> Duration {
        let start = Instant::now();
        let got = tokio::time::timeout(LIMIT, self.versions.recv()).await.expect("a version comes");
        assert_eq!(got, Some(version));
        start.elapsed()
    }

    pub(super) async fn record(&self, count: u64) {
        let events = (0..count).map(|n| NewEvent {
            at_unix_ms: unix_ms(),
            service: None,
            release: None,
            instance: None,
            suppressed: 0,
            shim_seq: None,
            what: What::HostStop { signal: format!("{n}") },
        });
        self.store.record_events(events.collect()).await.unwrap();
    }

    pub(super) async fn arrived(&self, count: usize) {
        self.until("the events have arrived", |_| self.fake.lock().events.len() >= count).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn host_status() -> Status {
    Status {
        at_unix_ms: 1,
        agent: Agent { version: "0.1.0".into(), pid: 1, keeper_pid: None, home: "/h".into(), started_unix_ms: 1 },
        stack: StackStatus {
            name: None,
            verdict: Verdict::Empty,
            since_unix_ms: None,
            version: None,
            applied_version: None,
            file_problem: None,
            problems: Vec::new(),
        },
        edge: Edge {
            pid: None,
            generation: None,
            external: None,
            internal: None,
            dns: None,
            suffix: "svc.internal".into(),
        },
        services: Vec::new(),
        limitations: vec!["x".repeat(10_000)],
        tunnel: None,
        control: None,
        host: None,
        security: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_version_reaches_an_idle_host_at_once() {
    let mut bench = Bench::new().await;
    bench.connected().await;
    for number in 1..4 {
        let version = bench.fake.publish(&small(3_600));
        assert_eq!(version, Version(number));
        let took = bench.adopts(version).await;
        assert!(took < Duration::from_secs(5), "{took:?}");
        let stored = bench.store.latest_version().await.unwrap().unwrap();
        assert_eq!((stored.version, stored.stack), (version, small(3_600)));
        let status = bench.until("known", |status| status.newest == Some(version)).await;
        assert!(status.fresh_until_unix_ms.is_some() && status.refused.is_none());
    }
    let limitation = bench.fake.lock().reports[0].snapshot.as_ref().unwrap().host.limitations[0].len();
    assert!(limitation <= 2_048, "{limitation}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_once_however_often_they_are_sent() {
    let bench = Bench::new().await;
    bench.connected().await;
    bench.record(1_300).await;
    bench.arrived(1_300).await;
    bench.fake.fault("/v1/report", Fault::Truncated, 2);
    bench.record(700).await;
    bench.arrived(2_000).await;
    let start = Instant::now();
    while bench.store.outbox_report().await.unwrap().records > 0 {
        assert!(start.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(10)).await; // poll: acknowledged by another task
    }
    let inner = bench.fake.lock();
    assert_eq!((inner.events.len(), inner.repeated >= 500), (2_000, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_loses_nothing_and_is_found_again() {
    let mut bench = Bench::new().await;
    bench.fake.publish(&small(1));
    bench.adopts(Version(1)).await;
    for fault in [
        Fault::Status(500),
        Fault::Status(429),
        Fault::Later(503, 1),
        Fault::Endless,
        Fault::Truncated,
        Fault::Status(301),
        Fault::Status(200),
    ] {
        let before = bench.fake.lock().events.len();
        bench.fake.fault("/v1/report", fault.clone(), 3);
        bench.record(3).await;
        bench.until("lost", |status| matches!(status.link, ControlLink::Offline { .. })).await;
        bench.arrived(before + 3).await;
        bench.connected().await;
    }
    assert_eq!(bench.store.latest_version().await.unwrap().unwrap().version, Version(1));
    assert!(bench.told().contains(&"control.lost".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_host_goes_on_with_what_it_has() {
    for slug in [Slug::HostUnknown, Slug::HostRevoked, Slug::NotFound, Slug::TokenExpired, Slug::IdentityConflict] {
        let mut bench = Bench::new().await;
        bench.fake.publish(&small(1));
        bench.adopts(Version(1)).await;
        bench.connected().await;
        bench.fake.fault("/", Fault::Problem(slug, "x", json!(1)), 1_000_000);
        bench.record(1).await;
        bench.until("refused", |status| matches!(status.link, ControlLink::Refused { .. })).await;
        let asked = bench.fake.lock().asked.len();
        tokio::time::sleep(Duration::from_millis(700)).await; // poll: that nothing is asked takes time to see
        assert!(bench.fake.lock().asked.len() <= asked + 2, "{slug:?}");
        assert_eq!(bench.store.latest_version().await.unwrap().unwrap().version, Version(1));
        assert!(bench.told().contains(&"control.refused".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_bent_on_its_way_is_believed() {
    let mut bench = Bench::new().await;
    bench.fake.publish(&small(1));
    bench.adopts(Version(1)).await;
    for (part, fault) in [
        ("head.json", Fault::Flip(60)),
        ("head.json", Fault::Truncated),
        ("head.json", Fault::Endless),
        ("/obj/", Fault::Flip(30)),
        ("/obj/", Fault::Truncated),
        ("/obj/", Fault::Endless),
        ("root/", Fault::Endless),
    ] {
        let latest = bench.store.latest_version().await.unwrap().unwrap().version;
        bench.fake.fault(part, fault, 1);
        let version = bench.fake.publish(&small(1));
        // Bent once: nothing in between was taken, and the next look finds it whole.
        bench.adopts(version).await;
        assert_eq!(version, Version(latest.0 + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_forged_and_foreign_heads_change_nothing_and_are_told_once() {
    let mut bench = Bench::new().await;
    let old = {
        bench.fake.publish(&small(1));
        bench.adopts(Version(1)).await;
        bench.fake.lock().head.clone()
    };
    bench.fake.publish(&small(1));
    bench.adopts(Version(2)).await;
    // Repeats what was true before, while it promises more.
    {
        let mut inner = bench.fake.lock();
        (inner.head, inner.version) = (old, 9);
    }
    bench.fake.wake();
    let status = bench.until("told", |status| status.refused.is_some()).await;
    assert_eq!(status.refused.as_ref().unwrap().kind, "trust.violation");
    assert!(status.refused.unwrap().reasons[0].contains("version 1 was offered, and 2 was in force"));
    // Another key than the root names, and then another document of the same number.
    let good = bench.fake.lock().version_key.clone();
    bench.fake.lock().version_key = agentd_protocol::control::key::SecretKey::from_seed(&[9; 32]);
    bench.fake.publish_as(&small(1), 3);
    bench.until("told", |status| status.refused.as_ref().is_some_and(|r| r.reasons[0].contains("signed"))).await;
    bench.fake.lock().version_key = good;
    bench.fake.publish_as(&small(2), 2);
    bench.fake.lock().version = 9;
    bench.until("told", |status| status.refused.as_ref().is_some_and(|r| r.reasons[0].contains("other content"))).await;
    assert_eq!(bench.store.latest_version().await.unwrap().unwrap().version, Version(2));
    let violations = bench.told().iter().filter(|word| *word == "trust.violation").count();
    assert_eq!(violations, 3, "{:?}", bench.told());
    // Told to the server, too, and over when it is honest again.
    bench
        .until("reported", |_| {
            let inner = bench.fake.lock();
            let told = |report: &agentd_protocol::control::report::Report| {
                report.snapshot.as_ref().is_some_and(|snapshot| snapshot.host.refused.is_some())
            };
            inner.reports.iter().any(told)
        })
        .await;
    bench.fake.publish_as(&small(1), 10);
    bench.adopts(Version(10)).await;
    bench.until("settled", |status| status.refused.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_no_person_could_write_are_rejected_whole() {
    let mut bench = Bench::new().await;
    let mut hostile = small(1);
    hostile.service[0].source = Revision::Ref("main".into());
    bench.fake.publish(&hostile);
    let status = bench.until("rejected", |status| status.refused.is_some()).await;
    assert_eq!(status.refused.as_ref().unwrap().kind, "config.rejected");
    hostile.service[0].source = small(1).service[0].source.clone();
    hostile.service[0].dir = Some("../../etc".into());
    bench.fake.publish(&hostile);
    bench.until("rejected", |status| status.refused.as_ref().is_some_and(|r| r.version == Some(Version(2)))).await;
    bench.fake.publish_bytes(b"{\"schema\":1}".to_vec(), b"{}".to_vec(), 3);
    bench.until("rejected", |status| status.refused.as_ref().is_some_and(|r| r.version == Some(Version(3)))).await;
    assert!(bench.store.latest_version().await.unwrap().is_none());
    bench.fake.publish(&small(1));
    bench.adopts(Version(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_owner_forbids_waits_until_he_allows_it() {
    let mut bench = Bench::new().await;
    bench.forbids.store(true, Ordering::Relaxed);
    bench.fake.publish(&small(1));
    let status = bench.until("rejected", |status| status.refused.is_some()).await;
    assert_eq!(status.refused.unwrap().reasons, ["service api: too much"]);
    assert!(bench.store.latest_version().await.unwrap().is_none());
    let fetched = |bench: &Bench| bench.fake.lock().asked.iter().filter(|path| path.contains("/obj/")).count();
    assert_eq!(fetched(&bench), 2);
    bench.forbids.store(false, Ordering::Relaxed);
    // Nothing new comes from the server: a look by itself, and without fetching the same again.
    bench.fake.wake();
    bench.adopts(Version(1)).await;
    assert_eq!((fetched(&bench), bench.told()[1].as_str()), (2, "config.rejected"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_version_is_known_and_taken_when_it_is_let_go() {
    let mut bench = Bench::new().await;
    bench.fake.publish(&small(60));
    bench.adopts(Version(1)).await;
    bench.fake.lock().paused = true;
    bench.fake.publish(&small(61));
    let status = bench.until("held", |status| status.held == Some(Version(2))).await;
    assert_eq!((status.newest, status.refused), (Some(Version(2)), None));
    bench.fake.lock().paused = false;
    bench.fake.refresh();
    let took = bench.adopts(Version(2)).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    bench.until("not held", |status| status.held.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_was_killed_after_it_stored_a_version_goes_on_with_it() {
    let mut bench = Bench::new().await;
    bench.fake.publish(&small(1));
    // It never gets to tell anybody: the queue is not read, and the task ends.
    bench.until("stored", |status| status.newest == Some(Version(1))).await;
    bench.start().await;
    assert_eq!(bench.store.latest_version().await.unwrap().unwrap().version, Version(1));
    bench.connected().await;
    let (boots, seen) = {
        let inner = bench.fake.lock();
        let last = inner.reports.last().unwrap();
        (last.boot, last.head.seen)
    };
    assert_eq!((boots, seen), (2, Version(1)));
    bench.fake.publish(&small(1));
    bench.adopts(Version(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_that_went_back_and_gaps_are_cured_and_told() {
    let bench = Bench::new().await;
    bench.record(3).await;
    bench.arrived(3).await;
    bench.fake.fault("/v1/report", Fault::Problem(Slug::StateRegressed, "boot", json!(40)), 1);
    bench.record(1).await;
    bench.arrived(4).await;
    assert_eq!(bench.fake.lock().reports.last().unwrap().boot, 41);
    bench.fake.lock().events.clear();
    bench.fake.fault("/v1/report", Fault::Problem(Slug::OutboxGap, "expected", json!(1)), 1);
    bench.record(2).await;
    bench.arrived(3).await;
    let events = bench.fake.lock().events.clone();
    let gap = events.values().find(|event| event.kind == GAP_KIND).unwrap();
    assert_eq!((gap.seq, &gap.data["count"]), (1, &json!(1)));
    bench.fake.fault("/v1/report", Fault::Problem(Slug::TooManyEvents, "x", json!(1)), 2);
    bench.record(8).await;
    bench.arrived(11).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_wrong_is_worked_around_and_told() {
    let mut bench = Bench::new().await;
    bench.fake.lock().clock_ahead_s = 4_000;
    bench.record(1).await;
    bench.arrived(1).await;
    bench.until("skew is told", |status| status.clock_skew_ms > 3_000_000).await;
    bench.connected().await;
    bench.fake.publish(&small(1));
    bench.adopts(Version(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_hold_is_asked_by_its_interval() {
    let fake = FakeControl::start();
    fake.lock().holds = false;
    let mut bench = Bench::of(fake).await;
    bench.connected().await;
    bench.fake.publish(&small(1));
    let took = bench.adopts(Version(1)).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let before = bench.fake.lock().reports.len();
    tokio::time::sleep(Duration::from_secs(2)).await; // poll: counts what comes in a time
    let more = bench.fake.lock().reports.len() - before;
    assert!((1..=4).contains(&more), "{more}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeControl::start();
    let first = enrolled(&fake, &dir).await.unwrap();
    // The same key again, as after an answer that was lost.
    assert_eq!(enrolled(&fake, &dir).await.unwrap().key.public(), first.key.public());
    let other = tempfile::tempdir().unwrap();
    assert!(matches!(enrolled(&fake, &other).await, Err(JoinError::Used)));
    fake.fault("/v1/enroll", Fault::Problem(Slug::TokenExpired, "x", json!(1)), 1);
    assert!(matches!(enrolled(&fake, &dir).await, Err(JoinError::Expired(_))));
    fake.fault("/v1/enroll", Fault::Later(503, 0), 2);
    assert!(enrolled(&fake, &dir).await.is_ok());
    fake.lock().clock_ahead_s = 9_000;
    assert!(enrolled(&fake, &dir).await.is_ok());
    fake.lock().clock_ahead_s = 0;
    fake.fault("/v1/enroll", Fault::Endless, 1);
    assert!(matches!(enrolled(&fake, &dir).await, Err(JoinError::Unreachable { .. })));
    fake.revoke_token();
    assert!(matches!(enrolled(&fake, &dir).await, Err(JoinError::Unknown)));
    // Another server that took the name over: it answers, and its root is another.
    let thief = FakeControl::start();
    let mut joining = thief.joining();
    joining.root = agentd_protocol::digest::Digest::of(b"other");
    let reach = Reach { url: joining.url.clone(), authorities: None, plain_http: false };
    let applicant = Applicant { name: "x".into(), labels: Default::default() };
    let key = pending_key(dir.path(), &joining.stack).unwrap();
    let refused = join(&joining, reach, key, applicant, |_| {}).await;
    assert!(matches!(refused, Err(JoinError::OtherServer { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_code_is_shown_until_somebody_says_yes() {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeControl::start();
    fake.lock().wants_approval = true;
    let joining = fake.joining();
    let key = pending_key(dir.path(), &joining.stack).unwrap();
    let reach = Reach { url: joining.url.clone(), authorities: None, plain_http: false };
    let applicant = Applicant { name: "web-1".into(), labels: Default::default() };
    let (shown, approver) = (Arc::new(Mutex::new(Vec::new())), fake.clone());
    let show = |progress| {
        shown.lock().unwrap().push(progress);
        approver.lock().wants_approval = false;
    };
    let identity = join(&joining, reach, key, applicant, show).await.unwrap();
    assert_eq!((identity.name.as_str(), identity.stack_name.as_str()), ("web-1", "shop"));
    assert_eq!(*shown.lock().unwrap(), [Progress::Code("WXQR-4821".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_drips_or_never_comes_ends_at_its_deadline() {
    let bench = Bench::new().await;
    bench.fake.publish(&small(1));
    let client = super::client::Client::new(&bench.identity.reach).unwrap();
    let path = format!("/s/{}/root/1.json", bench.identity.stack);
    for fault in [Fault::Drip, Fault::Silent] {
        bench.fake.fault("root/1.json", fault.clone(), 1);
        let limit = Duration::from_secs(1);
        let call = super::client::Call {
            method: reqwest::Method::GET,
            path: &path,
            body: Vec::new(),
            headers: Vec::new(),
            bytes_max: 1_000,
            limit,
        };
        let signer = super::client::host_signer(bench.identity.host.as_str(), &bench.identity.key);
        let answer = client.send(call, unix_secs(), &[signer]).await;
        assert!(matches!(answer, Err(NoAnswer::TooSlow(_))), "{fault:?}: {answer:?}");
    }
}
