//! Joining: the join string to an identity, which the caller then puts on disk.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::enroll::{Enroll, Enrolled, NAME_BYTES_MAX, Pending};
use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::join::JoinString;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::problem::{Problem, Slug};
use agentd_protocol::control::request::{HOST_LABEL, NEW_HOST_KEYID, Signer, TOKEN_LABEL};
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::{Refused, TrustRecord};
use agentd_protocol::control::{ANSWER_BYTES_MAX, CAPABILITY, FEATURES, ROOT_BYTES_MAX};
use reqwest::Method;

use super::client::{Answer, CALL_LIMIT, Call, Client};
use super::{ClientError, Identity, NoAnswer, Reach, identity, snapshot, step, unix_secs};

/// How long a person has to say yes; the same command waits on.
pub const APPROVAL_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Between two questions, whatever the server says.
const RETRY_SECS_MIN: u64 = 1;
const RETRY_SECS_MAX: u64 = 60;
/// The answer carries the chain of roots.
pub(super) const ENROLLED_BYTES_MAX: usize = ANSWER_BYTES_MAX + 16 * ROOT_BYTES_MAX;
/// In a row, of a server that says "later": three minutes at least, in which a hundred hosts behind one address get through.
const LATER_MAX: u32 = 8;
/// First pause after one; doubles.
const LATER_BASE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{url} does not answer; is the address right, and may this host connect to it?")]
    Unreachable {
        url: String,
        #[source]
        source: NoAnswer,
    },
    #[error("the token has expired (it held until {0}); make another on the control server, and join with that")]
    Expired(Time),
    #[error(
        "the token was used before, by another host than this one; if nobody of yours did that, somebody has seen it: look \
         at the control server's audit. Make another, and join with that"
    )]
    Used,
    #[error("the control server does not know the token, or took it back; make another, and join with that")]
    Unknown,
    #[error(
        "the clocks of this host and of the control server differ ({host} here, {server} there); set the wrong one"
    )]
    Skewed { host: Time, server: Time },
    #[error("the control server does not take this host in: {0}")]
    Refused(String),
    #[error("{url} is not the control server that the join string was made by")]
    OtherServer {
        url: String,
        #[source]
        source: Refused,
    },
    #[error("{0} gives an answer that this agentd does not understand; is it of a later version?")]
    Unreadable(String),
    #[error("nobody has said yes to code {code} within {} min; the same command waits on", APPROVAL_LIMIT.as_secs() / 60)]
    NotApproved { code: String },
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Applicant {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// What a person is shown meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// To be compared with what the control server shows.
    Code(String),
    Later {
        cause: String,
        after: Duration,
    },
}

/// Asks until the server says yes or no. `key` is on disk already.
pub async fn join(
    joining: &JoinString,
    reach: Reach,
    key: SecretKey,
    applicant: Applicant,
    mut show: impl FnMut(Progress),
) -> Result<Identity, JoinError> {
    let client = Client::new(&reach)?;
    let (began, mut shown, mut later, mut offset_s) = (Instant::now(), None, 0, 0);
    loop {
        let answer = ask(&client, joining, &key, &applicant, offset_s).await;
        let answer = answer.map_err(|source| JoinError::Unreachable { url: reach.url.clone(), source })?;
        match read(&answer, joining, &reach.url)? {
            Heard::Yes(enrolled) => {
                // Before anything is kept: another server, authority or proxy cannot put its own root in the place.
                TrustRecord::begin(&joining.stack, &joining.root, &enrolled.roots)
                    .map_err(|source| JoinError::OtherServer { url: reach.url.clone(), source })?;
                return Ok(Identity::new(joining, reach, key, *enrolled));
            }
            Heard::Wait { code, after } => {
                later = 0;
                if shown.as_ref() != Some(&code) {
                    show(Progress::Code(code.clone()));
                    shown = Some(code.clone());
                }
                if began.elapsed() >= APPROVAL_LIMIT {
                    return Err(JoinError::NotApproved { code });
                }
                tokio::time::sleep(apart(after, fastrand::f64())).await;
            }
            Heard::Clock(server) => {
                let host = Time::from_unix_secs(i64::try_from(unix_secs()).unwrap_or(i64::MAX));
                if offset_s != 0 {
                    return Err(JoinError::Skewed { host, server });
                }
                offset_s = server.unix_secs().saturating_sub(host.unix_secs());
            }
            Heard::Later { cause, asked } => {
                later += 1;
                if later > LATER_MAX {
                    return Err(JoinError::Refused(cause));
                }
                let after = later_after(later, asked, fastrand::f64());
                show(Progress::Later { cause, after });
                tokio::time::sleep(after).await;
            }
        }
    }
}

/// Never sooner than the server asks for, up to [`RETRY_SECS_MAX`] and half as much again.
fn later_after(times: u32, asked: Option<Duration>, random: f64) -> Duration {
    let back_off = LATER_BASE.saturating_mul(1 << (times.clamp(1, 16) - 1));
    apart(asked.unwrap_or_default().max(back_off).min(Duration::from_secs(RETRY_SECS_MAX)), random)
}

/// Hosts that were answered at once come back apart. `random`: from 0 to 1.
fn apart(after: Duration, random: f64) -> Duration {
    after.mul_f64(1.0 + random / 2.0)
}

