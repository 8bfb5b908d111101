//! How many programs may start on this host: a dead database must not become a fork storm.

const STARTS_PER_SECOND: u64 = 20;
const BURST: u64 = 20;
const INTERVAL_MS: u64 = 1_000 / STARTS_PER_SECOND;
/// A shim that asked and died still holds its place in the queue; beyond so many ms we stop counting.
const QUEUE_MS_MAX: u64 = 120_000;

/// Token bucket, kept as the one moment at which it would be full again (the generic cell rate algorithm).
#[derive(Debug, Default)]
pub(super) struct StartBucket {
    full_at_ms: u64,
}

impl StartBucket {
    /// Takes the next token, even one that is still to come, and says how long to wait for it, ms.
    pub(super) fn take(&mut self, now_ms: u64) -> u32 {
        let full_at_ms = self.full_at_ms.max(now_ms) + INTERVAL_MS;
        let wait_ms = full_at_ms.saturating_sub(now_ms + BURST * INTERVAL_MS);
        self.full_at_ms = full_at_ms.min(now_ms + BURST * INTERVAL_MS + QUEUE_MS_MAX);
        u32::try_from(wait_ms).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_rest_comes_at_the_rate() {
        let mut bucket = StartBucket::default();
        let waits: Vec<u32> = (0..23).map(|_| bucket.take(5_000)).collect();
        assert!(waits[..20].iter().all(|wait| *wait == 0), "{waits:?}");
        assert_eq!(waits[20..], [50, 100, 150]);
    }

    #[test]
    fn tokens_come_back_and_never_exceed_the_burst() {
        let mut bucket = StartBucket::default();
        for _ in 0..20 {
            assert_eq!(bucket.take(0), 0);
        }
        assert_eq!(bucket.take(50), 0, "one came back");
        assert_eq!(bucket.take(50), 50);
        let after_idle: Vec<u32> = (0..21).map(|_| bucket.take(1_000_000)).collect();
        assert_eq!(after_idle.iter().filter(|wait| **wait == 0).count(), 20);
    }

    #[test]
    fn the_queue_has_an_end() {
        let mut bucket = StartBucket::default();
        let longest = (0..100_000).map(|_| bucket.take(0)).max();
        assert_eq!(longest, Some(120_050));
    }
}
