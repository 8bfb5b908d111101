//! From what the server hands out to a version in the store, or to why not.

use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::authored;
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::{Decision, Now, Offer, Refused, TrustRecord, check_state, read_root};
use agentd_protocol::control::{ENV_BYTES_MAX, HEAD_BYTES_MAX, ROOT_BYTES_MAX, ROOTS_MAX, STATE_BYTES_MAX};
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::Version;
use agentd_protocol::published::{NotJoined, env_digest, join_salted};
use agentd_protocol::stack::Stack;
use agentd_sys::causes::chain;
use reqwest::Method;
use tokio::sync::mpsc;

use super::client::{Answer, CALL_LIMIT, Call, Client, NoAnswer, OBJECT_LIMIT, host_signer};
use super::{Identity, Judge, step, unix_secs};
use crate::lifecycle;
use crate::store::{Store, VerifiedVersion};

/// A clock before this is not set: 2025-01-01, before any build that knows of control servers.
const BUILT_UNIX_SECS: i64 = 1_735_689_600;
/// Problems of a document that are told; the rest is counted.
const REASONS_MAX: usize = 20;

/// Between two looks at the head that nothing asked for.
const LOOK_MIN: Duration = Duration::from_secs(60);
const LOOK_MAX: Duration = Duration::from_secs(3_600);

/// What a look came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Looked {
    /// Nothing was published yet.
    Nothing,
    Current,
    /// There is a newer one, and the server asks to stay.
    Held {
        offered: Version,
    },
    /// In the store, and on its way to be applied.
    Adopted {
        version: Version,
        poll_interval: Duration,
    },
    Refused {
        version: Option<Version>,
        kind: &'static str,
        reasons: Vec<String>,
    },
    /// Nothing was learnt; `refused`: the server does not hand anything out to this host.
    Unanswered {
        cause: String,
        refused: bool,
    },
}

pub(super) const REJECTED: &str = "config.rejected";
pub(super) const VIOLATION: &str = "trust.violation";

/// Why a look ended early.
enum Stop {
    Unanswered { cause: String, refused: bool },
    Distrust(Refused),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Distrust(refused)
    }
}

impl From<NoAnswer> for Stop {
    fn from(none: NoAnswer) -> Self {
        Self::Unanswered { cause: none.to_string(), refused: false }
    }
}

/// The head as it was handed out last.
struct Head {
    etag: Option<String>,
    bytes: Vec<u8>,
}

/// Objects of a version that was not taken, so that they are not fetched at every look.
struct Objects {
    state: Vec<u8>,
    env: Vec<u8>,
}

pub(super) struct Fetcher {
    pub(super) client: Client,
    pub(super) identity: Arc<Identity>,
    pub(super) store: Store,
    pub(super) judge: Judge,
    pub(super) versions: mpsc::Sender<Version>,
    pub(super) trust: TrustRecord,
    /// Server's clock less ours, as far as it matters, seconds.
    pub(super) offset_s: i64,
    head: Option<Head>,
    objects: Option<(Digest, Objects)>,
}

impl Fetcher {
    pub(super) fn new(
        client: Client,
        identity: Arc<Identity>,
        store: Store,
        judge: Judge,
        versions: mpsc::Sender<Version>,
        trust: TrustRecord,
    ) -> Self {
        Self { client, identity, store, judge, versions, trust, offset_s: 0, head: None, objects: None }
    }

    pub(super) async fn look(&mut self) -> Looked {
        match self.try_look().await {
            Ok(looked) => looked,
            Err(Stop::Unanswered { cause, refused }) => Looked::Unanswered { cause, refused },
            // Says something of this machine, and something else at every look.
            Err(Stop::Distrust(refused @ Refused::ClockNotSet { .. })) => {
                Looked::Unanswered { cause: refused.to_string(), refused: false }
            }
            Err(Stop::Distrust(refused)) => {
                // Its tag may be that of the true one, which then would never be sent again.
                self.head = None;
                refusal(None, VIOLATION, vec![refused.to_string()])
            }
        }
    }

