use super::*;
use agentd_protocol::control::report::HeadHint;
use agentd_protocol::ids::Version;

const CEILING: Duration = Duration::from_secs(15);

fn answer(status: u16, body: impl Into<Vec<u8>>) -> Result<Answer, NoAnswer> {
    Ok(Answer { status, etag: None, retry_after: None, holds: false, body: body.into() })
}

fn problem(slug: Slug, key: &str, value: impl Into<serde_json::Value>) -> Result<Answer, NoAnswer> {
    answer(slug.status(), serde_json::to_vec(&slug.problem("why").with(key, value)).unwrap())
}

fn reported(pace: Pace) -> Reported {
    let head = HeadHint { root: 1, epoch: 1, version: Version(1) };
    Reported { head, full: false, next: pace, time: Time::from_unix_secs(1_000) }
}

fn limits(random: f64) -> Limits {
    Limits { ceiling: CEILING, took: Duration::from_secs(5), asked: true, random }
}

#[test]
fn answers_are_read_by_their_word_and_then_by_their_class() {
    let refused = |outcome: &Outcome| matches!(outcome, Outcome::Refused { .. });
    assert!(matches!(outcome(&problem(Slug::HostUnknown, "x", 1)), Outcome::Forgotten { .. }));
    for slug in [Slug::SignatureInvalid, Slug::HostRevoked, Slug::NotFound, Slug::AgentTooOld] {
        assert!(refused(&outcome(&problem(slug, "x", 1))), "{slug:?}");
    }
    assert!(refused(&outcome(&problem(Slug::IdentityConflict, "x", 1))));
    for status in [401, 403, 404, 410] {
        assert!(refused(&outcome(&answer(status, "<html>"))), "{status}");
    }
    for status in [301, 409, 429, 500, 502, 503, 418, 204] {
        assert!(matches!(outcome(&answer(status, "")), Outcome::Later { .. }), "{status}");
    }
    assert!(matches!(outcome(&answer(200, "{")), Outcome::Later { .. }));
    assert_eq!(outcome(&problem(Slug::StateRegressed, "boot", 7)), Outcome::Regressed { boot: 7 });
    assert_eq!(outcome(&problem(Slug::OutboxGap, "expected", 3)), Outcome::Gap { expected: 3 });
    let time = Time::from_unix_secs(1_788_264_000);
    assert_eq!(outcome(&problem(Slug::ClockSkew, "time", time.to_string())), Outcome::Skewed { server: time });
    assert!(refused(&outcome(&problem(Slug::ClockSkew, "time", "noon"))));
    assert_eq!(outcome(&answer(413, "")), Outcome::TooLarge);
    let told = cause(403, Some(&Slug::HostRevoked.problem("a\u{1b}[31m\n".to_owned() + &"x".repeat(900))));
    assert!(told.len() < 300 && !told.contains('\u{1b}'), "{told}");
}

#[test]
fn no_wait_is_longer_than_the_stack_allows() {
    let slow = Pace { interval_s: 600, hold_s: 9_999, spread_s: 0 };
    for holds in [true, false] {
        let taken = Outcome::Taken { reported: reported(slow), holds };
        let (state, next) = step(State::new(), &taken, limits(1.0));
        let Next::Report { after } = next else { panic!("{next:?}") };
        assert!(after <= CEILING && state.wait_s(CEILING) == CEILING.as_secs(), "{after:?}");
    }
    let mut state = State::new();
    for _ in 0..40 {
        let failed = Outcome::Later { cause: String::new(), after: None };
        let next;
        (state, next) = step(state, &failed, limits(1.0));
        let Next::Report { after } = next else { panic!("{next:?}") };
        assert!(after <= CEILING && after >= PAUSE_MIN, "{after:?}");
    }
    assert!(matches!(state.course, Course::Failing { times: 40 }));
}

#[test]
fn a_held_answer_is_followed_at_once_and_a_quick_one_is_not() {
    let pace = Pace { interval_s: 30, hold_s: 50, spread_s: 0 };
    let after = |holds, took, spread_s| {
        let taken = Outcome::Taken { reported: reported(Pace { spread_s, ..pace }), holds };
        let limits =
            Limits { ceiling: Duration::from_secs(60), took: Duration::from_secs(took), asked: true, random: 0.5 };
        match step(State::new(), &taken, limits).1 {
            Next::Report { after } => after,
            cure @ Next::Cure { .. } => panic!("{cure:?}"),
        }
    };
    assert_eq!(after(true, 50, 0), Duration::ZERO);
    assert_eq!(after(true, 0, 0), HELD_MIN);
    assert_eq!(after(false, 0, 0), Duration::from_millis(28_500));
    assert_eq!(after(true, 50, 100), Duration::from_secs(50));
    assert_eq!(after(true, 50, 99_999), SPREAD_MAX / 2);
}

#[test]
fn after_a_report_with_news_the_next_one_is_soon_held() {
    let after = |hold_s| {
        let taken = Outcome::Taken { reported: reported(Pace { interval_s: 30, hold_s, spread_s: 0 }), holds: false };
        step(State::new(), &taken, Limits { asked: false, ..limits(1.0) }).1
    };
    assert_eq!(after(50), Next::Report { after: HELD_MIN });
    assert_eq!(after(0), Next::Report { after: CEILING });
}

#[test]
fn a_server_that_asks_for_time_gets_it() {
    let later = Outcome::Later { cause: String::new(), after: Some(Duration::from_secs(40)) };
    let (_, next) = step(State::new(), &later, limits(1.0));
    assert_eq!(next, Next::Report { after: Duration::from_secs(48) });
}

#[test]
fn cures_are_tried_a_few_times_and_a_report_that_is_taken_forgives() {
    let gap = Outcome::Gap { expected: 1 };
    let mut state = State::new();
    for _ in 0..CURES_MAX {
        let next;
        (state, next) = step(state, &gap, limits(0.5));
        assert!(matches!(next, Next::Cure { cure: Cure::Gap { expected: 1 }, .. }));
    }
    let (failing, next) = step(state, &gap, limits(0.5));
    assert!(matches!((failing.course, next), (Course::Failing { times: 1 }, Next::Report { .. })));
    let taken = Outcome::Taken { reported: reported(Pace { interval_s: 1, hold_s: 1, spread_s: 0 }), holds: true };
    let (state, _) = step(failing, &taken, limits(0.5));
    assert_eq!((state.course, state.cures), (Course::Steady, 0));
}

#[test]
fn a_host_that_is_refused_asks_seldom_and_never_stops_asking() {
    let refused = Outcome::Refused { cause: String::new() };
    let mut state = State::new();
    for times in 1..10 {
        let next;
        (state, next) = step(state, &refused, limits(0.0));
        let Next::Report { after } = next else { panic!("{next:?}") };
        let most = if times <= REFUSED_SOON_TIMES { REFUSED_SOON } else { REFUSED_LATE };
        assert_eq!(after, most.mul_f64(0.8));
    }
}

#[test]
fn clocks_that_nearly_agree_are_left_alone() {
    let at = Time::from_unix_secs;
    assert_eq!((offset_s(at(1_000), at(1_100)), offset_s(at(1_000), at(2_000))), (0, -1_000));
    assert_eq!(offset_s(at(9_000), at(1_000)), 8_000);
}
