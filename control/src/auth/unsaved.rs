//! Sessions that the disk had no room for: who comes to look why it is full gets in. Gone with the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_protocol::digest::Digest;

use super::accounts::User;
use super::session::{SESSIONS_MAX, Times, Verdict, judge};

#[derive(Debug, Clone, Default)]
pub(super) struct Unsaved(Arc<Mutex<HashMap<Digest, (User, Times)>>>);

impl Unsaved {
    fn all(&self) -> MutexGuard<'_, HashMap<Digest, (User, Times)>> {
        // A panic while it was held left whole rows.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of more than an account may have the oldest ends.
    pub(super) fn begin(&self, hash: Digest, user: User, now_ms: u64) {
        let mut all = self.all();
        if all.len() >= usize::try_from(SESSIONS_MAX).unwrap_or(usize::MAX)
            && let Some(oldest) = all.iter().min_by_key(|(_, (_, times))| times.seen_ms).map(|(hash, _)| *hash)
        {
            all.remove(&oldest);
        }
        all.insert(hash, (user, Times { created_ms: now_ms, seen_ms: now_ms }));
    }

    pub(super) fn who(&self, hash: Digest, now_ms: u64) -> Option<User> {
        let mut all = self.all();
        let (user, times) = all.get_mut(&hash)?;
        match judge(*times, now_ms) {
            Verdict::Over => return None,
            Verdict::Touch => times.seen_ms = now_ms,
            Verdict::Live => {}
        }
        Some(user.clone())
    }

    pub(super) fn end(&self, hash: Digest) {
        self.all().remove(&hash);
    }

    pub(super) fn end_all(&self) {
        self.all().clear();
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
        let hash = |number: u64| Digest::of(&number.to_be_bytes());
        for number in 0..=20 {
            unsaved.begin(hash(number), user.clone(), number);
        }
        assert_eq!((unsaved.who(hash(0), 30), unsaved.who(hash(20), 30)), (None, Some(user.clone())));
        assert_eq!(unsaved.who(hash(20), 20 + IDLE_MS), None);
        unsaved.end_all_but(hash(7));
        assert_eq!((unsaved.who(hash(8), 30), unsaved.who(hash(7), 30)), (None, Some(user)));
        unsaved.end(hash(7));
        assert_eq!(unsaved.who(hash(7), 30), None);
    }
}
