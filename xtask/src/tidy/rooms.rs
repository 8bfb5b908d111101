//! Every room of the agent opens with its page: what it owns, what it must never know, who calls it, what survives.

use super::source::{Finding, Source};

/// Fewer cannot say all that.
const PAGE_LINES_MIN: usize = 3;

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let inner = source.path.strip_prefix("agent/src/").unwrap_or("");
    if !inner.ends_with("/mod.rs") || inner.matches('/').count() != 1 {
        return Vec::new();
    }
    let is_page = |line: &&str| line.strip_prefix("//!").is_some_and(|words| !words.trim().is_empty());
    let lines = source.text.lines().take_while(|line| line.starts_with("//!")).filter(is_page).count();
    if lines >= PAGE_LINES_MIN {
        return Vec::new();
    }
    let cure = "say what it owns, what it must never know, who calls it, what survives a restart";
    vec![source.finding(0, format!("the room's page has {lines} lines, {PAGE_LINES_MIN} are the least"), cure)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_has_a_page() {
        let count = |path, text| check(&Source::new(path, text)).len();
        assert_eq!(count("agent/src/store/mod.rs", "//! a\n//! b\n//! c\n"), 0);
        assert_eq!(count("agent/src/store/mod.rs", "//! a\n//!\n//! c\nmod x;\n"), 1, "an empty line says nothing");
        assert_eq!(count("agent/src/store/mod.rs", "mod x;\n"), 1);
        assert_eq!(count("agent/src/dns/split/mod.rs", "mod x;\n"), 0, "only rooms, not their folders");
        assert_eq!(count("sys/src/x/mod.rs", "mod x;\n"), 0);
    }
}
