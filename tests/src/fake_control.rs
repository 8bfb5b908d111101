//! A control server of a test's, which does as it is told: it signs, or forges; holds, or drips; and keeps what it was
//! sent. Used by the agent's own tests, too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::enroll::{Enroll, Enrolled, Pace, Pending, RECEIPT_TYPE};
use agentd_protocol::control::ids::{HostId, StackId, TokenId};
use agentd_protocol::control::join::JoinString;
use agentd_protocol::control::key::{PublicKey, SecretKey};
use agentd_protocol::control::problem::Slug;
use agentd_protocol::control::report::{EventRecord, HeadHint, Report, Reported};
use agentd_protocol::control::request::{Parts, check_digest, read};
use agentd_protocol::control::statement::{
    Endpoints, FRESH_TYPE, Fresh, ObjectRef, ROOT_TYPE, Role, Root, RootKey, Thresholds, TrustMode, VERSION_TYPE,
    VersionStatement,
};
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::Head;
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::Version;
use agentd_protocol::published::split_salted;
use agentd_protocol::stack::Stack;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;

/// What goes wrong with an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    Status(u16),
    /// With its `Retry-After`.
    Later(u16, u64),
    Problem(Slug, &'static str, serde_json::Value),
    /// One bit of a good answer, at this part of it.
    Flip(usize),
    /// Half of a good answer.
    Truncated,
    /// Bytes without end.
    Endless,
    /// A good answer, one byte at a time.
    Drip,
    /// No answer.
    Silent,
}

#[derive(Debug)]
pub struct Inner {
    pub stack: StackId,
    pub host: HostId,
    /// Of hosts that were taken in.
    pub keys: Vec<PublicKey>,
    pub reports: Vec<Report>,
    /// By their ids, each once.
    pub events: BTreeMap<String, EventRecord>,
    /// How often one came again.
    pub repeated: u64,
    /// Path part, what goes wrong there, how often yet.
    pub faults: Vec<(&'static str, Fault, u32)>,
    pub holds: bool,
    pub pace: Pace,
    pub paused: bool,
    /// A person has to say yes first.
    pub wants_approval: bool,
    /// Seconds by which this server's clock is ahead.
    pub clock_ahead_s: i64,
    pub fresh_s: i64,
    /// Seconds from now to the time that fresh notes say they were made at.
    pub issued_ahead_s: i64,
    /// A proxy stands before it that lets bodies of so many bytes through, and answers the others in HTML.
    pub body_bytes_max: usize,
    /// Sizes of bodies that came by there, largest.
    pub largest: usize,
    /// Requests by path.
    pub asked: Vec<String>,
    /// Signs versions; another one is a thief's.
    pub version_key: SecretKey,
    pub head: Option<Vec<u8>>,
    pub version: u64,
    current: Option<(Envelope, Digest)>,
    objects: BTreeMap<String, Vec<u8>>,
    /// From root 1 on, and what the newest says.
    roots: Vec<Envelope>,
    root: Root,
    root_digest: Digest,
    key: SecretKey,
    token: SecretKey,
    token_used_by: Option<PublicKey>,
    token_revoked: bool,
}

#[derive(Debug, Clone)]
pub struct FakeControl {
    pub address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    news: Arc<watch::Sender<u64>>,
}

pub fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

impl Default for FakeControl {
    fn default() -> Self {
        Self::start()
    }
}

impl FakeControl {
    pub fn start() -> Self {
        Self::with(Inner::new(1))
    }

    /// Of another owner, on the same kind of machine.
    pub fn other() -> Self {
        Self::with(Inner::new(77))
    }

    fn with(inner: Inner) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Self { address, inner: Arc::new(Mutex::new(inner)), news: Arc::new(watch::Sender::new(0)) };
        fake.serve(listener);
        fake
    }

