//! One rule a test: what is refused, and by which name.

use agentd_protocol::control::dsse::Unverified;
use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::statement::{Fresh, TrustMode, VersionStatement};
use agentd_protocol::control::time::Time;
use agentd_protocol::control::trust::{Decision, Now, Offer, Refused, TrustRecord, What, check_state};
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::Version;

use crate::publisher::*;

fn begun() -> TrustRecord {
    let envelope = sign_root(&root(1, 1, &Keys::numbered(1)), &["root 1"]);
    TrustRecord::begin(&stack(), &pin(&envelope), &[envelope]).unwrap()
}

fn head_of(statement: VersionStatement, change: impl FnOnce(&mut Fresh)) -> Vec<u8> {
    let signed = sign_version(statement, "version 1");
    let mut note = fresh(&signed, 1, NOON, NOON + 86_400);
    change(&mut note);
    head(&signed, sign_fresh(&note, "fresh 1"))
}

fn offered(record: &TrustRecord, head: &[u8]) -> (TrustRecord, Offer) {
    match record.decide(head, at(NOON)).unwrap() {
        Decision::Newer { record, offer } => (record, *offer),
        other => panic!("{other:?}"),
    }
}

fn at_version(number: u64) -> TrustRecord {
    let (record, offer) = offered(&begun(), &head_of(version(1, number), |_| {}));
    record.adopt(&offer)
}

fn refused(record: &TrustRecord, head: &[u8]) -> Refused {
    record.decide(head, at(NOON)).unwrap_err()
}

#[test]
fn a_version_is_offered_then_current() {
    let head = head_of(version(1, 57), |_| {});
    let (record, offer) = offered(&begun(), &head);
    assert_eq!((offer.statement.version, check_state(&offer, STATE)), (Version(57), Ok(())));
    let record = record.adopt(&offer);
    assert_eq!(record.time_floor, Time::from_unix_secs(NOON));
    assert!(matches!(record.decide(&head, at(NOON)), Ok(Decision::Current { .. })));
    // What is written down comes back the same.
    let written = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<TrustRecord>(&written).unwrap(), record);
}

