//! From a service's entry to an argv (pure).

use agentd_protocol::stack::Service;

/// The shell every command goes through; POSIX says it is there.
const SHELL: &str = "/bin/sh";

/// argv for `command`. A simple command is exec'ed, so that signals reach the program and not a shell in front of it.
pub(super) fn argv(command: &str) -> Vec<String> {
    let script = if is_simple(command) { format!("exec {}", command.trim()) } else { command.to_owned() };
    vec![SHELL.to_owned(), "-c".to_owned(), script]
}

/// argv of our own program at `program`, for a static site.
pub(super) fn site_argv(program: String, entry: &Service) -> Vec<String> {
    let root = entry.root.as_deref().unwrap_or(".");
    let fallback = entry.fallback.iter().map(|file| format!("--fallback={file}"));
    [program, "static".to_owned(), format!("--root={root}")].into_iter().chain(fallback).collect()
}

/// One program and its arguments: no operator, no assignment in front, no word the shell itself runs.
fn is_simple(command: &str) -> bool {
    const OPERATORS: &[char] = &[';', '|', '&', '<', '>', '(', ')', '`', '\n', '#'];
    const WORDS: &[&str] = &[
        "!", "{", "cd", "exec", "export", "for", "if", "case", "while", "until", "set", "trap", "ulimit", "umask",
        "unset", "eval", ".", ":", "source",
    ];
    let command = command.trim();
    let first = command.split_ascii_whitespace().next().unwrap_or_default();
    !command.contains(OPERATORS) && !command.contains("$(") && !first.contains('=') && !WORDS.contains(&first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_served_by_our_own_program() {
        let mut site = super::super::testing::entry("site", 'a');
        assert_eq!(site_argv("/p".to_owned(), &site), ["/p", "static", "--root=."]);
        (site.root, site.fallback) = (Some("dist".to_owned()), Some("-x.html".to_owned()));
        assert_eq!(site_argv("/p".to_owned(), &site), ["/p", "static", "--root=dist", "--fallback=-x.html"]);
    }

    #[test]
    fn only_simple_commands_are_execed() {
        for simple in ["node server.js", " python3 -m http.server \"$PORT\" ", "./run --x='a b'"] {
            assert!(argv(simple)[2].starts_with("exec "), "{simple}");
        }
        for compound in ["cd x && y", "A=1 node x", "a; b", "a | b", "exec x", "if true; then x; fi", "a $(b)", "a &"] {
            assert_eq!(argv(compound)[2], compound);
        }
    }
}
