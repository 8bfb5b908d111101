//! How often somebody may do something: buckets that fill with time (pure), and a bounded table of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

/// A bucket holds `burst` units and gets one back every `refill_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) refill_ms: u64,
}

/// Sources remembered at once; beyond it strangers share one bucket.
const KEYS_MAX: usize = 10_000;

/// When the bucket will be full again, Unix time; anything before now: it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bucket {
    full_at_ms: u64,
}

/// Not now: wait so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) ms: u64,
}

impl Wait {
    /// For `Retry-After`.
    pub(crate) fn secs(self) -> u64 {
        self.ms.div_ceil(1_000).max(1)
    }
}

/// Takes `units`, or says how long until there are as many; a refusal costs nothing. More than the whole bucket holds
/// counts as the whole bucket.
pub(crate) fn step(bucket: Bucket, rate: Rate, units: u64, now_ms: u64) -> (Bucket, Result<(), Wait>) {
    let room_ms = u64::from(rate.burst) * rate.refill_ms;
    // A clock that was set back must not lock anybody out for longer than an empty bucket does.
    let full_at_ms = bucket.full_at_ms.clamp(now_ms, now_ms.saturating_add(room_ms));
    let after_ms = full_at_ms.saturating_add(units.saturating_mul(rate.refill_ms).min(room_ms));
    let over_ms = after_ms.saturating_sub(now_ms.saturating_add(room_ms));
    if over_ms == 0 {
        (Bucket { full_at_ms: after_ms }, Ok(()))
    } else {
        (Bucket { full_at_ms }, Err(Wait { ms: over_ms }))
    }
}

/// Whom a bucket belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source([u8; 16]);

impl Source {
    /// One IPv4 address; of IPv6 the network a household or a server has (/64).
    pub(crate) fn of(address: IpAddr) -> Self {
        let mut bytes = match address.to_canonical() {
            IpAddr::V4(four) => return Self(four.to_ipv6_mapped().octets()),
            IpAddr::V6(six) => six.octets(),
        };
        bytes[8..].fill(0);
        Self(bytes)
    }
}

#[derive(Debug)]
pub(crate) struct Limits<K> {
    rate: Rate,
    buckets: HashMap<K, Bucket>,
    /// Of everybody who does not fit in.
    rest: Bucket,
}

impl<K: Eq + Hash> Limits<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, buckets: HashMap::new(), rest: Bucket::default() }
    }

    pub(crate) fn take(&mut self, key: K, now_ms: u64) -> Result<(), Wait> {
        if self.buckets.len() >= KEYS_MAX && !self.buckets.contains_key(&key) {
            self.buckets.retain(|_, bucket| bucket.full_at_ms > now_ms);
        }
        let is_full = self.buckets.len() >= KEYS_MAX && !self.buckets.contains_key(&key);
        let bucket = if is_full { &mut self.rest } else { self.buckets.entry(key).or_default() };
        let (next, answer) = step(*bucket, self.rate, 1, now_ms);
        *bucket = next;
        answer
    }

    /// A try that was right: it was nobody's guess.
    pub(crate) fn give_back(&mut self, key: &K) {
        if let Some(bucket) = self.buckets.get_mut(key) {
            bucket.full_at_ms = bucket.full_at_ms.saturating_sub(self.rate.refill_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, refill_ms: 1_000 };

    #[test]
    fn a_bucket_empties_and_fills() {
        let mut limits = Limits::new(RATE);
        let tries: Vec<bool> = (0..5).map(|_| limits.take("a", 10_000).is_ok()).collect();
        assert_eq!(tries, [true, true, true, false, false]);
        assert_eq!(limits.take("a", 10_400), Err(Wait { ms: 600 }));
        assert_eq!(limits.take("b", 10_400), Ok(()), "another key has its own");
        assert_eq!(limits.take("a", 11_000), Ok(()));
        assert!(limits.take("a", 11_000).is_err());
        limits.give_back(&"a");
        assert_eq!(limits.take("a", 11_000), Ok(()));
        assert_eq!(limits.take("a", 0), Err(Wait { ms: 1_000 }), "a clock set back costs one refill, not days");
        assert_eq!((Wait { ms: 1 }.secs(), Wait { ms: 1_001 }.secs()), (1, 2));
    }

    #[test]
    fn many_units_are_one_try() {
        let begin = Bucket::default();
        let (after, first) = step(begin, RATE, 2, 10_000);
        let (same, second) = step(after, RATE, 2, 10_000);
        assert_eq!((first, second, same), (Ok(()), Err(Wait { ms: 1_000 }), after));
        assert_eq!(
            step(begin, RATE, u64::MAX, 10_000).1,
            Ok(()),
            "what never fits waits for a full bucket, not for ever"
        );
        assert_eq!(step(after, RATE, u64::MAX, 10_000).1, Err(Wait { ms: 2_000 }));
    }

    #[test]
    fn strangers_beyond_the_table_share_a_bucket() {
        let mut limits = Limits::new(RATE);
        for key in 0..KEYS_MAX {
            assert_eq!(limits.take(key, 5_000), Ok(()));
        }
        let more: Vec<bool> = (KEYS_MAX..KEYS_MAX + 4).map(|key| limits.take(key, 5_000).is_ok()).collect();
        assert_eq!(more, [true, true, true, false]);
        assert_eq!(limits.buckets.len(), KEYS_MAX);
        assert_eq!(limits.take(KEYS_MAX + 9, 9_000), Ok(()), "full buckets make room");
        assert_eq!(limits.buckets.len(), 1);
    }

    #[test]
    fn a_source_is_an_address_or_a_network() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
