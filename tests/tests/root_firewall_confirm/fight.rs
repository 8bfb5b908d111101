//! Somebody else changes our rules (C6).

use std::time::Duration;

use agentd_protocol::security::Exposure;

use super::place::{Place, eprint};

#[test]
fn rules_that_somebody_removed_or_changed_are_back_within_two_seconds() {
    let place = Place::confirmed("repair", "tunnel");
    place.net.nft(&["add", "table", "inet", "theirs"]);
    place.net.nft(&["add", "chain", "inet", "theirs", "c"]);
    for round in 0..3 {
        place.net.nft(&["delete", "table", "inet", "agentd"]);
        let took = place.until("the table is back", |place| place.has_table() && place.status().altered.is_none());
        eprint(&format!("round {round}: back after {} ms", took.as_millis()));
        assert!(took < Duration::from_secs(2));
        assert!(!place.net.gets_in(2200));
    }
    assert!(place.net.nft(&["list", "table", "inet", "theirs"]).contains("chain c"), "a foreign table stays");
    place.net.nft(&["add", "chain", "inet", "agentd", "mine", "{ type filter hook input priority -20; }"]);
    place.net.nft(&["add", "set", "inet", "agentd", "mine", "{ type inet_service; }"]);
    assert!(place.net.nft(&["list", "table", "inet", "agentd"]).contains("mine"), "control: nft took them");
    let took = place.until("what was put into our table is gone", |place| {
        place.has_table() && !place.net.nft(&["list", "table", "inet", "agentd"]).contains("mine")
    });
    eprint(&format!("a foreign chain was gone after {} ms", took.as_millis()));
    assert!(took < Duration::from_secs(2) && !place.net.gets_in(2200));
    place.until("all is right again", |place| place.status().altered.is_none());
    place.net.nft(&["insert", "rule", "inet", "agentd", "input", "accept"]);
    let repairs = place.status().repairs;
    let took = place.until("the rule is gone", |place| {
        !place.net.nft(&["list", "chain", "inet", "agentd", "input"]).lines().any(|line| line.trim() == "accept")
    });
    eprint(&format!("an added rule was gone after {} ms", took.as_millis()));
    assert!(took < Duration::from_secs(2) && !place.net.gets_in(2200));
    place.until("it is told", |place| place.status().repairs > repairs);
    place.net.nft(&["flush", "ruleset"]);
    let took = place.until("the table is back", |place| place.has_table());
    eprint(&format!("nft flush ruleset: back after {} ms", took.as_millis()));
    assert!(took < Duration::from_secs(2) && !place.net.gets_in(2200));
    place.until("events tell", |place| place.events().matches("security.repaired").count() >= 4);
}

#[test]
fn every_repair_is_counted_though_the_next_change_follows_at_once() {
    let place = Place::confirmed("count", "tunnel");
    assert_eq!(place.status().repairs, 0);
    for round in 1..=5_u64 {
        place.net.nft(&["flush", "ruleset"]);
        // The table alone, and no seal yet: the next one falls into the middle of the repair.
        let took = place.until("the table is back", Place::has_table);
        eprint(&format!("flush {round}: back after {} ms", took.as_millis()));
    }
    place.until("all is right again", |place| place.status().altered.is_none() && place.status().repairs >= 5);
    assert_eq!(place.status().repairs, 5);
    let events = place.events();
    assert_eq!(events.matches("security.repaired").count(), 5, "{events}");
    assert!(!place.net.gets_in(2200));
}

#[test]
fn who_keeps_at_it_is_answered_now_and_then_and_the_status_says_so() {
    let place = Place::confirmed("fight", "tunnel");
    let shown = |place: &Place| place.security(&["status"]);
    assert!(shown(&place).code == 0 && !shown(&place).stdout.contains("held back"), "control");
    let mut flushes = 0;
    place.until("the answer is held back", |place| {
        if place.has_table() {
            place.net.nft(&["delete", "table", "inet", "agentd"]);
            flushes += 1;
        }
        place.status().altered.is_some_and(|reason| reason.contains("held back"))
    });
    eprint(&format!("held back after {flushes} removals"));
    assert!(flushes > 5, "the first are answered at once");
    let status = place.status();
    assert_eq!(status.exposure, Exposure::Unmanaged, "nothing is claimed meanwhile");
    let page = shown(&place);
    assert!(
        page.code == 6 && page.stdout.contains("not as confirmed") && page.stdout.contains("held back"),
        "{page:?}"
    );
    let took = place.until("it is answered in the end", Place::has_table);
    eprint(&format!("answered {} ms later", took.as_millis()));
    assert!((Duration::from_secs(2)..Duration::from_secs(12)).contains(&took), "{took:?}");
    place.until("the status is right again", |place| place.status().altered.is_none());
    assert!(!place.net.gets_in(2200) && shown(&place).code == 0);
}
