//! What strangers send, read as each kind of thing they may send: nothing panics, and what is read comes back the same.
#![no_main]

use agentd_protocol::control::enroll::Enroll;
use agentd_protocol::control::join::JoinString;
use agentd_protocol::control::problem::Problem;
use agentd_protocol::control::report::{Report, Reported};
use agentd_protocol::control::request;
use agentd_protocol::digest::Digest;
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn comes_back<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(bytes) else { return };
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).expect("as before"), written);
}

fuzz_target!(|bytes: &[u8]| {
    comes_back::<Report>(bytes);
    comes_back::<Reported>(bytes);
    comes_back::<Enroll>(bytes);
    comes_back::<Problem>(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(join) = JoinString::read(text) {
        assert_eq!(JoinString::read(&join.reveal()).map(|again| again.token), Ok(join.token));
    }
    let (input, signature) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(claims) = request::read(input, signature) {
        assert!(claims.len() <= 2 && !claims.is_empty());
    }
    assert!(request::check_digest(text, &Digest::of(b"body")).is_err());
});
