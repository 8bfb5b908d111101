//! Whether the host itself is short of CPU: a slow answer is then no fault of the program.

/// Share of the last ten seconds in which some task waited for a CPU, percent (Documentation/accounting/psi.rst).
const STARVED_PERCENT: f64 = 80.0;

/// `false` where the kernel does not tell (psi=0, before 4.20).
pub(in super::super) fn host_is_starved() -> bool {
    let Ok(text) = std::fs::read_to_string("/proc/pressure/cpu") else { return false };
    some_avg10(&text).is_some_and(|percent| percent > STARVED_PERCENT)
}

fn some_avg10(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_from_the_line_of_some() {
        let text = "some avg10=81.25 avg60=1.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(some_avg10(text), Some(81.25));
        assert_eq!(some_avg10("full avg10=0.00"), None);
        assert_eq!(some_avg10(""), None);
    }
}
