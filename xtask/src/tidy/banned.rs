//! Calls and words that do not land: each with what to write instead. Clippy denies some of them as well; here they are
//! caught behind `cfg`s that a build of this machine never sees.

use super::source::{Finding, Source, Token, spells};

/// Lines above an `unsafe` in which its reason may stand: attributes and a long reason fit.
const SAFETY_LINES_ABOVE: usize = 8;
/// What `cargo xtask` runs elsewhere never prints through: a closed pipe would be a panic.
const PRINTS: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];
/// Split, so that this file does not find itself.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];
/// Folders of one machine or one person.
const MACHINE_DIRS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/fa", "rm/")];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = unfinished(source);
    findings.extend(machine_paths(source));
    if source.is_rust() {
        let tokens = source.tokens();
        findings.extend(attributes(source, &tokens));
        findings.extend(prints(source, &tokens));
        findings.extend(sleeps(source, &tokens));
        findings.extend(swallowed(source, &tokens));
        findings.extend(unsafe_without_reason(source, &tokens));
        findings.extend(doc_examples(source));
    }
    findings
}

fn unfinished(source: &Source) -> Vec<Finding> {
    let is_marker = |word: &str| UNFINISHED.contains(&word);
    let mut findings = Vec::new();
    for (line, text) in source.text.lines().enumerate() {
        let mut words = text.split(|char: char| !char.is_alphanumeric() && char != '_');
        if let Some(word) = words.find(|word| is_marker(word)) {
            findings.push(source.finding(line, word, "do it now, or file it where work is tracked"));
        }
    }
    findings
}

fn machine_paths(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in source.text.lines().enumerate() {
        for dir in MACHINE_DIRS {
            // Inside a longer path (`/srv/<dir>/`) the words mean nothing.
            let is_absolute = |at: usize| {
                let before = text[..at].chars().next_back();
                before.is_none_or(|char| !char.is_alphanumeric() && !"._-~}>/$*".contains(char))
            };
            let names_something = |at: usize| text[at + dir.len()..].starts_with(|char: char| char.is_alphanumeric());
            if text.match_indices(dir).any(|(at, _)| is_absolute(at) && names_something(at)) {
                findings.push(source.finding(
                    line,
                    format!("a path of one machine ({dir}…)"),
                    "take it as an argument",
                ));
            }
        }
    }
    findings
}

fn attributes(source: &Source, tokens: &[Token<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, token) in tokens.iter().enumerate().filter(|(_, token)| token.text == "#") {
        let inner = usize::from(tokens.get(index + 1).is_some_and(|next| next.text == "!"));
        if tokens.get(index + inner + 1).is_none_or(|next| next.text != "[") {
            continue;
        }
        let line = source.line_of(token.at);
        match tokens.get(index + inner + 2).map(|name| name.text) {
            Some("allow") => findings.push(source.finding(
                line,
                "#[allow]",
                "#[expect(lint, reason = \"…\")] ends when it is not needed",
            )),
            Some("ignore") => {
                findings.push(source.finding(line, "#[ignore]", "a test that may not run fails: mend or remove it"))
            }
            _ => {}
        }
    }
    findings
}