/// What a host says of itself that wants to be taken in, or back.
pub(super) fn wish(stack: &StackId, key: &SecretKey, applicant: Applicant, receipt: Option<Envelope>) -> Enroll {
    let Applicant { mut name, labels } = applicant;
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    Enroll {
        stack: stack.clone(),
        key: key.public(),
        name,
        machine: identity::machine_of(stack),
        os: snapshot::os(),
        arch: std::env::consts::ARCH.to_owned(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        cap: CAPABILITY,
        features: FEATURES.map(str::to_owned).to_vec(),
        labels,
        receipt,
    }
}

async fn ask(
    client: &Client,
    joining: &JoinString,
    key: &SecretKey,
    applicant: &Applicant,
    offset_s: i64,
) -> Result<Answer, NoAnswer> {
    let enroll = wish(&joining.stack, key, applicant.clone(), None);
    let call = Call {
        method: Method::POST,
        path: "/v1/enroll",
        body: serde_json::to_vec(&enroll).expect("an enrolment is plain JSON"),
        headers: Vec::new(),
        bytes_max: ENROLLED_BYTES_MAX,
        limit: CALL_LIMIT,
    };
    let signers = [
        Signer { label: TOKEN_LABEL, keyid: joining.token.as_str(), key: &joining.key },
        Signer { label: HOST_LABEL, keyid: NEW_HOST_KEYID, key },
    ];
    client.send(call, unix_secs().saturating_add_signed(offset_s), &signers).await
}

/// Somebody else's words go to a terminal.
pub(super) fn shown_code(code: &str) -> String {
    code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(20).collect()
}

#[derive(Debug)]
pub(super) enum Heard {
    Yes(Box<Enrolled>),
    Wait { code: String, after: Duration },
    Clock(Time),
    Later { cause: String, asked: Option<Duration> },
}

pub(super) fn read(answer: &Answer, joining: &JoinString, url: &str) -> Result<Heard, JoinError> {
    let unreadable = || JoinError::Unreadable(url.to_owned());
    match answer.status {
        200 | 201 => {
            let enrolled: Enrolled = serde_json::from_slice(&answer.body).map_err(|_| unreadable())?;
            return Ok(Heard::Yes(Box::new(enrolled)));
        }
        202 => {
            let pending: Pending = serde_json::from_slice(&answer.body).map_err(|_| unreadable())?;
            let after = Duration::from_secs(pending.retry_s.clamp(RETRY_SECS_MIN, RETRY_SECS_MAX));
            return Ok(Heard::Wait { code: shown_code(&pending.code), after });
        }
        _ => {}
    }
    let problem = answer.problem();
    let cause = step::cause(answer.status, problem.as_ref());
    let time = || serde_json::from_value(problem.as_ref()?.extra.get("time")?.clone()).ok();
    match problem.as_ref().and_then(Problem::slug) {
        Some(Slug::TokenExpired) => Err(JoinError::Expired(joining.expires)),
        Some(Slug::TokenUsed) => Err(JoinError::Used),
        Some(Slug::TokenInvalid) => Err(JoinError::Unknown),
        Some(Slug::ClockSkew) => time().map(Heard::Clock).ok_or(JoinError::Refused(cause)),
        _ => match answer.status {
            429 | 500.. => Ok(Heard::Later { cause, asked: answer.retry_after }),
            _ => Err(JoinError::Refused(cause)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_is_never_shorter_than_asked_for_and_never_without_end() {
        let secs = Duration::from_secs;
        assert_eq!(later_after(1, None, 0.0), secs(1));
        assert_eq!(later_after(1, Some(secs(7)), 0.0), secs(7));
        assert_eq!(later_after(4, Some(secs(2)), 0.5), secs(10));
        for times in [0, LATER_MAX, u32::MAX] {
            assert!(later_after(times, Some(Duration::MAX), 1.0) <= secs(RETRY_SECS_MAX * 3 / 2));
        }
    }

    /// At a server that takes 30 at once and then one every two seconds, which says so: everybody is heard before he gives up.
    #[test]
    fn a_hundred_hosts_behind_one_address_all_get_in() {
        const BURST: f64 = 30.0;
        const REFILL_MS: f64 = 2_000.0;
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            // (when it asks, how often it was told "later")
            let mut asks: std::collections::BTreeSet<(u64, usize, u32)> = (0..100).map(|host| (0, host, 0)).collect();
            let (mut left, mut last_ms) = (BURST, 0);
            while let Some((at_ms, host, times)) = asks.pop_first() {
                left = (left + Duration::from_millis(at_ms - last_ms).as_secs_f64() * 1_000.0 / REFILL_MS).min(BURST);
                last_ms = at_ms;
                if left >= 1.0 {
                    left -= 1.0;
                    continue;
                }
                assert!(times < LATER_MAX, "seed {seed}: host {host} gave up after {at_ms} ms");
                let after = later_after(times + 1, Some(Duration::from_secs(2)), random.f64());
                asks.insert((at_ms + u64::try_from(after.as_millis()).unwrap(), host, times + 1));
            }
            assert!(last_ms < 280_000, "{last_ms}");
        }
    }
}
