//! Documents in, exact words out. `UPDATE_EXPECTED=1` writes the golden files and the printed pages anew; read the
//! difference before committing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_document::{Format, read, reference, schema};
use agentd_protocol::keys::{KEYS, Support};
use agentd_protocol::published::{NotJoined, join_salted, split_salted};
use agentd_protocol::stack::{Kind, Restart, Revision, Span, Stack, StopSignal};
use agentd_protocol::validate::{ENV_VALUE_BYTES_MAX, PROBLEMS_MAX, validate};
use proptest::prelude::*;
use serde_json::Value;

/// Stands in the golden documents wherever a secret could.
const SECRET: &str = "topsecret";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn compare(path: &Path, printed: &str) {
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(path, printed).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(printed, expected, "{} differs; see UPDATE_EXPECTED in this file", path.display());
}

fn rendered(text: &str, format: Format) -> String {
    let problems = read(text, format).expect_err("a document of this folder is bad");
    problems.iter().map(|problem| format!("FILE:{problem}\n")).collect()
}

fn full() -> Stack {
    read(&fs::read_to_string(here("tests/good/full.toml")).unwrap(), Format::Toml).unwrap()
}

#[test]
fn bad_documents_are_told_all_at_once_with_their_lines() {
    let mut seen = 0;
    for entry in fs::read_dir(here("tests/bad")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "expected") {
            continue;
        }
        let printed = rendered(&fs::read_to_string(&path).unwrap(), Format::of(&path));
        assert!(!printed.contains(SECRET), "{} leaks:\n{printed}", path.display());
        let mut expected = path.clone().into_os_string();
        expected.push(".expected");
        compare(Path::new(&expected), &printed);
        seen += 1;
    }
    assert!(seen >= 23, "only {seen} bad documents were found");
}

#[test]
fn printed_pages_are_those_checked_in() {
    compare(&here("../docs/stack.schema.json"), &schema::text());
    compare(&here("../docs/desired-state.md"), &reference::markdown());
}

#[test]
fn a_full_document_survives_its_json_and_its_publishing() {
    let stack = full();
    let json = serde_json::to_string(&stack).unwrap();
    assert_eq!(serde_json::from_str::<Stack>(&json).unwrap(), stack);
    let parts = split_salted(&stack, "salt");
    assert!(!parts.document.contains("\"info\""), "a value stands in the document");
    assert!(!format!("{stack:?}").contains("info"), "Debug shows a value");
    let join = |env: &str| join_salted(parts.document.as_bytes(), env.as_bytes());
    assert_eq!(join(&parts.env).unwrap(), stack);
    assert!(matches!(join(&split_salted(&stack, "other").env), Err(NotJoined::OtherEnv)));
}

#[test]
fn the_full_document_names_every_supported_key() {
    let text = fs::read_to_string(here("tests/good/full.toml")).unwrap();
    for key in KEYS.iter().filter(|key| key.support == Support::Supported) {
        assert!(text.contains(key.leaf()), "{} is not in good/full.toml", key.name);
    }
}

#[test]
fn values_are_normal_and_defaults_filled_in() {
    let stack = full();
    let [api, fixed, mailer, site] = &stack.service[..] else { panic!("four services") };
    assert_eq!((api.host.as_deref(), api.path.as_deref()), (Some("api.example.com"), Some("/api")));
    assert_eq!((api.dir.as_deref(), api.restart), (Some("apps/api"), Restart::OnFailure));
    assert_eq!(api.health.as_ref().map(|health| health.path.as_str()), Some("/healthz/"));
    assert_eq!((api.start_deadline, fixed.start_deadline), (Span::from_secs(90), Span::from_secs(120)));
    assert!(fixed.health.is_none() && matches!(fixed.source, Revision::Commit(_)));
    assert_eq!((mailer.replicas, mailer.public, mailer.strip_prefix), (1, true, false));
    assert_eq!((mailer.stop.signal, mailer.stop.timeout), (StopSignal::Term, Span::from_secs(30)));
    assert_eq!((site.kind, site.run.as_deref(), site.root.as_deref()), (Kind::Static, None, Some("dist")));
    assert_eq!((mailer.drain, mailer.start_deadline), (Span::from_secs(30), Span(Duration::from_secs(60))));
}

#[test]
fn json_says_the_same_as_toml() {
    let json = r#"{"schema":1,"stack":{"name":"s"},"service":[{"name":"a","repo":"file:///a","ref":"m","run":"x"}]}"#;
    let toml = "schema = 1\nstack.name = 's'\n[[service]]\nname = 'a'\nrepo = 'file:///a'\nref = 'm'\nrun = 'x'\n";
    assert_eq!(read(json, Format::Json).unwrap(), read(toml, Format::Toml).unwrap());
}

