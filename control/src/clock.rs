//! The wall clock, read in one place.

use std::time::{SystemTime, UNIX_EPOCH};

use agentd_protocol::control::time::Time;

/// Unix time, ms. A clock before 1970 counts as 1970.
pub fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub fn now() -> Time {
    time_of(now_unix_ms())
}

pub fn time_of(unix_ms: u64) -> Time {
    Time::from_unix_secs(i64::try_from(unix_ms / 1_000).unwrap_or(i64::MAX))
}

pub fn ms_of(time: Time) -> u64 {
    u64::try_from(time.unix_secs()).unwrap_or(0).saturating_mul(1_000)
}
