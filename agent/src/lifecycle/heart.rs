//! Whether the loops that must never stand still still turn. Each takes a [`Pulse`] and beats at every turn; one that is
//! idle turns at least every [`BEAT_INTERVAL`]. The service manager is told that we live only while all of them beat.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A loop with nothing to do turns so often. Rarer than any timer of a loop, which a turn may set back.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(10);
/// The longest single act of a loop, which is to remove the data of a pruned service, with room to spare.
const STALE_AFTER: Duration = Duration::from_secs(60);

static HEART: Mutex<Heart> = Mutex::new(Heart { next: 0, beats: BTreeMap::new() });

#[derive(Debug)]
struct Heart {
    next: u64,
    beats: BTreeMap<u64, Beat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Beat {
    of: &'static str,
    last: Instant,
}

/// One loop's. Dropped, which a loop does that ends, it is not waited for any more.
#[derive(Debug)]
pub struct Pulse(u64);

/// A loop joins; it has beaten just now.
pub fn pulse(of: &'static str) -> Pulse {
    let mut heart = heart();
    heart.next += 1;
    let number = heart.next;
    heart.beats.insert(number, Beat { of, last: Instant::now() });
    Pulse(number)
}

impl Pulse {
    pub fn beat(&self) {
        if let Some(beat) = heart().beats.get_mut(&self.0) {
            beat.last = Instant::now();
        }
    }

    /// For a loop's `select!`: time for a beat though nothing happens.
    pub async fn due(&self) {
        tokio::time::sleep(BEAT_INTERVAL).await;
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        heart().beats.remove(&self.0);
    }
}

/// The loop that stands still, if one does.
pub(super) fn standing_still() -> Option<&'static str> {
    longest_still(heart().beats.values(), Instant::now())
}

fn longest_still<'a>(beats: impl Iterator<Item = &'a Beat>, now: Instant) -> Option<&'static str> {
    let oldest = beats.min_by_key(|beat| beat.last)?;
    (now.saturating_duration_since(oldest.last) > STALE_AFTER).then_some(oldest.of)
}

/// A panic while it was held left a whole map.
fn heart() -> MutexGuard<'static, Heart> {
    HEART.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_loop_that_stands_still_is_named() {
        let start = Instant::now();
        let beat = |of, seconds| Beat { of, last: start + Duration::from_secs(seconds) };
        let beats = [beat("api", 70), beat("reconcile", 9), beat("edge client", 10)];
        let seen = |seconds| longest_still(beats.iter(), start + Duration::from_secs(seconds));
        assert_eq!(seen(69), None);
        assert_eq!(seen(70), Some("reconcile"));
        assert_eq!(seen(8), None, "a clock read before the beat");
        assert_eq!(longest_still([].into_iter(), start), None);
    }

    #[test]
    fn a_loop_that_ended_is_not_waited_for() {
        let pulse = pulse("a loop of this test");
        let number = pulse.0;
        let last = heart().beats[&number].last;
        pulse.beat();
        assert!(heart().beats[&number].last >= last);
        drop(pulse);
        assert!(!heart().beats.contains_key(&number));
    }
}
