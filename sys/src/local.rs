//! The local clock: what to add to Unix time.

/// Seconds east of UTC at that Unix time, by TZ or /etc/localtime; 0 where the system cannot say.
#[expect(unsafe_code, reason = "localtime_r has no safe wrapper")]
pub fn utc_offset_s(unix_s: i64) -> i64 {
    // SAFETY: `tm` is plain data for which all zeroes is a value.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that live through the call; localtime_r keeps neither.
    let known = unsafe { libc::localtime_r(&raw const unix_s, &raw mut parts) };
    if known.is_null() { 0 } else { parts.tm_gmtoff }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_place_is_further_than_a_day_from_utc() {
        assert!(super::utc_offset_s(1_769_868_000).abs() < 86_400);
    }
}