    async fn try_look(&mut self) -> Result<Looked, Stop> {
        let Some(is_new) = self.get_head().await? else { return Ok(Looked::Nothing) };
        if is_new {
            self.follow_roots().await?;
        }
        let head = self.head.as_ref().map(|head| head.bytes.clone()).unwrap_or_default();
        match self.trust.decide(&head, now())? {
            Decision::Current { record } => {
                self.keep(record).await;
                self.objects = None;
                Ok(Looked::Current)
            }
            Decision::Held { record, offered } => {
                self.keep(record).await;
                Ok(Looked::Held { offered })
            }
            Decision::Newer { record, offer } => {
                self.keep(record).await;
                self.take(&offer).await
            }
        }
    }

    /// Whether it is another than before; `None`: there is none.
    async fn get_head(&mut self) -> Result<Option<bool>, Stop> {
        let known = self.head.as_ref().and_then(|head| head.etag.clone());
        let headers = known.map(|etag| ("if-none-match", etag)).into_iter().collect();
        let answer = self.get("head.json", headers, HEAD_BYTES_MAX, CALL_LIMIT).await?;
        match answer.status {
            200 => {
                self.head = Some(Head { etag: answer.etag, bytes: answer.body });
                Ok(Some(true))
            }
            304 if self.head.is_some() => Ok(Some(false)),
            404 => Ok(None),
            _ => Err(unexpected(&answer)),
        }
    }

    async fn follow_roots(&mut self) -> Result<(), Stop> {
        for _ in 0..ROOTS_MAX {
            let next = self.trust.root.version.saturating_add(1);
            let answer = self.get(&format!("root/{next}.json"), Vec::new(), ROOT_BYTES_MAX, CALL_LIMIT).await?;
            match answer.status {
                200 => {
                    let root = read_root(&answer.body)?;
                    let record = self.trust.clone().follow(&[root])?;
                    self.keep(record).await;
                }
                404 => return Ok(()),
                _ => return Err(unexpected(&answer)),
            }
        }
        Err(Refused::TooManyRoots.into())
    }

    /// What is believed is on disk before anything rests on it.
    async fn keep(&mut self, record: TrustRecord) {
        if record == self.trust {
            return;
        }
        match self.store.keep_trust(&record).await {
            Ok(()) => self.trust = record,
            Err(error) => tracing::error!(error = chain(&error), "what is believed of the server is not kept"),
        }
    }

    async fn take(&mut self, offer: &Offer) -> Result<Looked, Stop> {
        let version = Some(offer.statement.version);
        let sha256 = offer.statement.state.sha256;
        let distrust = |refused: Refused| refusal(version, VIOLATION, vec![refused.to_string()]);
        let objects = match self.objects.take().filter(|(of, _)| *of == sha256) {
            Some((_, objects)) => objects,
            None => {
                let state = self.object(&sha256, STATE_BYTES_MAX).await?;
                if let Err(refused) = check_state(offer, &state) {
                    return Ok(distrust(refused));
                }
                let Ok(env) = env_digest(&state) else {
                    return Ok(refusal(version, REJECTED, vec!["the document is not one of schema 1".to_owned()]));
                };
                let env_object = self.object(&env, ENV_BYTES_MAX).await?;
                if Digest::of(&env_object) != env {
                    return Ok(refusal(version, VIOLATION, vec![NotJoined::OtherEnv.to_string()]));
                }
                Objects { state, env: env_object }
            }
        };
        let judge = Arc::clone(&self.judge);
        let reading = lifecycle::spawn_blocking("check a version", move || {
            let judged = check(&objects, &judge);
            (objects, judged)
        });
        let (objects, judged) = reading.await.expect("checking a document does not panic");
        match judged {
            Err(reasons) => {
                self.objects = Some((sha256, objects));
                Ok(refusal(version, REJECTED, reasons))
            }
            Ok(stack) => Ok(self.adopt(offer, stack).await),
        }
    }

    async fn adopt(&mut self, offer: &Offer, stack: Stack) -> Looked {
        let (version, poll_interval) = (offer.statement.version, stack.stack.poll_interval.0);
        let trust = self.trust.clone().adopt(offer);
        let sha256 = offer.statement.state.sha256;
        let verified = VerifiedVersion { version, sha256, stack, trust: trust.clone() };
        if let Err(error) = self.store.adopt_version(verified).await {
            let cause = format!("version {version} is good, and cannot be stored: {}", chain(&error));
            return Looked::Unanswered { cause, refused: false };
        }
        self.trust = trust;
        tracing::info!(%version, "verified");
        // Closed: the manager ends, and the next one finds the version in the store.
        let _ = self.versions.send(version).await;
        Looked::Adopted { version, poll_interval }
    }

