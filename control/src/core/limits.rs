//! How much of one host's calls is taken: a host that was taken over, or went mad, costs the others nothing.
//!
//! In memory: a restart fills every bucket.

use agentd_protocol::control::ids::HostId;

use super::{Control, Error};
use crate::clock;
use crate::limit::{Bucket, Rate, Wait, step};

/// Signed calls of any kind. Held reports come every half minute; ten a second cost less than a hundredth of a core.
const CALLS: Rate = Rate { burst: 600, refill_ms: 100 };
/// Events. A full outbox (64 MiB, some 130,000 of them) is told in ten minutes after days without a server.
const EVENTS: Rate = Rate { burst: 20_000, refill_ms: 5 };
/// KiB of bodies: snapshots are overwritten and not kept, but each is a write. 512 KiB a second.
const BODY_KIB: Rate = Rate { burst: 32 * 1024, refill_ms: 2 };

/// What is left of a host's shares.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shares {
    calls: Bucket,
    events: Bucket,
    body: Bucket,
}

impl Shares {
    fn take(bucket: &mut Bucket, rate: Rate, units: usize, now: u64) -> Result<(), Error> {
        let units = u64::try_from(units).unwrap_or(u64::MAX);
        let (next, answer) = step(*bucket, rate, units, now);
        *bucket = next;
        answer.map_err(|wait: Wait| Error::RateLimited { retry_s: wait.secs() })
    }

    fn call(&mut self, now: u64) -> Result<(), Error> {
        Self::take(&mut self.calls, CALLS, 1, now)
    }

    fn report(&mut self, events: usize, body_bytes: usize, now: u64) -> Result<(), Error> {
        let mut after = *self;
        Self::take(&mut after.events, EVENTS, events, now)?;
        Self::take(&mut after.body, BODY_KIB, body_bytes.div_ceil(1024), now)?;
        *self = after;
        Ok(())
    }
}

impl Control {
    /// Before the body of a signed call is read.
    pub fn admit_call(&self, id: &HostId) -> Result<(), Error> {
        let mut fleet = self.fleet();
        fleet.hosts.get_mut(id).ok_or(Error::HostUnknown)?.shares.call(clock::now_unix_ms())
    }

    /// Before a report takes its turn: one that is refused is sent once more as it is.
    pub fn admit_report(&self, id: &HostId, events: usize, body_bytes: usize) -> Result<(), Error> {
        let mut fleet = self.fleet();
        let host = fleet.hosts.get_mut(id).ok_or(Error::HostUnknown)?;
        host.shares.report(events, body_bytes, clock::now_unix_ms())
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::control::{EVENTS_PER_REPORT_MAX, REPORT_BYTES_MAX};

    use super::*;

    #[test]
    fn a_flood_is_refused_with_the_time_to_wait() {
        let mut shares = Shares::default();
        let taken = (0..2_000).filter(|_| shares.call(1_000).is_ok()).count();
        assert_eq!(taken, 600);
        assert!(matches!(shares.call(1_000), Err(Error::RateLimited { retry_s: 1 })));
        assert!(shares.call(1_100).is_ok());
        let taken = (0..500).filter(|_| shares.report(EVENTS_PER_REPORT_MAX, 1, 1_000).is_ok()).count();
        assert_eq!(taken, 40);
        assert!(matches!(shares.report(EVENTS_PER_REPORT_MAX, 1, 1_000), Err(Error::RateLimited { retry_s: 3 })));
        assert!(shares.report(0, 1, 1_000).is_ok(), "without events it is heard");
        let mut shares = Shares::default();
        let taken = (0..500).filter(|_| shares.report(0, REPORT_BYTES_MAX, 1_000).is_ok()).count();
        assert_eq!(taken, 16);
    }

    #[test]
    fn an_outbox_that_is_full_arrives_in_time() {
        let (mut shares, mut now, mut told) = (Shares::default(), 0, 0);
        while told < 130_000 {
            match shares.call(now).and_then(|()| shares.report(500, 256 * 1024, now)) {
                Ok(()) => told += 500,
                Err(Error::RateLimited { retry_s }) => now += retry_s * 1_000,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(now < 15 * 60_000, "{now} ms");
    }
}
