//! When a shim that died is started again.

/// Quick respawns before we slow down.
const QUICK_MAX: u32 = 10;
const SLOW_INTERVAL_MS: u64 = 60_000;
/// A shim that lived so long has nothing wrong with it.
const STABLE_MS: u64 = 60_000;

#[derive(Debug, Default)]
pub(super) struct Respawns {
    /// Deaths in a row of shims that were not stable.
    quick: u32,
}

impl Respawns {
    /// Ten times at once, then once a minute until one lives for a minute: never more than ten in any minute.
    pub(super) fn next_at_ms(&mut self, started_ms: u64, now_ms: u64) -> u64 {
        if now_ms.saturating_sub(started_ms) >= STABLE_MS {
            self.quick = 0;
        }
        self.quick = self.quick.saturating_add(1);
        if self.quick <= QUICK_MAX { now_ms } else { now_ms + SLOW_INTERVAL_MS }
    }

    /// Somebody asked for this shim: it gets all its chances again.
    pub(super) fn reset(&mut self) {
        self.quick = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_at_once_then_one_a_minute() {
        let mut respawns = Respawns::default();
        for now_ms in 0..10 {
            assert_eq!(respawns.next_at_ms(now_ms, now_ms), now_ms);
        }
        assert_eq!(respawns.next_at_ms(10, 10), 60_010);
        assert_eq!(respawns.next_at_ms(60_010, 60_020), 120_020, "still dying at once");
        assert_eq!(respawns.next_at_ms(120_020, 180_020), 180_020, "lived a minute");
        respawns.reset();
        assert_eq!(respawns.next_at_ms(0, 1), 1);
    }
}