#[test]
fn sizes_are_bounded() {
    let large = " ".repeat(agentd_protocol::stack::DOCUMENT_BYTES_MAX + 1);
    assert_eq!(rendered(&large, Format::Toml), "FILE:1: document: found 4194305 bytes, expected at most 4194304\n");
    let many: String = (0..2_001).map(|_| "[[service]]\n").collect();
    let printed = rendered(&format!("schema = 1\nstack.name = 's'\n{many}"), Format::Toml);
    assert!(printed.contains("service: found 2001 services, expected at most 2000"), "{printed}");
    assert_eq!(printed.lines().count(), PROBLEMS_MAX);
    let value = "x".repeat(ENV_VALUE_BYTES_MAX + 1);
    let text = format!(
        "schema = 1\nstack.name = 's'\n[[service]]\nname = 'a'\nrepo = 'file:///a'\nref = 'm'\nrun = 'x'\nenv.A = '{value}'\n"
    );
    assert_eq!(
        rendered(&text, Format::Toml),
        "FILE:8: service.env.A: found a string of 65537 bytes, expected at most 65536\n"
    );
}

/// JSON whose keys are mostly real, so that the rules behind them are reached.
fn any_tree() -> impl Strategy<Value = Value> {
    let leaves: Vec<&'static str> = KEYS.iter().map(|key| key.leaf()).collect();
    let word = prop_oneof![
        any::<String>(),
        "[/a-z.:@%-]{0,20}",
        proptest::sample::select(leaves.clone()).prop_map(str::to_owned)
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    let key = prop_oneof![4 => proptest::sample::select(leaves).prop_map(str::to_owned), 1 => word];
    leaf.prop_recursive(5, 96, 12, move |inner| {
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => proptest::collection::vec((key.clone(), inner), 0..12)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    // Found cases become golden documents, so there is no file of seeds beside this one.
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn validation_takes_any_tree(tree in any_tree(), env in any_tree()) {
        let service = serde_json::json!({ "schema": 1, "service": [tree.clone(), { "env": env }], "stack": tree.clone() });
        for tree in [tree, service] {
            if let Err(problems) = validate(&tree) {
                prop_assert!(!problems.is_empty());
            }
        }
    }

    #[test]
    fn reading_takes_any_text(text in any::<String>(), pieces in proptest::collection::vec(
        proptest::sample::select(vec![
            "[", "]", "[[service]]\n", "env", "=", "\"", "'''", "\"\"\"", "{", "}", "\n", ".", "a", "1", "inf", ",", ":",
            "\\", "#", "//", "ä", "\r", "\0", "2024-01-01", "run", "[service.env]\n", "/", "0x", "-", "null",
        ]), 0..40)) {
        for text in [text, pieces.concat()] {
            for format in [Format::Toml, Format::Json] {
                if let Err(problems) = read(&text, format) {
                    prop_assert!(!problems.is_empty());
                }
            }
        }
    }

    /// A document whose only text in `env` is secret, damaged at one place: whatever is then told never shows it.
    #[test]
    fn no_damage_makes_a_secret_visible(at in 0_usize..220, cut in 0_usize..3, junk in "[\"'=\\[\\]{}\n,.#\\\\a1 ]{0,3}") {
        let toml = "schema = 1\nstack.name = 's'\n[[service]]\nname = 'a'\nrepo = 'file:///a'\nref = 'm'\nrun = 'x'\n\
                    [service.env]\nONE = \"QZXV JWKP QZXV\"\nTWO = 'QZXV'\nKEY = \"\"\"\nQZXV\nJWKP = QZXV\n\"\"\"\n[[service]]\nname = 'b'\n";
        let json = "{\"schema\":1,\"stack\":{\"name\":\"s\"},\"service\":[{\"name\":\"a\",\"run\":\"x\",\n\
                    \"env\":{\"ONE\":\"QZXV JWKP QZXV\",\n\"TWO\":\"QZXV=JWKP\"}}]}";
        for (text, format) in [(toml, Format::Toml), (json, Format::Json)] {
            let at = at.min(text.len());
            let end = (at + cut).min(text.len());
            let damaged = format!("{}{junk}{}", &text[..at], &text[end..]);
            if let Err(problems) = read(&damaged, format) {
                let printed: String = problems.iter().map(|one| format!("{one} {:?}\n", one.problem)).collect();
                prop_assert!(!printed.contains("QZXV") && !printed.contains("JWKP"), "{damaged}\n---\n{printed}");
            }
        }
    }
}
