//! Texts as a page shows them: what hosts sent made harmless, times and sizes as a person reads them. Pure.
//!
//! Escaping for HTML is askama's; here goes what would mislead an eye: colours of a terminal are left out, what cannot be
//! seen or turns others around is written out, lines without end are cut.

use std::fmt;

use jiff::Timestamp;

use crate::plain;

/// Of a word (a name, a commit), characters.
pub(crate) const WORD_CHARS_MAX: usize = 80;
/// Of a sentence (a cause, a reason), characters.
pub(crate) const SENTENCE_CHARS_MAX: usize = 600;
/// Of one line of a log, characters.
pub(crate) const LINE_CHARS_MAX: usize = 1_000;

/// Without escape sequences, with unseen characters written out, on one line, cut.
pub(crate) fn clean(text: &str, chars_max: usize) -> String {
    let mut shown = String::new();
    let mut count = 0;
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        let char = match char {
            '\u{1b}' => {
                skip_escape(&mut rest);
                continue;
            }
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
            other => other,
        };
        if count >= chars_max {
            shown.push('…');
            return shown;
        }
        count += plain::push(&mut shown, char);
    }
    shown
}

pub(crate) fn word(text: &str) -> String {
    clean(text, WORD_CHARS_MAX)
}

pub(crate) fn sentence(text: &str) -> String {
    clean(text, SENTENCE_CHARS_MAX)
}

pub(crate) fn lines<'a>(lines: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    lines.into_iter().map(|line| clean(line, LINE_CHARS_MAX)).collect()
}

/// ECMA-48: CSI ends with a letter, OSC and its like with BEL or ST, the others are two characters.
fn skip_escape(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match rest.next() {
        Some('[') => {
            for char in rest.by_ref() {
                if ('\u{40}'..='\u{7e}').contains(&char) {
                    return;
                }
            }
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(char) = rest.next() {
                let ended = char == '\u{7}' || char == '\u{9c}';
                if ended || (char == '\u{1b}' && rest.next_if_eq(&'\\').is_some()) {
                    return;
                }
            }
        }
        _ => {}
    }
}

/// As coarse as a person wants it.
pub(crate) fn span(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..60_000 => format!("{seconds} s"),
        60_000..3_600_000 => format!("{minutes} min"),
        3_600_000..36_000_000 => format!("{hours} h {} min", minutes % 60),
        36_000_000..172_800_000 => format!("{hours} h"),
        172_800_000.. => format!("{} days", hours / 24),
    }
}

pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut tenths = count.saturating_mul(10);
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1_024;
        unit += 1;
    }
    if tenths >= 1_000 || unit == 0 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// Thousandths as a number with two digits behind the point.
pub(crate) fn milli(count: u64) -> String {
    format!("{}.{:02}", count / 1_000, count % 1_000 / 10)
}

pub(crate) fn many(count: u32, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `2026-09-01 12:00:00`, UTC.
pub(crate) fn utc(unix_ms: u64) -> String {
    stamp(unix_ms).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn stamp(unix_ms: u64) -> Timestamp {
    // A host may claim any time; what no calendar has is shown as the last that one has.
    i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

/// A point in time as a page shows it: how long ago, with the absolute time at hand. Writes HTML that holds numbers and
/// our own words alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) at_ms: u64,
    pub(crate) now_ms: u64,
    pub(crate) form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `3 min ago`, `in 3 min`; kept up to date by the page's script.
    Relative,
    /// `12:04:31`, with the date where it is another day's.
    Clock,
    /// Both: `12:04:31 (3 min ago)`; what follows the word "since".
    Since,
}

impl Moment {
    pub(crate) fn relative(at_ms: u64, now_ms: u64) -> Self {
        Self { at_ms, now_ms, form: Form::Relative }
    }

    pub(crate) fn clock(at_ms: u64, now_ms: u64) -> Self {
        Self { at_ms, now_ms, form: Form::Clock }
    }

    pub(crate) fn since(at_ms: u64, now_ms: u64) -> Self {
        Self { at_ms, now_ms, form: Form::Since }
    }

    fn words(&self) -> String {
        match self.form {
            Form::Relative if self.at_ms > self.now_ms + 1_000 => format!("in {}", span(self.at_ms - self.now_ms)),
            Form::Relative if self.now_ms.saturating_sub(self.at_ms) < 1_000 => "just now".to_owned(),
            Form::Relative => format!("{} ago", span(self.now_ms.saturating_sub(self.at_ms))),
            Form::Clock | Form::Since if self.at_ms / 86_400_000 == self.now_ms / 86_400_000 => {
                stamp(self.at_ms).strftime("%H:%M:%S").to_string()
            }
            Form::Clock | Form::Since => stamp(self.at_ms).strftime("%m-%d %H:%M:%S").to_string(),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stamp = stamp(self.at_ms);
        let live = if self.form == Form::Relative { " data-ago" } else { "" };
        write!(f, "<time datetime=\"{stamp}\" title=\"{} UTC\"{live}>{}</time>", utc(self.at_ms), self.words())?;
        match self.form {
            Form::Since => write!(f, " ({})", Self { form: Form::Relative, ..*self }),
            Form::Relative | Form::Clock => Ok(()),
        }
    }
}

impl askama::filters::HtmlSafe for Moment {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_would_mislead_is_taken_out_or_written_out() {
        for (sent, shown) in [
            ("plain", "plain"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]8;;http://evil.example\u{7}link\u{1b}]8;;\u{7}", "link"),
            ("\u{1b}]0;title\u{1b}\\rest", "rest"),
            ("\u{1b}[", ""),
            ("a\u{202e}b\u{200b}c\u{0}d", "a\\u{202e}b\\u{200b}c\\u{0}d"),
            ("two\nlines", "two lines"),
            ("<script>", "<script>"),
        ] {
            assert_eq!(clean(sent, 100), shown, "{sent:?}");
        }
        assert_eq!(clean("ééééé", 3), "ééé…");
        assert_eq!(clean("ééé", 3), "ééé");
    }

    #[test]
    fn times_and_sizes_read_as_people_say_them() {
        assert_eq!(Moment::relative(1_000, 185_000).words(), "3 min ago");
        assert_eq!(Moment::relative(185_000, 1_000).words(), "in 3 min");
        assert_eq!(Moment::relative(5_000, 5_100).words(), "just now");
        let shown = Moment::clock(1_788_264_000_000, 1_788_264_100_000).to_string();
        assert_eq!(shown, "<time datetime=\"2026-09-01T12:00:00Z\" title=\"2026-09-01 12:00:00 UTC\">12:00:00</time>");
        assert_eq!(
            (span(59_999), span(7_260_000), span(86_400_000)),
            ("59 s".into(), "2 h 1 min".into(), "24 h".into())
        );
        assert_eq!(
            (bytes(999), bytes(1_536), bytes(5 << 30), bytes(200 << 20)),
            ("999 B".into(), "1.5 KiB".into(), "5.0 GiB".into(), "200 MiB".into())
        );
        assert_eq!(milli(1_234), "1.23");
    }

    proptest! {
        #[test]
        fn any_text_and_any_time_can_be_shown(text in "\\PC*|[\\x00-\\x1f\\[\\]a-z;]*", at in any::<u64>(), now in any::<u64>()) {
            let shown = clean(&text, 50);
            prop_assert!(shown.chars().count() <= 60 && !shown.chars().any(plain::is_unseen));
            let now = now / 2;
            prop_assert!(!Moment::relative(at, now).to_string().is_empty());
        }
    }
}
