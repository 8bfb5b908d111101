//! The two doors to the tests. A test that may not run fails: nothing is skipped behind either door, and which door a
//! test stands behind is its file's name (`tests/tests/root_*.rs` needs root, everything else does not).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::Line;
use crate::setup;

/// As much as the tests need, and what makes them find nothing left to compile.
pub(crate) const BUILD: &str = "cargo build --workspace --all-targets --locked";
/// Where nextest leaves its JUnit report (.config/nextest.toml); its terminal output stays untouched. Its store stands
/// in the workspace wherever the target directory is.
const REPORT: &str = "target/nextest/default/junit.xml";
const ROOTLESS: &str = "not binary(/^root_/)";
const ROOT: &str = "binary(/^root_/)";

/// How many tests ran.
pub(crate) type Count = u64;

pub(crate) fn rootless(root: &Path, filters: &[String]) -> Result<Count> {
    door(root, ROOTLESS, filters)
}

/// Namespaces, mounts and foreign uids are the kernel's to grant: without root there is nothing to run.
pub(crate) fn root(root: &Path, filters: &[String]) -> Result<Count> {
    if !is_root()? {
        bail!(
            "the tests behind test-root need root (namespaces, mounts, foreign users); run: sudo -E cargo xtask test-root"
        );
    }
    door(root, ROOT, filters)
}

/// The effective user: procfs gives a process's folder to it.
pub(crate) fn is_root() -> Result<bool> {
    let process = fs::metadata("/proc/self").context("look at /proc/self")?;
    Ok(process.uid() == 0)
}

fn door(root: &Path, expression: &str, filters: &[String]) -> Result<Count> {
    setup::ensure_nextest(root)?;
    // The programs that cross-process tests start are no dependency of those tests to cargo.
    Line::new(BUILD).run(root)?;
    let report = root.join(REPORT);
    // An old report must not pass for this run's.
    if report.exists() {
        fs::remove_file(&report).with_context(|| format!("remove {}", report.display()))?;
    }
    let line = Line::new("cargo nextest run --workspace --locked -E").argument(expression);
    filters.iter().fold(line, |line, filter| line.argument(filter.as_str())).run(root)?;
    let text = fs::read_to_string(&report).with_context(|| format!("read {}", report.display()))?;
    count(&text).with_context(|| format!("find the number of tests in {}", report.display()))
}

/// The total in the report's root element.
fn count(report: &str) -> Option<Count> {
    let element = between(report, "<testsuites ", ">")?;
    between(element, "tests=\"", "\"")?.parse().ok()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(inner, _)| inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_the_reports_own() {
        let report = "<?xml version=\"1.0\"?>\n<testsuites name=\"nextest-run\" tests=\"42\" failures=\"0\" errors=\"0\">\n<testsuite name=\"a\" tests=\"7\">";
        assert_eq!(count(report), Some(42));
        assert_eq!(count("<html>"), None);
    }
}
