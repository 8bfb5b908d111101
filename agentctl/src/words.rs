//! Numbers as people say them.

const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 60 * MINUTE_S;
const DAY_S: u64 = 24 * HOUR_S;

/// `3 min`; the two largest units from an hour on: `2 h 5 min`.
pub(crate) fn span(ms: u64) -> String {
    match parts(ms) {
        [(0, _), (seconds, _)] => format!("{seconds} s"),
        [(count, unit), (0, _)] => format!("{count} {unit}"),
        [(minutes, "min"), _] => format!("{minutes} min"),
        [(count, unit), (more, lesser)] => format!("{count} {unit} {more} {lesser}"),
    }
}

/// Without blanks, for a column: `2h5m`.
pub(crate) fn compact(ms: u64) -> String {
    let letter = |unit: &str| unit.chars().next().unwrap_or_default();
    match parts(ms) {
        [(0, _), (seconds, _)] => format!("{seconds}s"),
        [(count, unit), (0, _)] => format!("{count}{}", letter(unit)),
        [(count, unit), (more, lesser)] => format!("{count}{}{more}{}", letter(unit), letter(lesser)),
    }
}

fn parts(ms: u64) -> [(u64, &'static str); 2] {
    let s = ms / 1_000;
    match s {
        0..MINUTE_S => [(0, "min"), (s, "s")],
        MINUTE_S..HOUR_S => [(s / MINUTE_S, "min"), (s % MINUTE_S, "s")],
        HOUR_S..DAY_S => [(s / HOUR_S, "h"), (s % HOUR_S / MINUTE_S, "min")],
        _ => [(s / DAY_S, "d"), (s % DAY_S / HOUR_S, "h")],
    }
}

pub(crate) fn ago(now_unix_ms: u64, then_unix_ms: u64) -> String {
    match now_unix_ms.saturating_sub(then_unix_ms) {
        0..1_000 => "just now".to_owned(),
        ms => format!("{} ago", span(ms)),
    }
}

/// Powers of 1,024 without blanks: `34.1M`.
pub(crate) fn bytes(count: u64) -> String {
    let mut unit = 1;
    for letter in ["B", "K", "M", "G"] {
        if count / unit < 1_024 {
            return scaled(count, unit, letter);
        }
        unit *= 1_024;
    }
    scaled(count, unit, "T")
}

fn scaled(count: u64, unit: u64, letter: &str) -> String {
    match unit {
        1 => format!("{count}{letter}"),
        _ => format!("{}.{}{letter}", count / unit, count % unit * 10 / unit),
    }
}

/// Of one CPU: `12.5%`; two busy CPUs are 200%.
pub(crate) fn percent(millicores: u32) -> String {
    format!("{}.{}%", millicores / 10, millicores % 10)
}

/// `2 services`
pub(crate) fn many(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// What a program printed, on one line and without what would move a terminal's cursor or paint.
pub(crate) fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            // A control sequence ends with its first byte from @ to ~ (ECMA-48, §5.4).
            '\x1b' if letters.next_if_eq(&'[').is_some() => {
                while letters.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            '\t' | '\n' => clean.push(' '),
            control if control.is_control() => clean.push('\u{fffd}'),
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_units_that_matter() {
        let told = |s: u64| (span(s * 1_000), compact(s * 1_000));
        let both = |long: &str, short: &str| (long.to_owned(), short.to_owned());
        assert_eq!(told(0), both("0 s", "0s"));
        assert_eq!(told(59), both("59 s", "59s"));
        assert_eq!(told(192), both("3 min", "3m12s"));
        assert_eq!(told(7_500), both("2 h 5 min", "2h5m"));
        assert_eq!(told(7_200), both("2 h", "2h"));
        assert_eq!(told(3 * 86_400 + 3_600), both("3 d 1 h", "3d1h"));
        assert_eq!((ago(5_000, 4_500), ago(5_000, 9_000)), ("just now".into(), "just now".into()));
        assert_eq!(ago(200_000, 8_000), "3 min ago");
    }

    #[test]
    fn sizes_and_shares() {
        let told = [0, 1_023, 1_024, 35_757_752, 1 << 30, 5 << 40].map(bytes);
        assert_eq!(told, ["0B", "1023B", "1.0K", "34.1M", "1.0G", "5.0T"]);
        assert_eq!((percent(0), percent(125), percent(2_000)), ("0.0%".into(), "12.5%".into(), "200.0%".into()));
        assert_eq!((many(1, "service"), many(2, "service")), ("1 service".into(), "2 services".into()));
    }

    #[test]
    fn what_programs_print_cannot_move_the_cursor() {
        assert_eq!(harmless("\x1b[1;31mred\x1b[0m\tend\n"), "red end ");
        assert_eq!(harmless("a\x1b]0;title\x07b\rc"), "a\u{fffd}]0;title\u{fffd}b\u{fffd}c");
    }
}
