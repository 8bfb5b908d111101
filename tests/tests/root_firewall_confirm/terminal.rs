//! What a person at a terminal is asked and shown.

use std::process::Command;
use std::time::Duration;

use agentd_tests::{Terminal, program};

use super::place::{OUTSIDE, Place};

fn apply(place: &Place, arguments: &[&str]) -> Terminal {
    let mut command = Command::new(program("agentctl"));
    command.arg("--home").arg(&place.world.home).args(["security", "apply", "--mode", "daemon-port"]).args(arguments);
    Terminal::converse(command.env("TERM", "xterm"), 120, 40)
}

#[test]
fn who_would_be_cut_off_is_named_and_the_phrase_is_asked_for() {
    let mut place = Place::new("tty");
    place.net.stay_connected(22);
    let question = format!("type `block ssh from {OUTSIDE}`");
    let elsewhere = ["--ssh", "203.0.113.0/24"];

    let mut terminal = apply(&place, &elsewhere);
    let seen = terminal.until("it asks", |seen| seen.contains(&question));
    assert!(seen.contains("could NOT come back") && seen.contains("proxy"), "the plan comes first: {seen}");
    terminal.type_line("yes");
    let (code, seen) = terminal.ended();
    assert_eq!(code, Some(1), "{seen}");
    assert!(!place.has_table() && !place.pending(), "another word than the phrase changes nothing");

    let mut terminal = apply(&place, &elsewhere);
    terminal.until("it asks", |seen| seen.contains(&question));
    terminal.type_line(&format!("block ssh from {OUTSIDE}"));
    let left = |seen: &str| {
        let shown = seen.rsplit('\r').find_map(|line| line.split_once(" s left, open comes back then"));
        shown.and_then(|(count, _)| count.trim().parse::<u64>().ok())
    };
    let first = left(&terminal.until("it counts down", |seen| left(seen).is_some())).unwrap();
    terminal.until("it goes on", |seen| left(seen).is_some_and(|now| now < first));
    assert!((100..=120).contains(&first) && place.has_table() && !place.net.gets_in(2200));
    place.good(&["confirm"]);
    let (code, seen) = terminal.ended();
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("daemon-port in place of open, confirmed"), "{seen}");
}

#[test]
fn a_trial_that_is_only_watched_ends_as_a_failure() {
    let place = Place::new("watch");
    let mut terminal = apply(&place, &["--window", "3s"]);
    terminal.until("it counts down", |seen| seen.contains(" s left, open comes back then"));
    assert!(place.has_table(), "control: the trial runs");
    let (code, seen) = terminal.ended();
    assert_eq!(code, Some(1), "{seen}");
    assert!(seen.contains("went back to open") || seen.contains("not confirmed in time"), "{seen}");
    place.until("the rules of before are back", |place| !place.has_table());
    assert!(place.net.gets_in(2200));
}

#[test]
fn a_terminal_that_hangs_up_leaves_the_trial_to_its_end() {
    let place = Place::new("hangup");
    let mut terminal = apply(&place, &["--window", "4s"]);
    terminal.until("it counts down", |seen| seen.contains(" s left, open comes back then"));
    drop(terminal);
    assert!(place.has_table() && place.pending(), "nobody is there to watch, and the trial runs");
    let took = place.until("it ends by itself", |place| !place.has_table() && !place.pending());
    assert!(took < Duration::from_secs(10), "{took:?}");
}
