//! What people are told of the control server (pure), and what is worth an event.

use agentd_protocol::api::{ControlLink, ControlStatus, What};
use agentd_protocol::control::report::{OutboxReport, Refusal};
use agentd_protocol::control::time::Time;
use agentd_protocol::ids::Version;

use super::Identity;
use super::fetch::VIOLATION;
use super::step::Outcome;

pub(super) fn first(identity: &Identity, now_unix_ms: u64, refused: Option<Refusal>) -> ControlStatus {
    ControlStatus {
        url: identity.reach.url.clone(),
        stack: identity.stack.clone(),
        stack_name: identity.stack_name.clone(),
        host: identity.host.clone(),
        name: identity.name.clone(),
        link: ControlLink::Connecting,
        since_unix_ms: now_unix_ms,
        last_answer_unix_ms: None,
        newest: None,
        applied: None,
        fresh_until_unix_ms: None,
        refused,
        outbox: OutboxReport::default(),
        clock_skew_ms: 0,
        held: None,
        readoption: None,
    }
}

/// What an answer makes of the link; `None`: it stays as it is.
pub(super) fn link(outcome: &Outcome) -> Option<ControlLink> {
    match outcome {
        Outcome::Taken { .. } => Some(ControlLink::Connected),
        Outcome::Later { cause, .. } => Some(ControlLink::Offline { cause: cause.clone() }),
        Outcome::Refused { cause } | Outcome::Forgotten { cause } => {
            Some(ControlLink::Refused { cause: cause.clone() })
        }
        Outcome::Skewed { .. } | Outcome::Regressed { .. } | Outcome::Gap { .. } | Outcome::TooLarge => None,
    }
}

/// A change of kind is told, another cause of the same is not.
pub(super) fn told(before: &ControlLink, after: &ControlLink) -> Option<What> {
    if std::mem::discriminant(before) == std::mem::discriminant(after) {
        return None;
    }
    match after {
        ControlLink::Connecting => None,
        ControlLink::Connected => Some(What::ControlConnected {}),
        ControlLink::Offline { cause } => Some(What::ControlLost { cause: cause.clone() }),
        ControlLink::Refused { cause } => Some(What::ControlRefused { cause: cause.clone() }),
    }
}

/// The refusal as it stands now, and whether it is another one than before.
pub(super) fn refusal(
    before: Option<&Refusal>,
    version: Option<Version>,
    kind: &str,
    reasons: &[String],
    now_unix_ms: u64,
) -> (Refusal, bool) {
    let same = before.filter(|known| known.version == version && known.kind == kind && known.reasons == reasons);
    let since_unix_ms = same.map_or(now_unix_ms, |known| known.since_unix_ms);
    let refusal = Refusal { version, kind: kind.to_owned(), reasons: reasons.to_vec(), since_unix_ms };
    (refusal, same.is_none())
}

pub(super) fn event(refusal: &Refusal) -> What {
    let named = refusal.version.map(|version| format!("version {version}: ")).unwrap_or_default();
    let text = format!("{named}{}", refusal.reasons.join("; "));
    if refusal.kind == VIOLATION {
        What::TrustViolation { reason: text }
    } else {
        What::ConfigRejected { problem: text }
    }
}

pub(super) fn fresh_until(time: Time) -> Option<u64> {
    u64::try_from(time.unix_secs()).ok().filter(|secs| *secs > 0).map(|secs| secs.saturating_mul(1_000))
}

pub(super) fn skew_ms(server: Time, now_unix_ms: u64) -> i64 {
    let now = i64::try_from(now_unix_ms).unwrap_or(i64::MAX);
    let skew = server.unix_secs().saturating_mul(1_000).saturating_sub(now);
    // The server tells whole seconds.
    if skew.unsigned_abs() < 2_000 { 0 } else { skew }
}
