//! Signs what a control server signs, and what a thief of its keys would.

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::statement::{
    Endpoints, FRESH_TYPE, Fresh, ObjectRef, ROOT_TYPE, Role, Root, RootKey, Thresholds, TrustMode, VERSION_TYPE,
    VersionStatement,
};
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::{Head, Now};
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::Version;

pub(crate) const STATE: &[u8] = br#"{"schema":1}"#;
/// 2026-09-01T12:00:00Z
pub(crate) const NOON: i64 = 1_788_264_000;

pub(crate) fn stack() -> StackId {
    StackId::new("stk_TEST").unwrap()
}

/// Every name is another key.
pub(crate) fn key(name: &str) -> SecretKey {
    SecretKey::from_seed(Digest::of(name.as_bytes()).as_bytes())
}

pub(crate) fn at(secs: i64) -> Now {
    Now { clock: Time::from_unix_secs(secs), built: Time::from_unix_secs(0) }
}

/// The keys of one root, by name.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    pub(crate) root: String,
    pub(crate) version: String,
    pub(crate) fresh: String,
}

impl Keys {
    pub(crate) fn numbered(number: usize) -> Self {
        Self { root: format!("root {number}"), version: format!("version {number}"), fresh: format!("fresh {number}") }
    }
}

pub(crate) fn root(number: u64, epoch: u64, keys: &Keys) -> Root {
    let entry = |name: &str, role| {
        let public = key(name).public();
        (public.id(), RootKey::of(&public, &[role]))
    };
    Root {
        stack: stack(),
        version: number,
        epoch,
        mode: TrustMode::Managed,
        expires: Time::from_unix_secs(NOON + 10 * 365 * 86_400),
        keys: [entry(&keys.root, Role::Root), entry(&keys.version, Role::Version), entry(&keys.fresh, Role::Fresh)]
            .into(),
        threshold: Thresholds { root: 1, version: 1, fresh: 1 },
    }
}

pub(crate) fn sign_root(root: &Root, signers: &[&str]) -> Envelope {
    let keys: Vec<SecretKey> = signers.iter().map(|name| key(name)).collect();
    Envelope::sign(ROOT_TYPE, &serde_json::to_vec(root).unwrap(), &keys.iter().collect::<Vec<_>>())
}

pub(crate) fn pin(envelope: &Envelope) -> Digest {
    use base64::Engine;
    Digest::of(&base64::engine::general_purpose::STANDARD.decode(&envelope.payload).unwrap())
}

pub(crate) fn version(epoch: u64, number: u64) -> VersionStatement {
    VersionStatement {
        stack: stack(),
        epoch,
        version: Version(number),
        state: ObjectRef { sha256: Digest::of(STATE), size: u64::try_from(STATE.len()).unwrap() },
        prev: Digest::from_bytes([0; 32]),
        created: Time::from_unix_secs(NOON),
        requires: vec![],
        note: None,
    }
}

/// A statement and the digest its payload has.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) statement: VersionStatement,
    pub(crate) digest: Digest,
    pub(crate) envelope: Envelope,
}

pub(crate) fn sign_version(statement: VersionStatement, signer: &str) -> Signed {
    let payload = serde_json::to_vec(&statement).unwrap();
    let envelope = Envelope::sign(VERSION_TYPE, &payload, &[&key(signer)]);
    Signed { statement, digest: Digest::of(&payload), envelope }
}

pub(crate) fn fresh(of: &Signed, root: u64, issued: i64, expires: i64) -> Fresh {
    Fresh {
        stack: stack(),
        statement: of.digest,
        version: of.statement.version,
        root,
        issued: Time::from_unix_secs(issued),
        expires: Time::from_unix_secs(expires),
        poll_s: 60,
        paused: false,
        endpoints: Endpoints::default(),
    }
}

pub(crate) fn sign_fresh(fresh: &Fresh, signer: &str) -> Envelope {
    Envelope::sign(FRESH_TYPE, &serde_json::to_vec(fresh).unwrap(), &[&key(signer)])
}

pub(crate) fn head(version: &Signed, fresh: Envelope) -> Vec<u8> {
    serde_json::to_vec(&Head { version: version.envelope.clone(), fresh }).unwrap()
}
