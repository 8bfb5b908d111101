//! Sessions that the disk had no room for: who comes to look why it is full gets in. Gone with the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_protocol::digest::Digest;

use super::accounts::{SessionRow, User};
use super::session::{SESSIONS_MAX, Times, Verdict, judge};

/// Who came in, and how.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    pub(super) user: User,
    pub(super) source: String,
    pub(super) agent: String,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Unsaved(Arc<Mutex<HashMap<Digest, (Begun, Times)>>>);

impl Unsaved {
    fn all(&self) -> MutexGuard<'_, HashMap<Digest, (Begun, Times)>> {
        // A panic while it was held left whole rows.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of more than an account may have the oldest ends.
    pub(super) fn begin(&self, hash: Digest, begun: Begun, now_ms: u64) {
        let mut all = self.all();
        if all.len() >= usize::try_from(SESSIONS_MAX).unwrap_or(usize::MAX)
            && let Some(oldest) = all.iter().min_by_key(|(_, (_, times))| times.seen_ms).map(|(hash, _)| *hash)
        {
            all.remove(&oldest);
        }
        all.insert(hash, (begun, Times { created_ms: now_ms, seen_ms: now_ms }));
    }

    /// `touch`: as of those that are saved.
    pub(super) fn who(&self, hash: Digest, now_ms: u64, touch: bool) -> Option<User> {
        let mut all = self.all();
        let (begun, times) = all.get_mut(&hash)?;
        match judge(*times, now_ms) {
            Verdict::Over => return None,
            Verdict::Touch if touch => times.seen_ms = now_ms,
            Verdict::Touch | Verdict::Live => {}
        }
        Some(begun.user.clone())
    }

    /// For the list of a user's sessions.
    pub(super) fn rows(&self, user: &User, own: Digest, now_ms: u64) -> Vec<SessionRow> {
        let all = self.all();
        let live =
            all.iter().filter(|(_, (begun, times))| begun.user.id == user.id && judge(*times, now_ms) != Verdict::Over);
        let row = |(hash, (begun, times)): (&Digest, &(Begun, Times))| SessionRow {
            source: begun.source.clone(),
            agent: begun.agent.clone(),
            created_ms: times.created_ms,
            seen_ms: times.seen_ms,
            own: *hash == own,
        };
        live.map(row).collect()
    }

    pub(super) fn end(&self, hash: Digest) {
        self.all().remove(&hash);
    }

    /// Says how many there were.
    pub(super) fn end_all(&self) -> u64 {
        u64::try_from(self.all().drain().count()).unwrap_or(u64::MAX)
    }

    pub(super) fn end_all_but(&self, own: Digest) {
        self.all().retain(|hash, _| *hash == own);
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::IDLE_MS;
    use super::*;

    #[test]
    fn they_end_as_others_do_and_are_few() {
        let (unsaved, user) = (Unsaved::default(), User { id: "u".into(), name: "martha".into() });
        let begun = Begun { user: user.clone(), source: "192.0.2.1".into(), agent: "a browser".into() };
        let hash = |number: u64| Digest::of(&number.to_be_bytes());
        for number in 0..=20 {
            unsaved.begin(hash(number), begun.clone(), number);
        }
        assert_eq!((unsaved.who(hash(0), 30, true), unsaved.who(hash(20), 30, true)), (None, Some(user.clone())));
        assert_eq!(unsaved.who(hash(20), 20 + IDLE_MS, true), None);
        unsaved.end_all_but(hash(7));
        assert_eq!((unsaved.who(hash(8), 30, true), unsaved.who(hash(7), 30, true)), (None, Some(user.clone())));
        let rows = unsaved.rows(&user, hash(7), 30);
        assert_eq!(rows.iter().map(|row| (row.source.as_str(), row.own)).collect::<Vec<_>>(), [("192.0.2.1", true)]);
        unsaved.end(hash(7));
        assert_eq!(unsaved.who(hash(7), 30, true), None);
    }

    #[test]
    fn a_page_that_looks_again_by_itself_keeps_nobody_in() {
        let (unsaved, hash) = (Unsaved::default(), Digest::of(b"a"));
        let user = User { id: "u".into(), name: "martha".into() };
        let begun = Begun { user: user.clone(), source: String::new(), agent: String::new() };
        unsaved.begin(hash, begun, 0);
        for now_ms in (0..IDLE_MS).step_by(600_000) {
            assert!(unsaved.who(hash, now_ms, false).is_some());
        }
        assert!(unsaved.who(hash, IDLE_MS, false).is_none());
        unsaved.begin(hash, Begun { user, source: String::new(), agent: String::new() }, 0);
        assert!(unsaved.who(hash, IDLE_MS - 1, true).is_some() && unsaved.who(hash, IDLE_MS, false).is_some());
    }
}