    /// Its thread ends with the process.
    fn serve(&self, listener: std::net::TcpListener) {
        let router = Router::new().fallback(answer).with_state(self.clone());
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, router).await.unwrap();
            });
        };
        std::thread::Builder::new().name("fake control".into()).spawn(serve).unwrap();
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn join_string(&self) -> String {
        self.joining().reveal().as_str().to_owned()
    }

    pub fn joining(&self) -> JoinString {
        let inner = self.lock();
        JoinString {
            url: self.url(),
            stack: inner.stack.clone(),
            token: TokenId::new("adt_test1").unwrap(),
            key: inner.token.clone(),
            root: inner.root_digest,
            expires: Time::from_unix_secs(now_s() + 3_600),
        }
    }

    /// The next version.
    pub fn publish(&self, stack: &Stack) -> Version {
        let number = self.lock().version + 1;
        self.publish_as(stack, number)
    }

    pub fn publish_as(&self, stack: &Stack, number: u64) -> Version {
        let parts = split_salted(stack, &format!("salt{number}"));
        self.publish_bytes(parts.document.into_bytes(), parts.env.into_bytes(), number)
    }

    pub fn publish_bytes(&self, state: Vec<u8>, env: Vec<u8>, number: u64) -> Version {
        {
            let mut inner = self.lock();
            let statement = VersionStatement {
                stack: inner.stack.clone(),
                epoch: inner.root.epoch,
                version: Version(number),
                state: ObjectRef { sha256: Digest::of(&state), size: u64::try_from(state.len()).unwrap() },
                prev: Digest::of(b""),
                created: Time::from_unix_secs(now_s()),
                requires: vec!["git".into()],
                note: None,
            };
            let payload = serde_json::to_vec(&statement).unwrap();
            let envelope = Envelope::sign(VERSION_TYPE, &payload, &[&inner.version_key]);
            inner.objects.insert(Digest::of(&state).to_string(), state);
            inner.objects.insert(Digest::of(&env).to_string(), env);
            (inner.version, inner.current) = (number, Some((envelope, Digest::of(&payload))));
            inner.refresh();
        }
        self.wake();
        Version(number)
    }

    /// Issues the fresh note anew, by what it was told meanwhile, and lets held reports go.
    pub fn refresh(&self) {
        self.lock().refresh();
        self.wake();
    }

    pub fn wake(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    pub fn fault(&self, part: &'static str, fault: Fault, times: u32) {
        self.lock().faults.push((part, fault, times));
    }

    pub fn mend(&self) {
        self.lock().faults.clear();
    }

    pub fn revoke_token(&self) {
        self.lock().token_revoked = true;
    }

    /// As a server that was restored from a backup of before the host joined.
    pub fn forget(&self) {
        let mut inner = self.lock();
        (inner.keys, inner.token_used_by) = (Vec::new(), None);
    }

    /// The next root: versions are signed by `version_key` from then on, and by no other. In the next epoch, numbers may
    /// begin anew.
    pub fn rotate(&self, version_key: SecretKey, is_next_epoch: bool) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let (own, new) = (inner.key.public(), version_key.public());
        inner.root.version += 1;
        inner.root.epoch += u64::from(is_next_epoch);
        inner.root.keys = [
            (own.id(), RootKey::of(&own, &[Role::Root, Role::Fresh])),
            (new.id(), RootKey::of(&new, &[Role::Version])),
        ]
        .into();
        let payload = serde_json::to_vec(&inner.root).unwrap();
        inner.roots.push(Envelope::sign(ROOT_TYPE, &payload, &[&inner.key]));
        inner.version_key = version_key;
    }

    pub fn kinds(&self) -> Vec<String> {
        self.lock().events.values().map(|event| event.kind.clone()).collect()
    }
}

impl Inner {
    fn new(owner: u8) -> Self {
        let (key, token) = (SecretKey::from_seed(&[owner; 32]), SecretKey::from_seed(&[owner + 1; 32]));
        let stack = StackId::of(&[owner; 16]);
        let root = Root {
            stack: stack.clone(),
            version: 1,
            epoch: 1,
            mode: TrustMode::Managed,
            expires: Time::from_unix_secs(now_s() + 1_000_000),
            keys: [(key.public().id(), RootKey::of(&key.public(), &[Role::Root, Role::Version, Role::Fresh]))].into(),
            threshold: Thresholds { root: 1, version: 1, fresh: 1 },
        };
        let payload = serde_json::to_vec(&root).unwrap();
        Self {
            host: HostId::of(&[owner; 16]),
            stack,
            keys: Vec::new(),
            reports: Vec::new(),
            events: BTreeMap::new(),
            repeated: 0,
            faults: Vec::new(),
            holds: true,
            pace: Pace { interval_s: 1, hold_s: 50, spread_s: 0 },
            paused: false,
            wants_approval: false,
            clock_ahead_s: 0,
            fresh_s: 86_400,
            issued_ahead_s: 0,
            body_bytes_max: usize::MAX,
            largest: 0,
            asked: Vec::new(),
            version_key: key.clone(),
            head: None,
            version: 0,
            current: None,
            objects: BTreeMap::new(),
            roots: vec![Envelope::sign(ROOT_TYPE, &payload, &[&key])],
            root,
            root_digest: Digest::of(&payload),
            key,
            token,
            token_used_by: None,
            token_revoked: false,
        }
    }

