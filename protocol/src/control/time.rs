//! Points in time as documents and messages carry them: RFC 3339, UTC.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// To the second: what is signed carries no fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(Timestamp);

impl Time {
    pub const EPOCH: Self = Self(Timestamp::UNIX_EPOCH);

    /// Clamped to the years that RFC 3339 can write.
    pub fn from_unix_secs(secs: i64) -> Self {
        let clamped = secs.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        Self(Timestamp::from_second(clamped).expect("it was clamped"))
    }

    pub fn unix_secs(self) -> i64 {
        self.0.as_second()
    }

    pub fn plus_secs(self, secs: i64) -> Self {
        Self::from_unix_secs(self.unix_secs().saturating_add(secs))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        let time = Time::from_unix_secs(1_788_264_000);
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2026-09-01T12:00:00Z\"");
        assert_eq!(serde_json::from_str::<Time>("\"2026-09-01T14:00:00+02:00\"").unwrap(), time);
        assert_eq!(Time::from_unix_secs(i64::MAX).plus_secs(i64::MAX), Time::from_unix_secs(i64::MAX));
    }
}
