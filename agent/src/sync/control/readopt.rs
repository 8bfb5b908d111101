//! A server that has forgotten this host, as after the restore of a backup from before it joined: it is shown the receipt
//! of then, and a person there says yes. Until then, and if nobody ever does, the host goes on as it is.

use std::sync::Arc;
use std::time::Duration;

use agentd_protocol::api;
use agentd_protocol::control::enroll::{Enrolled, Pending};
use agentd_protocol::control::problem::{Problem, Slug};
use agentd_protocol::control::time::Time;
use futures_util::future::BoxFuture;
use reqwest::Method;
use tokio::time::{Instant, sleep_until};

use super::client::{Answer, CALL_LIMIT, Call, Client, NoAnswer, host_signer};
use super::join::{Applicant, ENROLLED_BYTES_MAX, shown_code, wish};
use super::{Identity, step, unix_secs};

/// A server may be loading its hosts; and all of them have been forgotten at once: they come over half a minute.
const FIRST: Duration = Duration::from_secs(30);
const FIRST_SPREAD: Duration = Duration::from_secs(30);
/// Between two wishes that were heard: what a person has seen once need not be said often.
const BETWEEN: Duration = Duration::from_secs(6 * 3_600);
/// After one that nobody has heard, or longer where the server asks for it; and as much again over which a fleet comes
/// apart: a thousand hosts are a dozen wishes a second.
const UNHEARD: Duration = Duration::from_secs(60);
const UNHEARD_SPREAD: Duration = Duration::from_secs(60);
/// Whatever the server asks for.
const UNHEARD_MAX: Duration = Duration::from_secs(3_600);
/// Once more with the server's clock.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Between reports while a person is about to say yes, whatever the server wishes, seconds.
const REPORT_SECS_MIN: u64 = 10;
const REPORT_SECS_MAX: u64 = 60;

/// How it stands (pure: times and chance come in).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Readoption {
    /// The server knows this host, as far as it has said.
    NotNeeded,
    Due {
        at: Instant,
        /// The last wish was signed with a time that the server did not like.
        skewed: bool,
    },
    Pending {
        code: String,
        /// Between reports, which show that the person has said yes.
        report: Duration,
        again: Instant,
    },
    Denied {
        cause: String,
        again: Instant,
    },
}

/// What came of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    Pending {
        code: String,
        retry_s: u64,
    },
    Known,
    Skewed {
        server: Time,
    },
    Denied {
        cause: String,
    },
    /// `after`: what the server asks for.
    Nothing {
        after: Option<Duration>,
    },
}

impl Readoption {
    /// A report was answered by a server that does not know this host. `random`: from 0 to 1.
    pub(super) fn forgotten(self, now: Instant, random: f64) -> Self {
        match self {
            Self::NotNeeded => Self::Due { at: now + FIRST + FIRST_SPREAD.mul_f64(random), skewed: false },
            known @ (Self::Due { .. } | Self::Pending { .. } | Self::Denied { .. }) => known,
        }
    }

    /// `random`: from 0 to 1.
    pub(super) fn heard(self, heard: Heard, now: Instant, random: f64) -> Self {
        let again = now + BETWEEN;
        match heard {
            Heard::Pending { code, retry_s } => {
                let report = Duration::from_secs(retry_s.clamp(REPORT_SECS_MIN, REPORT_SECS_MAX));
                Self::Pending { code, report, again }
            }
            // The next report, which comes at once, ends this.
            Heard::Known => Self::Denied { cause: "it says that it knows this host".to_owned(), again },
            Heard::Skewed { .. } if !matches!(self, Self::Due { skewed: true, .. }) => {
                Self::Due { at: now + AT_ONCE, skewed: true }
            }
            Heard::Skewed { server } => Self::Denied { cause: format!("its clock says {server}"), again },
            Heard::Denied { cause } => Self::Denied { cause, again },
            Heard::Nothing { after } => {
                let at = now + after.unwrap_or_default().clamp(UNHEARD, UNHEARD_MAX) + UNHEARD_SPREAD.mul_f64(random);
                match self {
                    Self::Pending { code, report, .. } => Self::Pending { code, report, again: at },
                    Self::NotNeeded | Self::Due { .. } | Self::Denied { .. } => Self::Due { at, skewed: false },
                }
            }
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        match self {
            Self::NotNeeded => None,
            Self::Due { at, .. } => Some(*at),
            Self::Pending { again, .. } | Self::Denied { again, .. } => Some(*again),
        }
    }

    /// The next report is not to be later than that.
    pub(super) fn report_within(&self) -> Option<Duration> {
        match self {
            Self::Pending { report, .. } => Some(*report),
            Self::NotNeeded | Self::Due { .. } | Self::Denied { .. } => None,
        }
    }

    pub(super) fn told(&self) -> Option<api::Readoption> {
        match self {
            Self::NotNeeded => None,
            Self::Due { .. } => Some(api::Readoption::Due),
            Self::Pending { code, .. } => Some(api::Readoption::Pending { code: code.clone() }),
            Self::Denied { cause, .. } => Some(api::Readoption::Denied { cause: cause.clone() }),
        }
    }
}

/// Asks when it is time to.
pub(super) struct Asker {
    client: Client,
    identity: Arc<Identity>,
    pub(super) state: Readoption,
    asking: Option<BoxFuture<'static, Result<Answer, NoAnswer>>>,
}

impl Asker {
    pub(super) fn new(client: Client, identity: Arc<Identity>) -> Self {
        Self { client, identity, state: Readoption::NotNeeded, asking: None }
    }