fn prints(source: &Source, tokens: &[Token<'_>]) -> Vec<Finding> {
    // A build script speaks to cargo through its stdout.
    if source.path.ends_with("build.rs") {
        return Vec::new();
    }
    let is_print = |index: &usize| {
        PRINTS.contains(&tokens[*index].text) && tokens.get(index + 1).is_some_and(|next| next.text == "!")
    };
    let found = (0..tokens.len()).filter(is_print);
    let cure = "write through the program's one writer, or tracing";
    found
        .map(|index| source.finding(source.line_of(tokens[index].at), format!("{}!", tokens[index].text), cure))
        .collect()
}

/// A sleep in a test is luck; the pause between two looks at a condition is not, and says so with `// poll`.
fn sleeps(source: &Source, tokens: &[Token<'_>]) -> Vec<Finding> {
    let tests = source.test_lines();
    let mut findings = Vec::new();
    for index in (0..tokens.len()).filter(|index| spells(&tokens[*index..], &["sleep", "("])) {
        let line = source.line_of(tokens[index].at);
        let in_test = source.is_test_file() || tests.iter().any(|range| range.contains(&line));
        let is_definition = index.checked_sub(1).is_some_and(|before| tokens[before].text == "fn");
        if in_test && !is_definition && !source.comment_on(line).starts_with("poll") {
            let cure = "wait for a condition with a cap; the pause of that loop is marked `// poll: why`";
            findings.push(source.finding(line, "a sleep in a test", cure));
        }
    }
    findings
}

fn swallowed(source: &Source, tokens: &[Token<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let rest = &tokens[index..];
        let what = if spells(rest, &["let", "_", "="]) {
            "let _ ="
        } else if spells(rest, &[".", "ok", "(", ")", ";"]) && !is_value(tokens, index) {
            ".ok();"
        } else {
            continue;
        };
        let end = rest.iter().find(|token| token.text == ";").map_or(token.at, |end| end.at);
        if !source.is_explained(source.line_of(token.at)) && source.comment_on(source.line_of(end)).is_empty() {
            let cure = "handle the error, or say on the line why it does not matter";
            findings.push(source.finding(source.line_of(token.at), format!("a result is dropped ({what})"), cure));
        }
    }
    findings
}

/// Whether the statement that ends in the `.ok();` at `index` binds, returns or assigns its value.
fn is_value(tokens: &[Token<'_>], index: usize) -> bool {
    let mut nested = 0_usize;
    for token in tokens[..index].iter().rev() {
        match token.text {
            ")" | "]" | "}" => nested += 1,
            "(" | "[" | "{" if nested > 0 => nested -= 1,
            "let" | "return" | "=" | "break" if nested == 0 => return true,
            ";" | "{" | "(" | "[" if nested == 0 => return false,
            _ => {}
        }
    }
    false
}

fn unsafe_without_reason(source: &Source, tokens: &[Token<'_>]) -> Vec<Finding> {
    let comments: Vec<&str> = source.comments.lines().collect();
    let mut findings = Vec::new();
    for token in tokens.iter().filter(|token| token.text == "unsafe") {
        let line = source.line_of(token.at);
        let near = &comments[line.saturating_sub(SAFETY_LINES_ABOVE)..=line];
        if !near.iter().any(|comment| comment.contains("SAFETY") || comment.contains("# Safety")) {
            findings.push(source.finding(
                line,
                "unsafe without its reason",
                "say in a `// SAFETY:` comment why it is sound",
            ));
        }
    }
    findings
}

/// The test runner runs no doc examples, so one that looks like a test would be a promise nobody keeps.
fn doc_examples(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut inside = false;
    for (line, comment) in source.comments.lines().enumerate() {
        let comment = comment.trim();
        let Some(doc) = comment.strip_prefix("///").or_else(|| comment.strip_prefix("//!")) else {
            inside = false;
            continue;
        };
        let Some(language) = doc.trim().strip_prefix("```") else { continue };
        inside = !inside;
        if inside && !matches!(language.trim(), "text" | "toml" | "json" | "sh") {
            findings.push(source.finding(line, "a doc example that no door runs", "mark it ```text, or write a test"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(path: &str, text: &str) -> Vec<String> {
        check(&Source::new(path, text)).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn attributes_are_seen_in_code_alone() {
        assert_eq!(whats("a.rs", "#![allow(dead_code)]\n#[ignore = \"slow\"]\nfn a() {}\n"), ["#[allow]", "#[ignore]"]);
        assert_eq!(
            whats("a.rs", "// #[allow]\nlet a = \"#[ignore]\";\n#[expect(x, reason = \"y\")]\nfn a() {}\n"),
            [""; 0]
        );
    }

    #[test]
    fn prints_belong_to_build_scripts() {
        assert_eq!(whats("agent/src/a.rs", "fn a() { println!(\"x\"); }\n"), ["println!"]);
        assert_eq!(whats("agent/build.rs", "fn main() { println!(\"x\"); }\n"), [""; 0]);
        assert_eq!(whats("agent/src/a.rs", "fn a(print: bool) { writeln!(x, \"print!\"); if print {} }\n"), [""; 0]);
    }

    #[test]
    fn sleeps_in_tests_say_what_they_poll() {
        let test = "#[cfg(test)]\nmod tests {\n    fn a() { std::thread::sleep(x); }\n}\n";
        assert_eq!(whats("sys/src/a.rs", test), ["a sleep in a test"]);
        assert_eq!(whats("tests/src/wait.rs", "fn a() {\n    sleep(P); // poll: the file appears\n}\n"), [""; 0]);
        assert_eq!(whats("agent/src/a.rs", "async fn a() { tokio::time::sleep(x).await; }\n"), [""; 0]);
    }

    #[test]
    fn dropped_results_have_a_reason() {
        assert_eq!(whats("a.rs", "let _ = a();\n"), ["a result is dropped (let _ =)"]);
        assert_eq!(whats("a.rs", "let _ = a(); // the peer may be gone\n// gone already\nb().ok();\n"), [""; 0]);
        assert_eq!(
            whats("a.rs", "fn f() {\n    a(x, |y| { y })\n        .ok();\n}\n"),
            ["a result is dropped (.ok();)"]
        );
        assert_eq!(whats("a.rs", "let a = b({ c; d }).ok();\nself.x = y.ok();\nreturn z.ok();\n"), [""; 0]);
    }

    #[test]
    fn unsafe_stands_under_its_reason() {
        assert_eq!(whats("a.rs", "let a = unsafe { b() };\n"), ["unsafe without its reason"]);
        assert_eq!(whats("a.rs", "// SAFETY: b touches nothing.\nlet a = unsafe { b() };\n"), [""; 0]);
        assert_eq!(whats("a.rs", "#[expect(unsafe_code, reason = \"x\")]\nfn a() {}\n"), [""; 0]);
    }

    #[test]
    fn words_and_paths_are_seen_everywhere() {
        assert_eq!(whats("README.md", &format!("a\n{} b\n", UNFINISHED[0])), [UNFINISHED[0]]);
        let found =
            whats("a.sh", &format!("cd {}wt\nls src{}x {}<you>\n", MACHINE_DIRS[0], MACHINE_DIRS[0], MACHINE_DIRS[2]));
        assert_eq!(found, [format!("a path of one machine ({}…)", MACHINE_DIRS[0])]);
    }

    #[test]
    fn doc_examples_are_text() {
        assert_eq!(whats("a.rs", "/// ```\n/// let a = 1;\n/// ```\nfn a() {}\n"), ["a doc example that no door runs"]);
        assert_eq!(whats("a.rs", "/// ```text\n/// a -> b\n/// ```\nfn a() {}\n"), [""; 0]);
    }
}