    async fn object(&self, sha256: &Digest, bytes_max: usize) -> Result<Vec<u8>, Stop> {
        let answer = self.get(&format!("obj/{sha256}"), Vec::new(), bytes_max, OBJECT_LIMIT).await?;
        if answer.status == 200 { Ok(answer.body) } else { Err(unexpected(&answer)) }
    }

    async fn get(
        &self,
        file: &str,
        headers: Vec<(&'static str, String)>,
        bytes_max: usize,
        limit: Duration,
    ) -> Result<Answer, NoAnswer> {
        let path = format!("/s/{}/{file}", self.identity.stack);
        let call = Call { method: Method::GET, path: &path, body: Vec::new(), headers, bytes_max, limit };
        let signer = host_signer(self.identity.host.as_str(), &self.identity.key);
        self.client.send(call, unix_secs().saturating_add_signed(self.offset_s), &[signer]).await
    }
}

/// The document and its values to a stack that this host may run.
fn check(objects: &Objects, judge: &Judge) -> Result<Stack, Vec<String>> {
    let stack = join_salted(&objects.state, &objects.env).map_err(|not| vec![chain(&not)])?;
    authored::check(&stack).map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    judge(&stack)?;
    Ok(stack)
}

fn refusal(version: Option<Version>, kind: &'static str, mut reasons: Vec<String>) -> Looked {
    let more = reasons.len().saturating_sub(REASONS_MAX);
    reasons.truncate(REASONS_MAX);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    Looked::Refused { version, kind, reasons }
}

fn unexpected(answer: &Answer) -> Stop {
    let refused = matches!(answer.status, 401 | 403 | 410);
    Stop::Unanswered { cause: step::cause(answer.status, answer.problem().as_ref()), refused }
}

fn now() -> Now {
    let clock = Time::from_unix_secs(i64::try_from(unix_secs()).unwrap_or(i64::MAX));
    Now { clock, built: Time::from_unix_secs(BUILT_UNIX_SECS) }
}

/// Until the next look that nothing asks for.
pub(super) fn until_look(fresh_until: Time, looked: &Looked, ceiling: Duration) -> Duration {
    let now = i64::try_from(unix_secs()).unwrap_or(i64::MAX);
    let left = u64::try_from(fresh_until.unix_secs().saturating_sub(now)).unwrap_or(0);
    let most = look_within(Duration::from_secs(left), looked, ceiling);
    most.mul_f64(0.8 + fastrand::f64() / 5.0)
}

/// Half of what is left of the freshness, so that an idle host stays fresh; sooner where nothing was learnt, seldom where
/// the server does not hand anything out.
fn look_within(left: Duration, looked: &Looked, ceiling: Duration) -> Duration {
    match looked {
        Looked::Unanswered { refused: true, .. } => LOOK_MAX,
        Looked::Unanswered { .. } | Looked::Nothing => LOOK_MIN.max(ceiling),
        Looked::Current | Looked::Held { .. } | Looked::Adopted { .. } | Looked::Refused { .. } => {
            (left / 2).clamp(LOOK_MIN, LOOK_MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::control::statement::FRESH_SECS;

    use super::*;

    #[test]
    fn an_idle_host_stays_fresh_for_as_long_as_notes_are_made_anew() {
        let life = u64::try_from(FRESH_SECS).unwrap();
        // Of a server that makes them anew at a quarter of their life, and of one that does so at the last moment.
        for every in [life / 4, life - 2 * LOOK_MIN.as_secs()] {
            let (mut now, mut looks) = (0, 0);
            while now < 30 * life {
                let expires = now / every * every + life;
                let left = Duration::from_secs(expires - now);
                now += look_within(left, &Looked::Current, Duration::from_secs(15)).as_secs();
                looks += 1;
                assert!(now < expires, "stale at {expires}, and looked again at {now}");
            }
            assert!(looks < 30 * 40, "{looks} looks in 30 days");
        }
        let seldom = Looked::Unanswered { cause: String::new(), refused: true };
        assert_eq!(look_within(Duration::ZERO, &seldom, Duration::from_secs(15)), LOOK_MAX);
    }
}
