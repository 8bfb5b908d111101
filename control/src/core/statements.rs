//! The documents that a stack's keys sign. Pure: keys and times come in.

use std::collections::BTreeMap;

use agentd_protocol::control::dsse::Envelope;
use agentd_protocol::control::enroll::{RECEIPT_TYPE, Receipt};
use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::statement::{
    Endpoints, FRESH_SECS, FRESH_TYPE, Fresh, ROOT_TYPE, Role, Root, RootKey, Thresholds, TrustMode, VERSION_TYPE,
    VersionStatement,
};
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::Head;
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::Version;

/// A root says until when it is meant to stand: years, since a stack may stand untouched that long.
const ROOT_SECS: i64 = 10 * 365 * 24 * 3_600;

/// The private keys of a stack.
#[derive(Debug)]
pub(super) struct Keys {
    pub root: SecretKey,
    pub version: SecretKey,
    pub fresh: SecretKey,
}

/// A signed document, and the digest of what was signed.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    pub envelope: Envelope,
    pub payload: Digest,
}

fn sign(kind: &str, document: &impl serde::Serialize, key: &SecretKey) -> Signed {
    let payload = serde_json::to_vec(document).expect("texts and numbers are JSON");
    Signed { envelope: Envelope::sign(kind, &payload, &[key]), payload: Digest::of(&payload) }
}

pub(super) fn first_root(stack: &StackId, keys: &Keys, now: Time) -> Signed {
    let named = [(&keys.root, Role::Root), (&keys.version, Role::Version), (&keys.fresh, Role::Fresh)];
    let keys_by_id: BTreeMap<String, RootKey> =
        named.map(|(key, role)| (key.public().id(), RootKey::of(&key.public(), &[role]))).into();
    let root = Root {
        stack: stack.clone(),
        version: 1,
        epoch: 1,
        mode: TrustMode::Managed,
        expires: now.plus_secs(ROOT_SECS),
        keys: keys_by_id,
        threshold: Thresholds { root: 1, version: 1, fresh: 1 },
    };
    sign(ROOT_TYPE, &root, &keys.root)
}

pub(super) fn version(statement: &VersionStatement, keys: &Keys) -> Signed {
    sign(VERSION_TYPE, statement, &keys.version)
}

pub(super) fn receipt(receipt: &Receipt, keys: &Keys) -> Envelope {
    sign(RECEIPT_TYPE, receipt, &keys.fresh).envelope
}

/// What a fresh note is about.
#[derive(Debug, Clone)]
pub(super) struct Currency<'a> {
    pub stack: &'a StackId,
    pub version: Version,
    /// Digest of the payload of the version's statement.
    pub statement: Digest,
    pub root: u64,
    pub poll_s: u64,
    pub paused: bool,
    pub url: &'a str,
}

/// Exact bytes of head.json, and until when its note holds.
pub(super) fn head(version: Envelope, about: &Currency<'_>, keys: &Keys, now: Time) -> (String, Time) {
    let fresh = Fresh {
        stack: about.stack.clone(),
        statement: about.statement,
        version: about.version,
        root: about.root,
        issued: now,
        expires: now.plus_secs(FRESH_SECS),
        poll_s: about.poll_s,
        paused: about.paused,
        endpoints: Endpoints { control: vec![about.url.to_owned()] },
    };
    let until = fresh.expires;
    let head = Head { version, fresh: sign(FRESH_TYPE, &fresh, &keys.fresh).envelope };
    (serde_json::to_string(&head).expect("texts are JSON"), until)
}