    fn time(&self) -> Time {
        Time::from_unix_secs(now_s() + self.clock_ahead_s)
    }

    fn refresh(&mut self) {
        let Some((version, statement)) = self.current.clone() else { return };
        let fresh = Fresh {
            stack: self.stack.clone(),
            statement,
            version: Version(self.version),
            root: self.root.version,
            issued: Time::from_unix_secs(now_s() + self.issued_ahead_s),
            expires: Time::from_unix_secs(now_s() + self.issued_ahead_s + self.fresh_s),
            poll_s: 60,
            paused: self.paused,
            endpoints: Endpoints::default(),
        };
        let fresh = Envelope::sign(FRESH_TYPE, &serde_json::to_vec(&fresh).unwrap(), &[&self.key]);
        self.head = Some(serde_json::to_vec(&Head { version, fresh }).unwrap());
    }

    fn take_fault(&mut self, path: &str) -> Option<Fault> {
        let found = self.faults.iter_mut().find(|(part, _, times)| path.contains(part) && *times > 0)?;
        found.2 -= 1;
        Some(found.1.clone())
    }

    fn enroll(&mut self, body: &[u8]) -> Response {
        let enroll: Enroll = serde_json::from_slice(body).unwrap();
        if self.token_revoked {
            return problem(Slug::TokenInvalid, "", 0);
        }
        if self.token_used_by.is_some_and(|key| key != enroll.key) {
            return problem(Slug::TokenUsed, "", 0);
        }
        if self.wants_approval {
            let (status, code, time) = ("pending".to_owned(), "WXQR-4821".to_owned(), self.time());
            return json(StatusCode::ACCEPTED, &Pending { status, code, retry_s: 1, time });
        }
        let status = if self.token_used_by.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        self.token_used_by = Some(enroll.key);
        self.keys.push(enroll.key);
        json(
            status,
            &Enrolled {
                host: self.host.clone(),
                name: enroll.name,
                stack_name: "shop".into(),
                receipt: Envelope::sign(RECEIPT_TYPE, b"{}", &[&self.key]),
                roots: self.roots.clone(),
                endpoints: Endpoints::default(),
                report: self.pace,
                time: self.time(),
            },
        )
    }

    /// Whether there is no news for who sent it.
    fn report(&mut self, body: &[u8]) -> bool {
        let report: Report = serde_json::from_slice(body).unwrap();
        let first = report.events.first().map_or(0, |event| event.seq);
        let numbers: Vec<u64> = report.events.iter().map(|event| event.seq).collect();
        let due: Vec<u64> = (first..).take(numbers.len()).collect();
        assert_eq!(numbers, due, "events of a report follow each other");
        for event in &report.events {
            if self.events.insert(event.eid.clone(), event.clone()).is_some() {
                self.repeated += 1;
            }
        }
        let is_current = report.head.seen.0 == self.version;
        self.reports.push(report);
        is_current
    }

    fn reported(&self) -> Reported {
        let head = HeadHint { root: self.root.version, epoch: self.root.epoch, version: Version(self.version) };
        Reported { head, full: false, next: self.pace, time: self.time() }
    }

    fn file(&self, path: &str, headers: &HeaderMap) -> Response {
        let name = path.strip_prefix(&format!("/s/{}/", self.stack)).unwrap_or_default();
        let root = |name: &str| {
            let number: usize = name.strip_prefix("root/")?.strip_suffix(".json")?.parse().ok()?;
            serde_json::to_vec(self.roots.get(number.checked_sub(1)?)?).ok()
        };
        let found = match name.strip_prefix("obj/") {
            Some(sha256) => self.objects.get(sha256).cloned(),
            None if name == "head.json" => self.head.clone(),
            None => root(name),
        };
        let Some(bytes) = found else { return problem(Slug::NotFound, "", 0) };
        let etag = format!("\"{}\"", Digest::of(&bytes));
        if headers.get("if-none-match").is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
            return StatusCode::NOT_MODIFIED.into_response();
        }
        ([("etag", etag)], bytes).into_response()
    }
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    (status, serde_json::to_vec(value).unwrap()).into_response()
}

fn problem(slug: Slug, key: &str, value: impl Into<serde_json::Value>) -> Response {
    json(StatusCode::from_u16(slug.status()).unwrap(), &slug.problem("as the test wants it").with(key, value))
}

