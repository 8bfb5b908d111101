//! Times as people read and write them. Pure but for the offset of the local clock.

use agentd_protocol::stack::Span;

const DAY_S: i64 = 86_400;

/// A moment of the local calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    second_of_day: i64,
}

/// `14:03:07`, with the date where it is another day than `now`.
pub(crate) fn shown(at_unix_ms: u64, now_unix_ms: u64, offset_s: impl Fn(i64) -> i64) -> String {
    let local = |unix_ms: u64| {
        let seconds = i64::try_from(unix_ms / 1_000).unwrap_or(i64::MAX / 2);
        civil(seconds + offset_s(seconds))
    };
    let (at, now) = (local(at_unix_ms), local(now_unix_ms));
    let clock = at.second_of_day;
    let time = format!("{:02}:{:02}:{:02}", clock / 3_600, clock / 60 % 60, clock % 60);
    if (at.year, at.month, at.day) == (now.year, now.month, now.day) {
        return time;
    }
    format!("{:04}-{:02}-{:02} {time}", at.year, at.month, at.day)
}

/// `10m` before `now`, or an RFC 3339 time, as Unix time in ms.
pub(crate) fn since(text: &str, now_unix_ms: u64) -> Result<u64, String> {
    if let Ok(span) = text.parse::<Span>() {
        return Ok(now_unix_ms.saturating_sub(span.as_ms()));
    }
    let seconds = rfc3339(text).ok_or_else(|| {
        format!("`{text}` is neither a duration such as 90s, 10m or 2h nor a time such as 2026-01-31T14:00:00Z")
    })?;
    Ok(u64::try_from(seconds).unwrap_or(0) * 1_000)
}

/// Seconds since 1970; a fraction of a second is left out.
fn rfc3339(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone_at);
    let [year, month, day] = numbers(date, '-')?;
    let whole = time.split('.').next()?;
    let [hour, minute, second] = numbers(whole, ':')?;
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !in_range {
        return None;
    }
    let offset = match zone.split_at(1) {
        ("Z" | "z", "") => 0,
        (sign, offset) => {
            let [hours, minutes] = numbers(offset, ':')?;
            let seconds = hours * 3_600 + minutes * 60;
            if sign == "-" { -seconds } else { seconds }
        }
    };
    Some(days(year, month, day) * DAY_S + hour * 3_600 + minute * 60 + second - offset)
}

fn numbers<const N: usize>(text: &str, separator: char) -> Option<[i64; N]> {
    let parts: Option<Vec<i64>> = text.split(separator).map(digits).collect();
    parts?.try_into().ok()
}

fn digits(text: &str) -> Option<i64> {
    let plain = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

/// Days since 1970 of a date of the Gregorian calendar: years begin in March, so that a leap day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil(seconds: i64) -> Civil {
    let shifted = seconds.div_euclid(DAY_S) + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    Civil {
        year: era * 400 + year_of_era + i64::from(month <= 2),
        month,
        day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
        second_of_day: seconds.rem_euclid(DAY_S),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_agree_over_centuries() {
        for (date, number) in [((1970, 1, 1), 0), ((2000, 2, 29), 11_016), ((2026, 1, 31), 20_484)] {
            assert_eq!(days(date.0, date.1, date.2), number, "{date:?}");
        }
        for number in (-200_000..200_000).step_by(17) {
            let Civil { year, month, day, .. } = civil(number * DAY_S);
            assert_eq!(days(year, month, day), number, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn times_are_read_as_rfc_3339_writes_them() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-01-31T14:00:00Z", 1_769_868_000),
            ("2026-01-31 15:00:00.25+01:00", 1_769_868_000),
            ("2026-01-31T08:30:00-05:30", 1_769_868_000),
        ] {
            assert_eq!(rfc3339(text), Some(seconds), "{text}");
        }
        for bad in
            ["", "2026-01-31", "2026-13-01T00:00:00Z", "2026-01-31T25:00:00Z", "2026-01-31T00:00:00", "yesterday"]
        {
            assert_eq!(rfc3339(bad), None, "{bad}");
        }
        assert_eq!(since("10m", 700_000), Ok(100_000));
        assert_eq!(since("1d", 5), Ok(0));
        assert!(since("soon", 0).is_err());
    }

    #[test]
    fn the_date_is_said_when_it_is_another_day() {
        let utc = |_| 0;
        let noon = 1_769_868_000_000;
        assert_eq!(shown(noon, noon + 1, utc), "14:00:00");
        assert_eq!(shown(noon, noon + 86_400_000, utc), "2026-01-31 14:00:00");
        assert_eq!(shown(noon, noon, |_| -15 * 3_600), "23:00:00", "the day before, in both");
    }
}
