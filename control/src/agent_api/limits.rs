//! How often one source, and one token, may try to enrol: signatures are cheap to send and cost us an elliptic curve each.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_protocol::control::ids::TokenId;

use crate::core::Error;
use crate::limit::{Bucket, Limits, Rate, Wait, step};

/// Of one network. Loopback is not counted: a reverse proxy is there, and all hosts come through it.
const PER_NETWORK: Rate = Rate { burst: 30, refill_ms: 2_000 };
/// Of all: what one core verifies in a fraction of its time.
const OF_ALL: Rate = Rate { burst: 3_000, refill_ms: 20 };
/// With one token, by who has it: a host that waits for its approval asks every five seconds.
const PER_TOKEN: Rate = Rate { burst: 20, refill_ms: 3_000 };

#[derive(Debug, Clone)]
pub(super) struct Enrolments(Arc<Mutex<Buckets>>);

#[derive(Debug)]
struct Buckets {
    all: Bucket,
    by_network: Limits<IpAddr>,
    by_token: Limits<TokenId>,
}

impl Enrolments {
    pub(super) fn new() -> Self {
        let (by_network, by_token) = (Limits::new(PER_NETWORK), Limits::new(PER_TOKEN));
        Self(Arc::new(Mutex::new(Buckets { all: Bucket::default(), by_network, by_token })))
    }

    /// Before any signature is looked at.
    pub(super) fn check(&self, source: Option<IpAddr>, now_ms: u64) -> Result<(), Error> {
        let mut buckets = self.buckets();
        // First its own: who is over it takes nothing from the others.
        if let Some(source) = source.filter(|source| !source.to_canonical().is_loopback()) {
            buckets.by_network.take(network(source), now_ms).map_err(limited)?;
        }
        let (all, answer) = step(buckets.all, OF_ALL, 1, now_ms);
        buckets.all = all;
        answer.map_err(limited)
    }

    /// After its signature was found right.
    pub(super) fn check_token(&self, token: &TokenId, now_ms: u64) -> Result<(), Error> {
        self.buckets().by_token.take(token.clone(), now_ms).map_err(limited)
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        // A panic while it was held left whole numbers.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn limited(wait: Wait) -> Error {
    Error::RateLimited { retry_s: wait.secs() }
}

/// /24 and /56: what one customer of a network has.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            [a, b, c, 0].into()
        }
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[7..].fill(0);
            octets.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_is_slowed_and_others_are_not() {
        let limits = Enrolments::new();
        let check = |text: &str, at_s: u64| limits.check(text.parse().ok(), at_s * 1_000);
        for host in 0..30 {
            assert!(check(&format!("203.0.113.{host}"), 100).is_ok());
        }
        assert!(matches!(check("203.0.113.200", 100), Err(Error::RateLimited { retry_s: 2 })));
        assert!(check("198.51.100.1", 100).is_ok() && check("127.0.0.1", 100).is_ok());
        assert!(check("203.0.113.200", 102).is_ok() && check("::ffff:203.0.113.201", 102).is_err());
    }

    #[test]
    fn one_token_is_tried_a_few_times() {
        let (limits, token) = (Enrolments::new(), |text: &str| TokenId::new(text).unwrap());
        let (mine, other) = (token("adt_aaaaaaaa"), token("adt_bbbbbbbb"));
        let tries = (0..100).filter(|_| limits.check_token(&mine, 1_000).is_ok()).count();
        assert_eq!(tries, 20);
        assert!(limits.check_token(&other, 1_000).is_ok());
        // Waiting for a person at the pace that hosts are told never meets it.
        let waits = (1..=500).filter(|turn| limits.check_token(&other, 1_000 + turn * 5_000).is_ok()).count();
        assert_eq!(waits, 500);
    }
}
