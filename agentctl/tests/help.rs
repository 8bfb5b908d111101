//! The printed help is the page checked in, and completion scripts are scripts.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

fn agentctl(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_agentctl")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// `UPDATE_EXPECTED=1` writes the page anew; read the difference before committing it.
#[test]
fn help_of_every_verb_is_the_page_checked_in() {
    let page = agentctl(&["help-markdown"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/agentctl.md");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(page, expected, "{} differs; see UPDATE_EXPECTED in this file", path.display());
}

#[test]
fn help_of_every_verb_shows_an_example() {
    let page = agentctl(&["help-markdown"]);
    for section in page.split("\n## ").skip(1) {
        let name = section.lines().next().unwrap();
        // What stands below a verb is shown there.
        assert!(section.contains("Example") || name.split(' ').count() > 2, "{name} has no example");
        for line in section.lines() {
            assert!(line.chars().count() <= 100, "{name}: too wide: {line}");
        }
    }
}

#[test]
fn completions_are_made_for_three_shells() {
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef agentctl"), ("fish", "complete -c agentctl")] {
        let script = agentctl(&["completions", shell]);
        assert!(script.contains(mark) && script.contains("rollback"), "{shell}: {script}");
        assert!(!script.contains("help-markdown"), "{shell} offers what is hidden");
    }
    let unknown = Command::new(env!("CARGO_BIN_EXE_agentctl")).args(["completions", "csh"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn completions_for_bash_parse() {
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(agentctl(&["completions", "bash"]).as_bytes()).unwrap();
    let ended = bash.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}
