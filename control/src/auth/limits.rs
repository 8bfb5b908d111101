//! How often somebody may try to come in. What strangers do never keeps out who came in from where he is.

use std::collections::HashMap;

use agentd_protocol::digest::Digest;

use crate::limit::{Limits, Rate, Source, Wait};

/// Wrong passwords of one account from one source: a typing person never meets it.
const FROM_SOURCE: Rate = Rate { burst: 10, refill_ms: 30_000 };
/// Wrong passwords of one account from everywhere strange: a net of many machines guesses 3,000 a day, which is nothing.
const FROM_STRANGERS: Rate = Rate { burst: 40, refill_ms: 30_000 };
/// Tries of one source, right or wrong.
const SOURCE: Rate = Rate { burst: 10, refill_ms: 10_000 };
/// Requests with a credential that is none, of one source.
const BAD_CREDENTIAL: Rate = Rate { burst: 60, refill_ms: 1_000 };
/// Old passwords asked for in one session.
const OLD_PASSWORD: Rate = Rate { burst: 10, refill_ms: 30_000 };
/// After a right password a source is known for so long: people come back after a month's holiday.
pub(super) const KNOWN_MS: u64 = 45 * 24 * 3_600 * 1_000;
/// One owner has few places; the longest unused one is forgotten.
pub(super) const KNOWN_MAX: usize = 200;

#[derive(Debug)]
pub(crate) struct Tries {
    /// Apart from the strangers', who may fill their tables with addresses that they have by the thousand.
    from_known: Limits<(Digest, Source)>,
    from_source: Limits<(Digest, Source)>,
    from_strangers: Limits<Digest>,
    by_source: Limits<Source>,
    bad_credentials: Limits<Source>,
    old_passwords: Limits<Digest>,
    /// When the right password was last sent from there.
    known: HashMap<(Digest, Source), u64>,
}

impl Tries {
    pub(crate) fn new() -> Self {
        Self {
            from_known: Limits::new(FROM_SOURCE),
            from_source: Limits::new(FROM_SOURCE),
            from_strangers: Limits::new(FROM_STRANGERS),
            by_source: Limits::new(SOURCE),
            bad_credentials: Limits::new(BAD_CREDENTIAL),
            old_passwords: Limits::new(OLD_PASSWORD),
            known: HashMap::new(),
        }
    }

    pub(crate) fn source(&mut self, source: Source, now_ms: u64) -> Result<(), Wait> {
        self.by_source.take(source, now_ms)
    }

    pub(crate) fn bad_credential(&mut self, source: Source, now_ms: u64) -> Result<(), Wait> {
        self.bad_credentials.take(source, now_ms)
    }

    pub(crate) fn old_password(&mut self, session: Digest, now_ms: u64) -> Result<(), Wait> {
        self.old_passwords.take(session, now_ms)
    }

    /// `has_session`: somebody who knows the password is logged in from there.
    pub(crate) fn login(
        &mut self,
        account: Digest,
        source: Source,
        has_session: bool,
        now_ms: u64,
    ) -> Result<(), Wait> {
        if has_session || self.is_known(account, source, now_ms) {
            return self.from_known.take((account, source), now_ms);
        }
        self.source(source, now_ms)?;
        self.from_source.take((account, source), now_ms)?;
        self.from_strangers.take(account, now_ms)
    }

    /// The password was right: it was nobody's guess.
    pub(crate) fn was_right(&mut self, account: Digest, source: Source, has_session: bool, now_ms: u64) {
        if has_session || self.is_known(account, source, now_ms) {
            self.from_known.give_back(&(account, source));
        } else {
            self.from_source.give_back(&(account, source));
            self.from_strangers.give_back(&account);
        }
        self.remember(account, source, now_ms);
    }

    /// The right password was sent from there then.
    pub(crate) fn remember(&mut self, account: Digest, source: Source, at_ms: u64) {
        if self.known.len() >= KNOWN_MAX
            && !self.known.contains_key(&(account, source))
            && let Some(oldest) = self.known.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key)
        {
            self.known.remove(&oldest);
        }
        self.known.insert((account, source), at_ms);
    }

    fn is_known(&self, account: Digest, source: Source, now_ms: u64) -> bool {
        self.known.get(&(account, source)).is_some_and(|at| now_ms.saturating_sub(*at) < KNOWN_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u16) -> Source {
        let [high, low] = number.to_be_bytes();
        Source::of([192, 0, high, low].into())
    }

    #[test]
    fn strangers_do_not_lock_the_owner_out() {
        let (mut tries, owner) = (Tries::new(), Digest::of(b"martha"));
        let home = source(0);
        tries.login(owner, home, false, 0).unwrap();
        tries.was_right(owner, home, false, 0);
        // A net of many machines, each a few guesses.
        let guesses = (1..=500).filter(|number| tries.login(owner, source(*number), false, 1_000).is_ok()).count();
        assert_eq!(guesses, 40, "all strangers together");
        assert!(tries.login(owner, source(600), false, 1_000).is_err());
        assert!(tries.login(owner, home, false, 1_000).is_ok(), "a place that the password came from");
        assert!(tries.login(owner, source(700), true, 1_000).is_ok(), "a place with a session");
        assert!(tries.login(Digest::of(b"another"), source(601), false, 1_000).is_ok());
    }

    #[test]
    fn one_stranger_is_stopped_before_he_costs_others_anything() {
        let (mut tries, owner) = (Tries::new(), Digest::of(b"martha"));
        let guesses = (0..100).filter(|_| tries.login(owner, source(1), false, 1_000).is_ok()).count();
        assert_eq!(guesses, 10);
        assert!(tries.login(owner, source(2), false, 1_000).is_ok());
    }

    #[test]
    fn one_place_has_few_guesses_though_it_is_known() {
        let (mut tries, owner, home) = (Tries::new(), Digest::of(b"martha"), source(0));
        tries.was_right(owner, home, false, 0);
        let guesses = (0..100).filter(|_| tries.login(owner, home, true, 1_000).is_ok()).count();
        assert_eq!(guesses, 10);
        assert!(tries.login(owner, home, true, 31_000).is_ok(), "and one more every half minute");
    }

    #[test]
    fn places_are_forgotten_in_order() {
        let (mut tries, owner) = (Tries::new(), Digest::of(b"martha"));
        for number in 0..=200_u16 {
            tries.was_right(owner, source(number), false, u64::from(number));
        }
        assert!(!tries.is_known(owner, source(0), 300) && tries.is_known(owner, source(1), 300));
        assert!(!tries.is_known(owner, source(1), KNOWN_MS + 1), "too long ago");
    }
}
