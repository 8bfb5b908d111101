//! Bytes of a server's choice as `head.json`, a root and a state object: nothing panics, and nothing is believed, for the
//! keys of this root have signed nothing.
#![no_main]

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::statement::{ROOT_TYPE, Role, Root, RootKey, Thresholds, TrustMode};
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::{Now, TrustRecord, read_root};
use agentd_protocol::digest::Digest;
use agentd_protocol::published;
use libfuzzer_sys::fuzz_target;

fn begun() -> TrustRecord {
    let key = SecretKey::from_seed(&[7; 32]);
    let public = key.public();
    let root = Root {
        stack: StackId::of(&[1; 16]),
        version: 1,
        epoch: 1,
        mode: TrustMode::Managed,
        expires: Time::EPOCH,
        keys: [(public.id(), RootKey::of(&public, &[Role::Root, Role::Version, Role::Fresh]))].into(),
        threshold: Thresholds { root: 1, version: 1, fresh: 1 },
    };
    let payload = serde_json::to_vec(&root).expect("a root is JSON");
    let envelope = Envelope::sign(ROOT_TYPE, &payload, &[&key]);
    TrustRecord::begin(&root.stack, &Digest::of(&payload), &[envelope]).expect("it is pinned")
}

fuzz_target!(|bytes: &[u8]| {
    let record = begun();
    let now = Now { clock: Time::from_unix_secs(1_788_264_000), built: Time::EPOCH };
    assert!(record.decide(bytes, now).is_err());
    if let Ok(envelope) = read_root(bytes) {
        assert!(record.clone().follow(std::slice::from_ref(&envelope)).is_err());
        assert!(TrustRecord::begin(&record.root.stack, &Digest::of(b"pinned"), &[envelope]).is_err());
    }
    let (document, env) = bytes.split_at(bytes.len() / 2);
    if let Ok(stack) = published::join_salted(document, env) {
        // What was read is what is written.
        assert!(published::names_of(&stack).len() > 2);
    }
});