async fn answer(
    State(fake): State<FakeControl>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    let fault = {
        let mut inner = fake.lock();
        inner.asked.push(format!("{method} {path}"));
        if inner.asked.len() > 100_000 {
            inner.asked.clear();
        }
        inner.largest = inner.largest.max(body.len());
        if body.len() > inner.body_bytes_max {
            let page = "<html><head><title>413 Request Entity Too Large</title></head></html>";
            return (StatusCode::PAYLOAD_TOO_LARGE, [("content-type", "text/html")], page).into_response();
        }
        inner.take_fault(&path)
    };
    match fault {
        Some(Fault::Status(status)) => return StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::Later(status, secs)) => {
            return (StatusCode::from_u16(status).unwrap(), [("retry-after", secs.to_string())]).into_response();
        }
        Some(Fault::Problem(slug, key, value)) => return problem(slug, key, value),
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Endless) => {
            let zeros =
                futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 8_192])));
            return Body::from_stream(zeros).into_response();
        }
        Some(Fault::Flip(_) | Fault::Truncated | Fault::Drip) | None => {}
    }
    if let Some(refused) = unsigned(&fake, &method, &path, &headers, &body) {
        return refused;
    }
    let good = match path.as_str() {
        "/v1/enroll" => fake.lock().enroll(&body),
        "/v1/report" => report(&fake, &headers, &body).await,
        _ => fake.lock().file(&path, &headers),
    };
    match fault {
        None => good,
        Some(fault) => bent(good, &fault).await,
    }
}

async fn bent(good: Response, fault: &Fault) -> Response {
    let (parts, body) = good.into_parts();
    let mut bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
    match fault {
        Fault::Flip(at) if !bytes.is_empty() => {
            let at = at % bytes.len();
            bytes[at] ^= 1;
        }
        Fault::Truncated => bytes.truncate(bytes.len() / 2),
        Fault::Drip => {
            let one = |byte: u8| async move {
                tokio::time::sleep(Duration::from_millis(500)).await; // poll: a byte at a time is the fault
                Some(Ok::<_, std::io::Error>(Bytes::from(vec![byte])))
            };
            let bytes = futures_util::StreamExt::filter_map(futures_util::stream::iter(bytes), one);
            return Response::from_parts(parts, Body::from_stream(bytes));
        }
        _ => {}
    }
    Response::from_parts(parts, Body::from(bytes))
}

/// Why a request is not from one of the hosts, by the rules of the protocol.
fn unsigned(fake: &FakeControl, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Option<Response> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let inner = fake.lock();
    let claims = read(text("signature-input"), text("signature")).expect("requests are signed");
    let content_digest = text("content-digest");
    check_digest(content_digest, &Digest::of(body)).expect("the body is the one that was signed");
    let parts = Parts { method: method.as_str(), path, query: "", content_digest };
    for claim in &claims {
        let now = u64::try_from(inner.time().unix_secs()).unwrap();
        if claim.check_clock(now).is_err() {
            return Some(problem(Slug::ClockSkew, "time", inner.time().to_string()));
        }
        let key = match claim.label.as_str() {
            "tok" => Some(inner.token.public()),
            _ if path == "/v1/enroll" => serde_json::from_slice::<Enroll>(body).ok().map(|enroll| enroll.key),
            _ => inner.keys.iter().find(|key| claim.check(parts, key).is_ok()).copied(),
        };
        if key.is_none_or(|key| claim.check(parts, &key).is_err()) {
            return Some(problem(Slug::HostUnknown, "", 0));
        }
    }
    None
}

async fn report(fake: &FakeControl, headers: &HeaderMap, body: &[u8]) -> Response {
    let mut news = fake.news.subscribe();
    let (is_current, holds) = {
        let mut inner = fake.lock();
        (inner.report(body), inner.holds)
    };
    let prefer =
        headers.get("prefer").and_then(|value| value.to_str().ok()).and_then(|text| text.strip_prefix("wait="));
    let wait = prefer.filter(|_| holds).and_then(|secs| secs.parse().ok()).map(Duration::from_secs);
    let Some(wait) = wait else { return json(StatusCode::OK, &fake.lock().reported()) };
    if is_current {
        // Elapsed: there was no news.
        let _ = tokio::time::timeout(wait, news.changed()).await;
    }
    let mut answer = json(StatusCode::OK, &fake.lock().reported());
    answer.headers_mut().insert("preference-applied", format!("wait={}", wait.as_secs()).parse().unwrap());
    answer
}