    pub(super) fn forgotten(&mut self, now: Instant, random: f64) {
        let state = std::mem::replace(&mut self.state, Readoption::NotNeeded);
        self.state = state.forgotten(now, random);
    }

    /// The server has answered as one that knows this host.
    pub(super) fn known(&mut self) {
        (self.state, self.asking) = (Readoption::NotNeeded, None);
    }

    pub(super) fn hear(&mut self, heard: Heard, now: Instant, random: f64) {
        let state = std::mem::replace(&mut self.state, Readoption::NotNeeded);
        self.state = state.heard(heard, now, random);
    }

    /// Waits until it is time, then for the answer; for ever where nothing is to be asked. Dropped and called again, it goes
    /// on where it was.
    pub(super) async fn next(&mut self, offset_s: i64) -> Heard {
        let Some(at) = self.state.next() else { return std::future::pending().await };
        if self.asking.is_none() {
            sleep_until(at).await;
        }
        let (client, identity) = (&self.client, &self.identity);
        let asking = self.asking.get_or_insert_with(|| ask(client.clone(), Arc::clone(identity), offset_s));
        let answer = asking.await;
        self.asking = None;
        read(&answer, &self.identity)
    }
}

fn ask(client: Client, identity: Arc<Identity>, offset_s: i64) -> BoxFuture<'static, Result<Answer, NoAnswer>> {
    Box::pin(async move {
        let applicant = Applicant { name: identity.name.clone(), labels: Default::default() };
        let wish = wish(&identity.stack, &identity.key, applicant, Some(identity.receipt.clone()));
        let call = Call {
            method: Method::POST,
            path: "/v1/enroll",
            body: serde_json::to_vec(&wish).expect("an enrolment is plain JSON"),
            headers: Vec::new(),
            bytes_max: ENROLLED_BYTES_MAX,
            limit: CALL_LIMIT,
        };
        let signer = host_signer(identity.host.as_str(), &identity.key);
        client.send(call, unix_secs().saturating_add_signed(offset_s), &[signer]).await
    })
}

