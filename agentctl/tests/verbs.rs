//! The verbs that need no agent, as a process: what they print and how they end.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use agentd_protocol::exit_code::Exit;

fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../document/tests").join(name)
}

fn agentctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_agentctl")).args(args).output().unwrap()
}

#[track_caller]
fn ended(output: &Output, exit: Exit) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(i32::from(exit.code())), "{stdout}{stderr}");
    (stdout, stderr)
}

#[test]
fn check_prints_every_problem_with_file_and_line_and_counts_them() {
    let path = document("bad/not-yet.toml");
    let (stdout, _) = ended(&agentctl(&["check", path.to_str().unwrap()]), Exit::Invalid);
    let expected = std::fs::read_to_string(document("bad/not-yet.toml.expected")).unwrap();
    let expected = expected.replace("FILE", path.to_str().unwrap());
    assert_eq!(stdout, format!("{expected}{} problems\n", expected.lines().count()));
}

#[test]
fn check_says_what_a_good_file_holds() {
    let path = document("good/full.toml");
    let (stdout, _) = ended(&agentctl(&["check", path.to_str().unwrap()]), Exit::Ok);
    let counts = "valid: stack \"shop\", 4 services (2 web, 1 worker, 1 static), 3 routes, 5 instances\n";
    assert_eq!(stdout, format!("{}: {counts}", path.display()));
}

#[test]
fn check_prints_json() {
    let path = document("bad/list.json");
    let (stdout, _) = ended(&agentctl(&["check", "--json", path.to_str().unwrap()]), Exit::Invalid);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&json["valid"], &json["problems"][0]["line"]), (&false.into(), &1.into()));
}

#[test]
fn a_missing_file_is_a_sentence() {
    let (_, stderr) = ended(&agentctl(&["check", "/nonexistent/stack.toml"]), Exit::Failed);
    let sentence = "agentctl: cannot open the stack file /nonexistent/stack.toml: No such file or directory";
    assert!(stderr.starts_with(sentence), "{stderr}");
}

#[test]
fn explain_knows_keys_and_what_was_meant() {
    let (stdout, _) = ended(&agentctl(&["explain", "service.health.path"]), Exit::Ok);
    assert!(stdout.starts_with("service.health.path\n") && stdout.contains("example: path = \"/healthz\""), "{stdout}");
    let (_, stderr) = ended(&agentctl(&["explain", "service.helth.path"]), Exit::NotFound);
    assert!(stderr.contains("did you mean service.health.path?"), "{stderr}");
    let (stdout, _) = ended(&agentctl(&["explain"]), Exit::Ok);
    assert!(stdout.contains("stack.name"), "{stdout}");
    ended(&agentctl(&["explain", "a", "b"]), Exit::Usage);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_agentctl"))
        .arg("schema")
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(ended(&output, Exit::Ok).1, "");
}
