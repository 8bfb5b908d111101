//! What is printed: a name, and a median with its range or quantiles.

use std::fmt;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Table {
    title: &'static str,
    rows: Vec<(String, String)>,
}

impl Table {
    pub(crate) fn titled(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    pub(crate) fn fact(&mut self, name: &str, value: &str) {
        self.rows.push((name.to_owned(), value.to_owned()));
    }

    /// Median, least and most. Nothing for no samples.
    pub(crate) fn row(&mut self, name: &str, mut samples: Vec<u64>, show: impl Fn(u64) -> String) {
        samples.sort_unstable();
        let (Some(least), Some(most)) = (samples.first(), samples.last()) else { return };
        let median = show(quantile(&samples, 50));
        self.fact(name, &format!("{median} ({} to {}, n = {})", show(*least), show(*most), samples.len()));
    }

    pub(crate) fn quantiles(&mut self, name: &str, mut samples: Vec<u64>, show: impl Fn(u64) -> String) {
        samples.sort_unstable();
        let Some(most) = samples.last() else { return };
        let (p50, p99) = (show(quantile(&samples, 50)), show(quantile(&samples, 99)));
        self.fact(name, &format!("p50 {p50}, p99 {p99}, max {} (n = {})", show(*most), samples.len()));
    }

    /// Quantiles of every round, and of those the median and the range over the rounds.
    pub(crate) fn rounds(&mut self, name: &str, rounds: Vec<Vec<u64>>, show: impl Fn(u64) -> String + Copy) {
        for (word, percent) in [("p50", 50), ("p99", 99), ("max", 100)] {
            let of_rounds = rounds.iter().map(|samples| {
                let mut samples = samples.clone();
                samples.sort_unstable();
                quantile(&samples, percent)
            });
            self.row(&format!("{name}: {word}"), of_rounds.collect(), show);
        }
    }
}

/// The smallest sample that so many percent do not exceed; of sorted samples, 0 for none.
fn quantile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or_default()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        writeln!(f, "\n{}", self.title)?;
        self.rows.iter().try_for_each(|(name, value)| writeln!(f, "{name:width$}  {value}"))
    }
}

pub(crate) fn micros_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn millis(us: u64) -> String {
    let tenths = us.div_ceil(100);
    if tenths < 1_000 { format!("{}.{} ms", tenths / 10, tenths % 10) } else { format!("{} ms", tenths / 10) }
}

pub(crate) fn kib(kib: u64) -> String {
    bytes(kib * 1024)
}

pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{} MiB", bytes.div_ceil(1024 * 1024)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<u64> = (1..=200).collect();
        assert_eq!([50, 99, 100].map(|percent| quantile(&samples, percent)), [100, 198, 200]);
        assert_eq!((quantile(&[7], 50), quantile(&[], 50)), (7, 0));
    }

    #[test]
    fn rounds_are_told_by_their_own_quantiles() {
        let mut table = Table::titled("title");
        table.rounds("x", vec![vec![1_000, 3_000], vec![2_000, 9_000]], millis);
        table.row("none", vec![], kib);
        let text = table.to_string();
        assert!(text.contains("x: p50  1.0 ms (1.0 ms to 2.0 ms, n = 2)"), "{text}");
        assert!(text.contains("x: max  3.0 ms (3.0 ms to 9.0 ms, n = 2)"), "{text}");
        assert!(!text.contains("none"));
    }
}