/// What a server says here is believed for a line in status, and for nothing else: roots are those of the first joining.
fn read(answer: &Result<Answer, NoAnswer>, identity: &Identity) -> Heard {
    let Ok(answer) = answer else { return Heard::Nothing { after: None } };
    let denied = |cause: &str| Heard::Denied { cause: cause.to_owned() };
    match answer.status {
        200 | 201 => match serde_json::from_slice::<Enrolled>(&answer.body) {
            Ok(enrolled) if enrolled.host == identity.host => Heard::Known,
            Ok(_) => denied("it took this host for another"),
            Err(_) => denied("its answer cannot be read"),
        },
        202 => match serde_json::from_slice::<Pending>(&answer.body) {
            Ok(pending) => Heard::Pending { code: shown_code(&pending.code), retry_s: pending.retry_s },
            Err(_) => denied("its answer cannot be read"),
        },
        429 | 500.. => Heard::Nothing { after: answer.retry_after },
        status => {
            let problem = answer.problem();
            let time = || serde_json::from_value(problem.as_ref()?.extra.get("time")?.clone()).ok();
            match (problem.as_ref().and_then(Problem::slug), time()) {
                (Some(Slug::ClockSkew), Some(server)) => Heard::Skewed { server },
                _ => Heard::Denied { cause: step::cause(status, problem.as_ref()) },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(retry_s: u64) -> Heard {
        Heard::Pending { code: "WXQR-4821".into(), retry_s }
    }

    #[tokio::test]
    async fn a_forgotten_host_asks_after_a_while_and_then_seldom() {
        let now = Instant::now();
        assert_eq!((Readoption::NotNeeded.next(), Readoption::NotNeeded.told()), (None, None));
        for (random, secs) in [(0.0, 30), (1.0, 60)] {
            let due = Readoption::NotNeeded.forgotten(now, random);
            assert_eq!(due.next(), Some(now + Duration::from_secs(secs)));
            // Every report is refused meanwhile; none of them puts it off.
            assert_eq!(due.clone().forgotten(now + Duration::from_secs(20), 1.0), due);
        }
        let due = Readoption::NotNeeded.forgotten(now, 0.5);
        for heard in [pending(5), Heard::Denied { cause: "no".into() }, Heard::Known] {
            assert_eq!(due.clone().heard(heard, now, 0.5).next(), Some(now + BETWEEN));
        }
        let secs = Duration::from_secs;
        for (asked, random, waits) in [
            (None, 0.0, secs(60)),
            (None, 1.0, secs(120)),
            (Some(secs(2)), 0.5, secs(90)),
            (Some(secs(600)), 0.5, secs(630)),
            (Some(Duration::MAX), 1.0, secs(3_660)),
        ] {
            let next = due.clone().heard(Heard::Nothing { after: asked }, now, random).next();
            assert_eq!(next, Some(now + waits), "{asked:?} {random}");
        }
    }

    /// All of a fleet, behind one address, at a server that takes 300 at once and then five a second.
    #[tokio::test]
    async fn a_thousand_hosts_are_heard_within_minutes_after_the_server_is_back() {
        const BURST: f64 = 300.0;
        const PER_SEC: f64 = 5.0;
        let (start, mut random) = (Instant::now(), fastrand::Rng::with_seed(7));
        let back = start + Duration::from_secs(3_600);
        let mut fleet: Vec<Readoption> =
            (0..1_000).map(|_| Readoption::NotNeeded.forgotten(start, random.f64())).collect();
        let (mut left, mut now, mut heard, mut asked) = (BURST, start, 0, 0);
        while heard < fleet.len() {
            let (host, at) = fleet
                .iter()
                .enumerate()
                .filter(|(_, state)| matches!(state, Readoption::Due { .. }))
                .map(|(host, state)| (host, state.next().unwrap()))
                .min_by_key(|(_, at)| *at)
                .unwrap();
            left = (left + (at - now).as_secs_f64() * PER_SEC).min(BURST);
            now = at;
            let answer = if now < back {
                Heard::Nothing { after: None }
            } else if left < 1.0 {
                Heard::Nothing { after: Some(Duration::from_secs(1)) }
            } else {
                (left, heard) = (left - 1.0, heard + 1);
                pending(5)
            };
            asked += usize::from(now >= back);
            fleet[host] = fleet[host].clone().heard(answer, now, random.f64());
        }
        let took = now - back;
        assert!(took < Duration::from_secs(5 * 60), "{took:?}");
        assert!(asked < 3_000, "{asked}");
    }

    #[tokio::test]
    async fn while_a_person_is_asked_reports_go_on_and_the_code_stays() {
        let now = Instant::now();
        let due = Readoption::NotNeeded.forgotten(now, 0.5);
        for (retry_s, secs) in [(0, 10), (20, 20), (u64::MAX, 60)] {
            let waits = due.clone().heard(pending(retry_s), now, 0.5);
            assert_eq!(waits.report_within(), Some(Duration::from_secs(secs)));
            let told = Some(api::Readoption::Pending { code: "WXQR-4821".into() });
            assert_eq!(
                (waits.told(), waits.heard(Heard::Nothing { after: None }, now, 0.5).told()),
                (told.clone(), told)
            );
        }
        assert_eq!(due.report_within(), None);
    }

    #[tokio::test]
    async fn a_clock_that_is_wrong_is_tried_once_with_the_servers() {
        let (now, server) = (Instant::now(), Time::from_unix_secs(1_788_264_000));
        let due = Readoption::NotNeeded.forgotten(now, 0.5);
        let again = due.heard(Heard::Skewed { server }, now, 0.5);
        assert_eq!(again.next(), Some(now + AT_ONCE));
        let denied = again.heard(Heard::Skewed { server }, now, 0.5);
        assert!(matches!(&denied, Readoption::Denied { cause, .. } if cause.contains("2026")), "{denied:?}");
    }
}
