//! The agent's recorded calls: that they are ours, and that controld answers them as they say.

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::request::{self, Parts, Signer};
use agentd_protocol::control::statement::{ROOT_TYPE, Role, Root};
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::{Decision, Now, TrustRecord, check_state};
use agentd_protocol::digest::Digest;
use agentd_tests::Controld;
use agentd_tests::conformance::{Operator, Outcome, Plan, dir, load, run_all};
use futures_util::StreamExt;
use serde_json::{Value, json};

fn recorded() -> Value {
    serde_json::from_str(&std::fs::read_to_string(dir().join("signatures.json")).unwrap()).unwrap()
}

fn key(of: &Value) -> SecretKey {
    let byte = u8::try_from(of["seed_byte"].as_u64().unwrap()).unwrap();
    SecretKey::from_seed(&[byte; 32])
}

fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap()
}

/// Ed25519 is deterministic: the same bytes, whoever signs.
#[test]
fn recorded_requests_are_signed_as_ours() {
    let recorded = recorded();
    let requests = recorded["requests"].as_array().unwrap();
    assert!(requests.len() >= 4);
    for one in requests {
        let digest = request::content_digest(text(one, "body").as_bytes());
        assert_eq!(digest, text(one, "content-digest"), "{}", one["about"]);
        let keys: Vec<SecretKey> = one["signers"].as_array().unwrap().iter().map(key).collect();
        let signers: Vec<Signer<'_>> = one["signers"]
            .as_array()
            .unwrap()
            .iter()
            .zip(&keys)
            .map(|(signer, key)| Signer { label: text(signer, "label"), keyid: text(signer, "keyid"), key })
            .collect();
        let parts = Parts {
            method: text(one, "method"),
            path: text(one, "path"),
            query: text(one, "query"),
            content_digest: &digest,
        };
        let created = one["created"].as_u64().unwrap();
        let headers = request::sign(parts, created, &signers);
        assert_eq!(headers.signature_input, text(one, "signature-input"), "{}", one["about"]);
        assert_eq!(headers.signature, text(one, "signature"), "{}", one["about"]);
        let claims = request::read(text(one, "signature-input"), text(one, "signature")).unwrap();
        for (claim, signer) in claims.iter().zip(one["signers"].as_array().unwrap()) {
            assert_eq!(claim.check(parts, &text(signer, "public").parse().unwrap()), Ok(()), "{}", one["about"]);
        }
    }
}

#[test]
fn recorded_envelopes_are_believed() {
    let recorded = recorded();
    let envelope = |name: &str| -> Envelope {
        let one = &recorded["envelopes"][name];
        let envelope: Envelope = serde_json::from_value(one["envelope"].clone()).unwrap();
        let payload = text(one, "payload");
        assert_eq!(Digest::of(payload.as_bytes()).to_string(), text(one, "payload_sha256"));
        assert_eq!(Envelope::sign(&envelope.payload_type, payload.as_bytes(), &[&key(one)]), envelope, "{name}");
        envelope
    };
    let root = envelope("root");
    let pin: Digest = text(&recorded["envelopes"]["root"], "payload_sha256").parse().unwrap();
    let read: Root = serde_json::from_str(text(&recorded["envelopes"]["root"], "payload")).unwrap();
    assert!(root.open(ROOT_TYPE, &read.keys_of(Role::Root), 1).is_ok());
    let record = TrustRecord::begin(&read.stack, &pin, &[root]).unwrap();
    let head = json!({"version": envelope("version"), "fresh": envelope("fresh")});
    let now = Now { clock: Time::from_unix_secs(1_788_264_060), built: Time::EPOCH };
    let decision = record.decide(&serde_json::to_vec(&head).unwrap(), now).unwrap();
    let Decision::Newer { offer, .. } = decision else { panic!("{decision:?}") };
    assert_eq!(offer.statement.version.0, 57);
    check_state(&offer, text(&recorded, "state").as_bytes()).unwrap();
}

#[test]
fn every_vector_can_be_read() {
    let vectors = load(&dir()).unwrap();
    assert!(vectors.len() >= 45, "{}", vectors.len());
    for vector in &vectors {
        assert!(vector.about.ends_with('.') && !vector.steps.is_empty(), "{}", vector.name);
    }
}

/// What a host may count on, of the server we ship: everything, the optional included.
#[test]
fn controld_answers_as_recorded() {
    let controld = Controld::start();
    let hook = dir().join("controld-operator");
    let plan = Plan {
        base_url: controld.url.clone(),
        operator: Operator { program: hook, arguments: vec![controld.home().display().to_string()] },
        client: agentd_sys::http::plain().build().unwrap(),
        dir: dir(),
        run: "test".into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut failures = Vec::new();
    let vectors = load(&plan.dir).unwrap();
    for (vector, outcome) in runtime.block_on(run_all(&plan, &vectors).collect::<Vec<_>>()) {
        match outcome {
            Outcome::Passed => {}
            Outcome::Skipped(capability) => failures.push(format!("{}: skipped for `{capability}`", vector.name)),
            Outcome::Failed(error) => failures.push(format!("{}: {error:#}", vector.name)),
        }
    }
    assert!(failures.is_empty(), "{}\n{}", failures.join("\n"), controld.log());
}
