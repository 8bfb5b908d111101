//! A host that sends the largest and the smallest of every number it may send: whoever adds them up goes on.

use std::process::Command;

use agentd_protocol::control::report::Report;
use agentd_protocol::ids::Version;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::hostile::{Scene, addresses, report_in_full};
use crate::server::{Host, Server, document};
use crate::visitor::Visitor;

/// Every number of a report as large as its type has it, or as small.
fn of_extremes(report: &Report, is_high: bool) -> Value {
    let mut value = serde_json::to_value(report).unwrap();
    let mut all = Vec::new();
    numbers(&value, "", &mut all);
    // By these the server knows the order of reports and events.
    all.retain(|at| {
        !["/boot", "/seq", "/cap"].contains(&at.as_str()) && !at.ends_with("/seq") && !at.contains("/head/")
    });
    let high =
        [u64::MAX.into(), i64::MAX.into(), u32::MAX.into(), i32::MAX.into(), u16::MAX.into(), Value::from(u8::MAX)];
    let low = [Value::from(i64::MIN), i32::MIN.into(), 0.into()];
    for at in all {
        let fits = |number: &&Value| {
            let mut with = value.clone();
            *with.pointer_mut(&at).unwrap() = (*number).clone();
            serde_json::from_value::<Report>(with).is_ok()
        };
        let wanted = if is_high { &high[..] } else { &low };
        let number = wanted.iter().find(fits).unwrap_or_else(|| panic!("no number fits {at}")).clone();
        *value.pointer_mut(&at).unwrap() = number;
    }
    value
}

fn numbers(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Number(_) => found.push(at.to_owned()),
        Value::Array(all) => {
            all.iter().enumerate().for_each(|(index, one)| numbers(one, &format!("{at}/{index}"), found));
        }
        Value::Object(fields) => fields.iter().for_each(|(key, one)| numbers(one, &format!("{at}/{key}"), found)),
        Value::String(_) | Value::Null | Value::Bool(_) => {}
    }
}

/// Of what a host has seen: the store's integers have 64 bits and a sign.
const SEEN_MAX: Version = Version(i64::MAX.unsigned_abs());

#[tokio::test]
async fn no_number_of_a_host_is_too_much_for_a_page_or_a_verb() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let owner = Visitor::set_up(&server).await;
    let stack = server.stack("shop");
    server.publish("shop", &document(&[("api", '1', "")]));
    let mut hosts = Vec::new();
    // Two of the largest, so that their sums are larger than their types.
    for (machine, is_high, seen) in [("a", true, Version(1)), ("b", true, SEEN_MAX), ("c", false, Version(0))] {
        let mut host = Host::join(&server, &server.join("shop"), machine).await;
        let mut report = report_in_full(&mut host);
        (report.head.seen, report.head.applied) = (seen, seen);
        let report = of_extremes(&report, is_high).to_string();
        let (status, body) = host.call(Method::POST, "/v1/report", report.into_bytes(), &[]).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        hosts.push(host.id);
    }
    for host in &hosts {
        let scene = Scene { stack: stack.clone(), host: host.clone(), hosts: hosts.clone(), open: Vec::new() };
        for path in addresses(&scene) {
            let answer = owner.ask(Method::GET, &path).header("accept", "text/html").send().await;
            let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}\n{}", server.log()));
            assert!(!answer.status().is_server_error(), "{path}: {}", answer.status());
        }
        assert_eq!(ran(&server, &["host", "show", host]).0, Some(0));
    }
    for words in [&["stack", "list"][..], &["stack", "show", "shop"], &["host", "list"], &["events"], &["audit"]] {
        let (code, told) = ran(&server, words);
        assert_eq!(code, Some(0), "{words:?}: {told}");
    }
    let (_, shown) = ran(&server, &["stack", "show", "shop"]);
    let twice = u64::from(u32::MAX) * 2;
    assert!(shown.contains(&format!("{twice}/{twice}")), "{shown}");
    // One that says it has seen the last version there is keeps nobody from publishing.
    assert_eq!(server.publish("shop", &document(&[("api", '2', "")])), 2);
    assert!(server.stop());
}

/// As a person reads it.
fn ran(server: &Server, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_controld"));
    let ran = command.arg("--home").arg(&server.home).args(words).output().unwrap();
    let text = [ran.stdout, ran.stderr].concat();
    (ran.status.code(), String::from_utf8(text).unwrap())
}
