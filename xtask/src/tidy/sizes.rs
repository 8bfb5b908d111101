//! Files and functions a head can hold. What is larger stands in `xtask/tidy.toml` with its size; a number there may
//! only go down, and a line that is no longer needed has to go.

use std::collections::BTreeMap;

use super::source::{Finding, Source, Token, item_end};

/// Lines without test code (nine in ten files of the models are far below).
const FILE_LINES_MAX: usize = 600;
/// From the line of `fn` to the closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Sizes that are tolerated: `path` or `path::function` to lines.
#[derive(Debug, Default)]
pub(crate) struct Ratchet {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Of the list, from 0.
    line: usize,
    lines: usize,
    met: bool,
}

impl Ratchet {
    /// Reads `"name" = lines`, with `#` for comments. What cannot be read is a finding.
    pub(crate) fn read(list: &Source) -> (Self, Vec<Finding>) {
        let mut ratchet = Self::default();
        let mut findings = Vec::new();
        for (line, text) in list.text.lines().enumerate() {
            let text = text.split('#').next().unwrap_or("").trim();
            if text.is_empty() {
                continue;
            }
            match text.split_once('=').map(|(name, lines)| (name.trim().trim_matches('"'), lines.trim().parse())) {
                Some((name, Ok(lines))) => {
                    ratchet.entries.insert(name.to_owned(), Entry { line, lines, met: false });
                }
                _ => findings.push(list.finding(line, "not of the form \"path\" = lines", "mend the line")),
            }
        }
        (ratchet, findings)
    }

    /// Entries whose file or function is gone or small enough by now.
    pub(crate) fn stale(&self, list: &Source) -> Vec<Finding> {
        let unmet = self.entries.iter().filter(|(_, entry)| !entry.met);
        unmet
            .map(|(name, entry)| {
                list.finding(entry.line, format!("{name} is no longer over the limit"), "remove the line")
            })
            .collect()
    }

    /// What is wrong with a size over its limit, in words, with the cure.
    fn judge(&mut self, name: &str, lines: usize, limit: usize) -> Option<(String, String)> {
        let Some(entry) = self.entries.get_mut(name) else {
            let cure = "split it, or argue for a line in xtask/tidy.toml".to_owned();
            return Some((format!("{name} has {lines} lines, {limit} is the limit"), cure));
        };
        entry.met = true;
        match lines.cmp(&entry.lines) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => {
                Some((format!("{name} grew from {} to {lines} lines", entry.lines), "make it smaller again".to_owned()))
            }
            std::cmp::Ordering::Less => Some((
                format!("{name} shrank from {} to {lines} lines", entry.lines),
                format!("write {lines} in xtask/tidy.toml, so that it stays"),
            )),
        }
    }
}

pub(crate) fn check(source: &Source, ratchet: &mut Ratchet) -> Vec<Finding> {
    if !source.is_rust() || source.is_test_file() {
        return Vec::new();
    }
    let tests = source.test_lines();
    let is_test = |line: usize| tests.iter().any(|range| range.contains(&line));
    let mut findings = Vec::new();
    let lines = (0..source.text.lines().count()).filter(|line| !is_test(*line)).count();
    if lines > FILE_LINES_MAX
        && let Some((what, cure)) = ratchet.judge(&source.path, lines, FILE_LINES_MAX)
    {
        findings.push(source.finding(0, what, cure));
    }
    for function in functions(source) {
        if is_test(function.first_line) || function.lines <= FUNCTION_LINES_MAX {
            continue;
        }
        let name = format!("{}::{}", source.path, function.name);
        if let Some((what, cure)) = ratchet.judge(&name, function.lines, FUNCTION_LINES_MAX) {
            findings.push(source.finding(function.first_line, what, cure));
        }
    }
    findings
}

struct Function<'a> {
    name: &'a str,
    first_line: usize,
    lines: usize,
}

/// Every function with a body, nested ones too.
fn functions(source: &Source) -> Vec<Function<'_>> {
    let tokens = source.tokens();
    let is_named = |index: usize| tokens.get(index + 1).is_some_and(|next: &Token<'_>| next.text != "(");
    let starts = (0..tokens.len()).filter(|index| tokens[*index].text == "fn" && is_named(*index));
    let measure = |index: usize| {
        let end = item_end(&tokens, index).filter(|end| tokens[*end].text == "}")?;
        let first_line = source.line_of(tokens[index].at);
        let lines = source.line_of(tokens[end].at) - first_line + 1;
        Some(Function { name: tokens[index + 1].text, first_line, lines })
    };
    starts.filter_map(measure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function_of(name: &str, lines: usize) -> String {
        format!("fn {name}() {{\n{}}}\n", "    x();\n".repeat(lines - 2))
    }

    fn judged(text: &str, list: &str) -> Vec<String> {
        let list = Source::new("xtask/tidy.toml", list);
        let (mut ratchet, mut findings) = Ratchet::read(&list);
        findings.extend(check(&Source::new("a.rs", text), &mut ratchet));
        findings.extend(ratchet.stale(&list));
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn functions_end_at_seventy_lines() {
        assert_eq!(judged(&function_of("f", 70), ""), [""; 0]);
        assert_eq!(judged(&function_of("f", 71), ""), ["a.rs::f has 71 lines, 70 is the limit"]);
        assert_eq!(judged("trait T { fn f(a: [u8; 4]); }\n", ""), [""; 0]);
    }

    #[test]
    fn files_end_at_six_hundred_lines_and_tests_do_not_count() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function_of("long", 300));
        assert_eq!(judged(&format!("{}{tests}", "//\n".repeat(600)), ""), [""; 0]);
        assert_eq!(judged(&"//\n".repeat(601), ""), ["a.rs has 601 lines, 600 is the limit"]);
        let early = format!("#[cfg(test)]\nmod fakes;\n{}", "//\n".repeat(601));
        assert_eq!(judged(&early, ""), ["a.rs has 601 lines, 600 is the limit"]);
    }

    #[test]
    fn listed_sizes_only_shrink() {
        let list = "# why\n\"a.rs::f\" = 80\n";
        assert_eq!(judged(&function_of("f", 80), list), [""; 0]);
        assert_eq!(judged(&function_of("f", 81), list), ["a.rs::f grew from 80 to 81 lines"]);
        assert_eq!(judged(&function_of("f", 79), list), ["a.rs::f shrank from 80 to 79 lines"]);
        assert_eq!(judged(&function_of("f", 20), list), ["a.rs::f is no longer over the limit"]);
        assert_eq!(judged("", "nonsense\n"), ["not of the form \"path\" = lines"]);
    }
}