#[test]
fn the_state_is_the_one_that_was_signed() {
    let (_, offer) = offered(&begun(), &head_of(version(1, 1), |_| {}));
    assert_eq!(check_state(&offer, &STATE[1..]), Err(Refused::OtherSize { found: 11, expected: 12 }));
    assert_eq!(check_state(&offer, br#"{"schema":2}"#), Err(Refused::OtherDigest { what: What::State }));
}

#[test]
fn the_root_is_the_pinned_one() {
    let envelope = sign_root(&root(1, 1, &Keys::numbered(1)), &["root 1"]);
    let begin = |pin: &Digest, envelope| TrustRecord::begin(&stack(), pin, &[envelope]).unwrap_err();
    let other = sign_root(&root(1, 1, &Keys::numbered(2)), &["root 2"]);
    assert_eq!(begin(&pin(&envelope), other), Refused::OtherRoot);
    let unsigned = sign_root(&root(1, 1, &Keys::numbered(1)), &["root 2"]);
    assert!(matches!(begin(&pin(&unsigned), unsigned), Refused::Unverified { what: What::Root, .. }));
    let second = sign_root(&root(2, 1, &Keys::numbered(1)), &["root 1"]);
    assert_eq!(begin(&pin(&second), second), Refused::RootOrder { found: 2, expected: 1 });
    let elsewhere = StackId::new("stk_OTHER").unwrap();
    let begun = TrustRecord::begin(&elsewhere, &pin(&envelope), &[envelope]);
    assert_eq!(begun, Err(Refused::OtherStack { what: What::Root }));
    assert_eq!(TrustRecord::begin(&stack(), &Digest::of(b""), &[]), Err(Refused::Unreadable { what: What::Root }));
}

#[test]
fn a_root_follows_signed_by_both() {
    let next = root(2, 1, &Keys::numbered(2));
    assert_eq!(begun().follow(&[sign_root(&next, &["root 1", "root 2"])]).unwrap().root, next);
    for signers in [&["root 1"][..], &["root 2"], &["root 3"]] {
        let followed = begun().follow(&[sign_root(&next, signers)]);
        assert!(matches!(followed, Err(Refused::Unverified { what: What::Root, .. })), "{signers:?}");
    }
    let skipped = root(3, 1, &Keys::numbered(2));
    let followed = begun().follow(&[sign_root(&skipped, &["root 1", "root 2"])]);
    assert_eq!(followed, Err(Refused::RootOrder { found: 3, expected: 2 }));
    let mut later = begun();
    later.root.epoch = 2;
    let followed = later.follow(&[sign_root(&next, &["root 1", "root 2"])]);
    assert_eq!(followed, Err(Refused::EpochBack { found: 1, floor: 2 }));
}

#[test]
fn a_new_epoch_is_the_way_back_after_a_jump() {
    let ahead = at_version(1_000_000_000_000);
    let low = head_of(version(1, 58), |_| {});
    assert!(matches!(refused(&ahead, &low), Refused::Rollback { .. }));
    let next = root(2, 2, &Keys { root: "root 2".into(), ..Keys::numbered(1) });
    let record = ahead.follow(&[sign_root(&next, &["root 1", "root 2"])]).unwrap();
    assert_eq!((record.floor, record.time_floor), (None, Time::EPOCH));
    let (_, offer) = offered(&record, &head_of(version(2, 1), |note| note.root = 2));
    assert_eq!(offer.statement.version, Version(1));
}

#[test]
fn old_and_forked_and_far_versions_are_refused() {
    let record = at_version(57);
    let (found, floor) = (Version(56), Version(57));
    assert_eq!(refused(&record, &head_of(version(1, 56), |_| {})), Refused::Rollback { found, floor });
    let other = VersionStatement { created: Time::from_unix_secs(NOON + 1), ..version(1, 57) };
    assert_eq!(refused(&record, &head_of(other, |_| {})), Refused::Equivocation { version: floor });
    let far = Version(57 + 1_000_001);
    assert_eq!(refused(&record, &head_of(version(1, far.0), |_| {})), Refused::FastForward { found: far, floor });
    assert_eq!(refused(&record, &head_of(version(2, 58), |_| {})), Refused::OtherEpoch { found: 2, expected: 1 });
}

#[test]
fn notes_fit_the_version_they_came_with() {
    let record = at_version(57);
    let (old, new) = (sign_version(version(1, 57), "version 1"), sign_version(version(1, 58), "version 1"));
    let note = sign_fresh(&fresh(&old, 1, NOON, NOON + 60), "fresh 1");
    assert_eq!(refused(&record, &head(&new, note)), Refused::MixAndMatch);
    let twin = VersionStatement { created: Time::from_unix_secs(NOON + 1), ..version(1, 58) };
    let note = sign_fresh(&fresh(&sign_version(twin, "version 1"), 1, NOON, NOON + 60), "fresh 1");
    assert_eq!(refused(&record, &head(&new, note)), Refused::MixAndMatch);
    let elsewhere = head_of(version(1, 58), |note| note.stack = StackId::new("stk_OTHER").unwrap());
    assert_eq!(refused(&record, &elsewhere), Refused::OtherStack { what: What::Fresh });
    let withheld = head_of(version(1, 58), |note| note.root = 2);
    assert_eq!(refused(&record, &withheld), Refused::RootWithheld { known: 1, newest: 2 });
    let other = VersionStatement { stack: StackId::new("stk_OTHER").unwrap(), ..version(1, 58) };
    assert_eq!(refused(&record, &head_of(other, |_| {})), Refused::OtherStack { what: What::Version });
}

#[test]
fn each_role_has_its_key() {
    let record = begun();
    let by_fresh = sign_version(version(1, 1), "fresh 1");
    let note = sign_fresh(&fresh(&by_fresh, 1, NOON, NOON + 60), "fresh 1");
    let why = Unverified::TooFewSignatures { found: 0, needed: 1 };
    assert_eq!(refused(&record, &head(&by_fresh, note)), Refused::Unverified { what: What::Version, why });
    let signed = sign_version(version(1, 1), "version 1");
    let note = sign_fresh(&fresh(&signed, 1, NOON, NOON + 60), "version 1");
    assert_eq!(refused(&record, &head(&signed, note)), Refused::Unverified { what: What::Fresh, why });
    // One thing signed is not another: the type is part of what was signed.
    let swapped = head(&signed, signed.envelope.clone());
    assert_eq!(refused(&record, &swapped), Refused::Unverified { what: What::Fresh, why: Unverified::OtherType });
}

#[test]
fn times_hold_both_ways() {
    let record = at_version(57);
    let head = |issued, expires| {
        head_of(version(1, 58), move |note| {
            note.issued = Time::from_unix_secs(issued);
            note.expires = Time::from_unix_secs(expires);
        })
    };
    let expired = Refused::Expired { at: Time::from_unix_secs(NOON) };
    assert_eq!(refused(&record, &head(NOON - 60, NOON)), expired);
    let issued = Time::from_unix_secs(NOON + 3_601);
    assert_eq!(refused(&record, &head(NOON + 3_601, NOON + 9_000)), Refused::FromTheFuture { issued });
    // A clock that is years behind does not bring an old note back: the floor knows better.
    let old = head(NOON - 60, NOON - 1);
    let behind = Now { clock: Time::from_unix_secs(NOON - 3_000), built: Time::EPOCH };
    assert!(matches!(record.decide(&old, behind), Err(Refused::Expired { .. })));
    let never_set = Now { clock: Time::EPOCH, built: Time::from_unix_secs(NOON + 1) };
    let current = head(NOON, NOON + 60);
    assert_eq!(record.decide(&current, never_set), Err(Refused::ClockNotSet { clock: Time::EPOCH }));
}

#[test]
fn a_pause_holds_what_is_newer_and_nothing_else() {
    let record = at_version(57);
    let newer = head_of(version(1, 58), |note| note.paused = true);
    let held = record.decide(&newer, at(NOON)).unwrap();
    assert!(matches!(held, Decision::Held { offered: Version(58), .. }));
    let same = head_of(version(1, 57), |note| note.paused = true);
    assert!(matches!(record.decide(&same, at(NOON)), Ok(Decision::Current { .. })));
}

#[test]
fn what_cannot_be_done_here_is_not_half_done() {
    let needy = VersionStatement { requires: vec!["git".into(), "warp".into()], ..version(1, 58) };
    let features = vec!["warp".to_owned()];
    assert_eq!(refused(&at_version(57), &head_of(needy, |_| {})), Refused::Unsupported { features });
}

#[test]
fn unknown_algorithms_and_later_fields_are_passed_over() {
    let mut first = root(1, 1, &Keys::numbered(1));
    let odd = first.keys.values().next().unwrap().clone();
    first.mode = TrustMode::Locked;
    first.keys.insert("odd".into(), agentd_protocol::control::statement::RootKey { alg: "ml-dsa".into(), ..odd });
    let mut tree = serde_json::to_value(&first).unwrap();
    tree["later"] = serde_json::json!({"x": [1, 2]});
    let envelope = agentd_protocol::control::dsse::Envelope::sign(
        agentd_protocol::control::statement::ROOT_TYPE,
        &serde_json::to_vec(&tree).unwrap(),
        &[&key("root 1")],
    );
    let record = TrustRecord::begin(&stack(), &pin(&envelope), &[envelope]).unwrap();
    offered(&record, &head_of(version(1, 1), |_| {}));
}

/// Every byte of a head is either signed, or of no consequence.
#[test]
fn no_flipped_byte_makes_another_version() {
    let record = at_version(57);
    let good = head_of(version(1, 58), |_| {});
    let whole = record.decide(&good, at(NOON)).unwrap();
    let mut same = 0;
    for at_byte in 0..good.len() {
        for bit in [0_u8, 3, 7] {
            let mut bad = good.clone();
            bad[at_byte] ^= 1 << bit;
            match record.decide(&bad, at(NOON)) {
                Err(_) => {}
                Ok(decision) => {
                    assert_eq!(decision, whole, "byte {at_byte}, bit {bit}");
                    same += 1;
                }
            }
        }
        assert!(record.decide(&good[..at_byte], at(NOON)).is_err(), "cut at {at_byte}");
    }
    // Key ids are hints; their bytes, and nothing else, may change unseen.
    assert!((1..=2 * 3 * 40).contains(&same), "{same} changes went unseen");
    let large = vec![b' '; agentd_protocol::control::HEAD_BYTES_MAX + 1];
    assert!(matches!(refused(&record, &large), Refused::TooLarge { what: What::Head, .. }));
}
