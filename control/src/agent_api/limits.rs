//! How often one source, and one token, may try to enrol: signatures are cheap to send and cost us an elliptic curve each.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_protocol::control::ids::TokenId;
use agentd_protocol::control::key::PublicKey;

use crate::core::Error;
use crate::limit::{Bucket, Limits, Rate, Wait, step};

/// Of one network: a fleet behind one address that joins, or is to be taken back, at once; a thousand hosts in some minutes.
/// Loopback is not counted: a reverse proxy is there, and all hosts come through it.
const PER_NETWORK: Rate = Rate { burst: 300, refill_ms: 200 };
/// Of all: what one core verifies in a fraction of its time.
const OF_ALL: Rate = Rate { burst: 3_000, refill_ms: 20 };
/// With one token, by who has it: a host that waits for its approval asks every five seconds.
const PER_TOKEN: Rate = Rate { burst: 20, refill_ms: 3_000 };
/// Of one host that waits for a person: asks that its network does not pay for.
const PER_WAITING: Rate = PER_TOKEN;

#[derive(Debug, Clone)]
pub(super) struct Enrolments(Arc<Mutex<Buckets>>);

#[derive(Debug)]
struct Buckets {
    all: Bucket,
    by_network: Limits<IpAddr>,
    by_token: Limits<TokenId>,
    by_waiting: Limits<[u8; 32]>,
}

impl Enrolments {
    pub(super) fn new() -> Self {
        let buckets = Buckets {
            all: Bucket::default(),
            by_network: Limits::new(PER_NETWORK),
            by_token: Limits::new(PER_TOKEN),
            by_waiting: Limits::new(PER_WAITING),
        };
        Self(Arc::new(Mutex::new(buckets)))
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

    /// After it was found that the host with this key waits for a person: hosts that do take nothing from their neighbours,
    /// however many they are.
    pub(super) fn give_back(&self, source: Option<IpAddr>, waiting: &PublicKey, now_ms: u64) {
        let Some(source) = source else { return };
        let mut buckets = self.buckets();
        if buckets.by_waiting.take(*waiting.as_bytes(), now_ms).is_ok() {
            buckets.by_network.give_back(&network(source));
        }
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
    use agentd_protocol::control::key::SecretKey;

    use super::*;

    #[test]
    fn one_network_is_slowed_and_others_are_not() {
        let limits = Enrolments::new();
        let check = |text: &str, at_s: u64| limits.check(text.parse().ok(), at_s * 1_000);
        for host in 0..300 {
            assert!(check(&format!("203.0.113.{}", host % 200), 100).is_ok());
        }
        assert!(matches!(check("203.0.113.200", 100), Err(Error::RateLimited { retry_s: 1 })));
        assert!(check("198.51.100.1", 100).is_ok() && check("127.0.0.1", 100).is_ok());
        for _ in 0..5 {
            assert!(check("203.0.113.200", 101).is_ok());
        }
        assert!(check("::ffff:203.0.113.201", 101).is_err());
    }

    fn key(host: u16) -> PublicKey {
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&host.to_be_bytes());
        SecretKey::from_seed(&seed).public()
    }

    /// For an hour every host asks every five seconds, as it is told; two hundred more join when it is half over.
    #[test]
    fn a_hundred_hosts_that_wait_behind_one_address_take_nothing_from_those_who_join() {
        let (limits, address) = (Enrolments::new(), "203.0.113.7".parse().ok());
        let waiting: Vec<PublicKey> = (0..100).map(key).collect();
        for at_ms in (0..3_600_000).step_by(5_000) {
            for host in &waiting {
                assert!(limits.check(address, at_ms).is_ok(), "{at_ms} ms");
                limits.give_back(address, host, at_ms);
            }
            let join = if at_ms == 1_800_000 { 200 } else { 0 };
            assert!((0..join).all(|_| limits.check(address, at_ms).is_ok()));
        }
        // One that asks in a flood is paid for by its network, as before.
        let flood = (0..10_000).take_while(|_| {
            let is_taken = limits.check(address, 4_000_000).is_ok();
            limits.give_back(address, &waiting[0], 4_000_000);
            is_taken
        });
        assert_eq!(flood.count(), 320);
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
