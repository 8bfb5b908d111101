//! The one table: name, median, least and most, number of samples.

use std::fmt;

#[derive(Debug)]
pub(super) struct Table {
    title: &'static str,
    rows: Vec<(String, String)>,
}

impl Table {
    pub(super) fn titled(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    /// Nothing for no samples: then nothing was measured.
    pub(super) fn row(&mut self, name: &str, mut samples: Vec<u64>, show: impl Fn(u64) -> String) {
        samples.sort_unstable();
        let (Some(least), Some(median), Some(most)) = (samples.first(), samples.get(samples.len() / 2), samples.last())
        else {
            return;
        };
        let range = match samples.len() {
            1 => String::new(),
            count => format!(" ({} to {}, n = {count})", show(*least), show(*most)),
        };
        self.fact(name, &format!("{}{range}", show(*median)));
    }

    pub(super) fn fact(&mut self, name: &str, value: &str) {
        self.rows.push((name.to_owned(), value.to_owned()));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        writeln!(f, "\n{}", self.title)?;
        self.rows.iter().try_for_each(|(name, value)| writeln!(f, "{name:width$}  {value}"))
    }
}

pub(super) fn kib(kib: u64) -> String {
    if kib < 10 * 1024 { format!("{kib} KiB") } else { format!("{} MiB", kib.div_ceil(1024)) }
}

pub(super) fn micros(ns: u64) -> String {
    let tenths = ns.div_ceil(100);
    format!("{}.{} us", tenths / 10, tenths % 10)
}

pub(super) fn millis(us: u64) -> String {
    let tenths = us.div_ceil(100);
    if tenths < 1000 { format!("{}.{} ms", tenths / 10, tenths % 10) } else { format!("{} ms", tenths / 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_stand_between_least_and_most() {
        let mut table = Table::titled("title");
        table.row("one", vec![7], kib);
        table.row("three", vec![30_000, 1_000, 2_500], millis);
        table.row("none", vec![], kib);
        let text = table.to_string();
        assert!(text.ends_with("\none    7 KiB\nthree  2.5 ms (1.0 ms to 30.0 ms, n = 3)\n"), "{text}");
        assert_eq!((kib(20 * 1024 + 1), millis(150_000)), ("21 MiB".to_owned(), "150 ms".to_owned()));
    }
}
