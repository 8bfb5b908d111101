//! Moments as people write them (RFC 3339, section 5.6) to Unix time and back; proleptic Gregorian, no leap seconds.

/// Days from 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: i64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const DAYS_OF_ERA: i64 = 146_097;
const MS_OF_DAY: i64 = 86_400_000;

/// `2026-11-21T07:54:13.250Z`: UTC, ms.
pub fn format_ms(unix_ms: u64) -> String {
    let unix_ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let (days, ms) = (unix_ms.div_euclid(MS_OF_DAY), unix_ms.rem_euclid(MS_OF_DAY));
    let (year, month, day) = date_of(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

/// Unix time in ns of a moment like `2026-11-21T07:54:13.25+01:00`; a blank may stand for the `T`. `None` for anything
/// else, and for what lies before 1970.
pub fn parse_ns(text: &str) -> Option<u64> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let date = numbers(date, '-', [4, 2, 2])?;
    let clock = numbers(clock, ':', [2, 2, 2])?;
    let ([year, month, day], [hour, minute, second]) = (date, clock);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_ns, zone) = fraction(rest)?;
    let seconds = days_of(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset_s(zone)?;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(fraction_ns)
}

/// Three numbers of so many digits, between them `mark`.
fn numbers(text: &str, mark: char, digits: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(mark);
    let mut found = [0; 3];
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// The part of a second in ns, and what stands after it.
fn fraction(text: &str) -> Option<(u64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (fraction, zone) = rest.split_at(digits);
    let shown = fraction.get(..digits.min(9)).filter(|shown| !shown.is_empty())?;
    Some((format!("{shown:0<9}").parse().ok()?, zone))
}

fn offset_s(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, text) = if let Some(east) = zone.strip_prefix('+') { (1, east) } else { (-1, zone.strip_prefix('-')?) };
    let [hours, minutes, _] = numbers(&format!("{text}:00"), ':', [2, 2, 2])?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

/// Days since 1970-01-01. Counted from March, so that the day a leap year adds is the last of its year.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * DAYS_OF_ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year - DAYS_TO_1970
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_1970;
    let (era, of_era) = (days.div_euclid(DAYS_OF_ERA), days.rem_euclid(DAYS_OF_ERA));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_go_there_and_back() {
        for (text, unix_ms) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T23:59:59.999Z", 951_868_799_999),
            ("2026-11-21T07:54:13.250Z", 1_795_247_653_250),
            ("2100-03-01T00:00:00.000Z", 4_107_542_400_000),
        ] {
            assert_eq!(format_ms(unix_ms), text);
            assert_eq!(parse_ns(text), Some(unix_ms * 1_000_000), "{text}");
        }
    }

    #[test]
    fn zones_fractions_and_nonsense() {
        let noon = parse_ns("2026-11-21T12:00:00Z");
        assert!(noon.is_some());
        for same in ["2026-11-21 12:00:00z", "2026-11-21T14:30:00+02:30", "2026-11-21T04:00:00.000000-08:00"] {
            assert_eq!(parse_ns(same), noon, "{same}");
        }
        assert_eq!(parse_ns("1970-01-01T00:00:00.0000000019Z"), Some(1));
        for bad in [
            "",
            "10m",
            "2026-11-21",
            "2026-11-21T12:00:00",
            "2026-13-01T00:00:00Z",
            "2026-11-21T12:00:00.Z",
            "2026-11-21T12:00:00+2",
            "1969-12-31T23:59:59Z",
            "2026-11-21T+1:00:00Z",
            "ä026-11-21T12:00:00Z",
        ] {
            assert_eq!(parse_ns(bad), None, "{bad}");
        }
    }
}
