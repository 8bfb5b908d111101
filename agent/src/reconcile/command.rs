//! From a command line as a person writes it to an argv (pure).

/// The shell every command goes through; POSIX says it is there.
const SHELL: &str = "/bin/sh";

/// argv for `command`. A simple command is exec'ed, so that signals reach the program and not a shell in front of it.
pub(super) fn argv(command: &str) -> Vec<String> {
    let script = if is_simple(command) { format!("exec {}", command.trim()) } else { command.to_owned() };
    vec![SHELL.to_owned(), "-c".to_owned(), script]
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
    fn only_simple_commands_are_execed() {
        for simple in ["node server.js", " python3 -m http.server \"$PORT\" ", "./run --x='a b'"] {
            assert!(argv(simple)[2].starts_with("exec "), "{simple}");
        }
        for compound in ["cd x && y", "A=1 node x", "a; b", "a | b", "exec x", "if true; then x; fi", "a $(b)", "a &"] {
            assert_eq!(argv(compound)[2], compound);
        }
    }
}
