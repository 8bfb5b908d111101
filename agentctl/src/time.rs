//! Times as people read and write them.

use std::str::FromStr;

use agentd_protocol::stack::Span;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A moment as it is written on a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Ago(Span),
    At { unix_ms: u64 },
}

impl When {
    pub(crate) fn unix_ms(self, now_unix_ms: u64) -> u64 {
        match self {
            Self::Ago(span) => now_unix_ms.saturating_sub(span.as_ms()),
            Self::At { unix_ms } => unix_ms,
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(span) = text.parse() {
            return Ok(Self::Ago(span));
        }
        match text.parse::<Timestamp>() {
            // Before 1970 there is nothing to show.
            Ok(moment) => Ok(Self::At { unix_ms: u64::try_from(moment.as_millisecond()).unwrap_or(0) }),
            Err(_) => {
                Err("neither a duration such as 90s, 10m or 2h nor a time such as 2026-01-31T14:00:00Z".to_owned())
            }
        }
    }
}

pub(crate) fn now_unix_ms() -> u64 {
    agentd_sys::clock::real_ns() / 1_000_000
}

/// `2026-01-31T14:00:00.250Z`
pub(crate) fn utc(unix_ms: u64) -> String {
    moment(unix_ms).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// `14:00:00` in that zone, with the date where it is another day than that of `now`.
pub(crate) fn local(at_unix_ms: u64, now_unix_ms: u64, zone: &TimeZone) -> String {
    let [at, now] = [at_unix_ms, now_unix_ms].map(|unix_ms| moment(unix_ms).to_zoned(zone.clone()));
    let format = if at.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    at.strftime(format).to_string()
}

fn moment(unix_ms: u64) -> Timestamp {
    i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use jiff::tz::offset;

    use super::*;

    const NOON: u64 = 1_769_868_000_250;

    #[test]
    fn moments_and_spans_are_read() {
        let at = |text: &str| text.parse::<When>().map(|when| when.unix_ms(NOON));
        for same in ["2026-01-31T14:00:00.25Z", "2026-01-31 15:00:00.25+01:00", "2026-01-31T08:30:00.250-05:30"] {
            assert_eq!(at(same), Ok(NOON), "{same}");
        }
        assert_eq!(at("10m"), Ok(NOON - 600_000));
        assert_eq!(at("9999999d"), Ok(0));
        assert_eq!(at("1969-12-31T00:00:00Z"), Ok(0));
        for bad in ["", "10", "m", "2026-01-31", "2026-01-31T14:00:00", "2026-13-01T00:00:00Z", "yesterday"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_date_is_said_when_it_is_another_day() {
        assert_eq!(utc(NOON), "2026-01-31T14:00:00.250Z");
        assert_eq!(local(NOON, NOON + 1, &TimeZone::UTC), "14:00:00");
        assert_eq!(local(NOON, NOON + 86_400_000, &TimeZone::UTC), "2026-01-31 14:00:00");
        let west = TimeZone::fixed(offset(-15));
        assert_eq!(local(NOON, NOON, &west), "23:00:00", "the day before, in both");
    }
}
