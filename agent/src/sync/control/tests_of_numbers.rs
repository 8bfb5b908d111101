//! Numbers that nobody has signed: whatever a server, or somebody on the way, answers, the loop goes on within its bounds.

use std::time::Duration;

use agentd_protocol::api::ControlLink;
use agentd_protocol::control::problem::Slug;
use agentd_protocol::control::time::Time;
use agentd_protocol::control::{BOOT_MAX, BOOT_PLAUSIBLE_MAX};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Answer, NoAnswer, retry_after};
use super::events::Stream;
use super::fake::{FakeControl, Fault};
use super::readopt::{Heard, Readoption};
use super::step::{self, Cure, Limits, Next, Outcome, State, boot_after, outcome, step};
use super::tests::Bench;
use super::{join, status, unix_secs};

const CEILING: Duration = Duration::from_secs(15);
/// Seldomer than that a host never asks, whoever says so.
const SELDOM: Duration = Duration::from_secs(3_600);
/// Most that a restart of the server spreads hosts over.
const SPREAD: Duration = Duration::from_secs(600);

/// `None`: it is not there.
fn extremes() -> Vec<Option<Value>> {
    let numbers = [json!(u64::MAX), json!(i64::MAX), json!(i64::MAX - 1), json!(0), json!(-1), json!(i64::MIN)];
    let others = [json!(1.5), json!(1e300), json!(null), json!("7"), json!([]), json!({"a": 1}), json!(true)];
    let times =
        ["9999-12-31T23:59:59Z", "-009999-01-02T00:00:00Z", "1970-01-01T00:00:00Z", "noon"].map(|text| json!(text));
    numbers.into_iter().chain(others).chain(times).map(Some).chain([None]).collect()
}

fn answer(status: u16, body: &Value, retry_after: Option<Duration>) -> Result<Answer, NoAnswer> {
    Ok(Answer { status, etag: None, retry_after, holds: true, body: serde_json::to_vec(body).unwrap() })
}

/// `found` at `path` in a good answer, or that taken out.
fn put(mut body: Value, path: &[&str], found: Option<&Value>) -> Value {
    let (last, above) = path.split_last().unwrap();
    let at = above.iter().fold(&mut body, |at, key| &mut at[*key]);
    match found {
        Some(found) => at[*last] = found.clone(),
        None => drop(at.as_object_mut().unwrap().remove(*last)),
    }
    body
}

/// What the loop does with it: the next report comes in time, and every cure can be carried out.
fn survives(answer: &Result<Answer, NoAnswer>, what: &str) {
    let outcome = outcome(answer);
    if let Outcome::Taken { reported, .. } = &outcome {
        status::skew_ms(reported.time, 1);
        status::skew_ms(reported.time, u64::MAX);
    }
    for random in [0.0, 1.0] {
        let mut state = State::new();
        for _ in 0..20 {
            let limits = Limits { ceiling: CEILING, took: Duration::ZERO, asked: true, random };
            let next;
            (state, next) = step(state, &outcome, limits);
            assert!(state.wait_s(CEILING) <= CEILING.as_secs(), "{what}");
            let after = match next {
                Next::Report { after } => after,
                Next::Cure { cure, after } => {
                    carry_out(cure, what);
                    after
                }
            };
            let most = match &outcome {
                Outcome::Taken { .. } => SPREAD,
                Outcome::Later { after: None, .. } | Outcome::Skewed { .. } | Outcome::Gap { .. } => CEILING,
                Outcome::Regressed { .. } | Outcome::TooLarge => CEILING,
                Outcome::Later { after: Some(_), .. } | Outcome::Refused { .. } | Outcome::Forgotten { .. } => SELDOM,
            };
            assert!(after <= most, "{what}: {after:?}");
        }
    }
}

fn carry_out(cure: Cure, what: &str) {
    match cure {
        Cure::Clock(server) => {
            for host in [Time::EPOCH, Time::from_unix_secs(i64::MAX), Time::from_unix_secs(i64::MIN)] {
                let created = unix_secs().saturating_add_signed(step::offset_s(server, host));
                assert!(created < u64::MAX / 2, "{what}");
            }
        }
        Cure::Boot(known) => {
            for own in [0, 1, BOOT_PLAUSIBLE_MAX, BOOT_MAX - 1, BOOT_MAX, u64::MAX] {
                let next = boot_after(own, known);
                assert!(known < next && next <= BOOT_MAX, "{what}: {own} {known} {next}");
                assert!(own > BOOT_PLAUSIBLE_MAX || own < next, "{what}: {own} {next}");
            }
        }
        Cure::Gap { expected } => assert!(Stream::new().lost(expected) == 0, "{what}"),
        Cure::Smaller => {}
    }
}

#[test]
fn whatever_number_an_answer_has_the_host_goes_on_within_its_bounds() {
    let reported = json!({"head": {"root": 1, "epoch": 1, "version": 1}, "full": false, "time": "2026-09-01T12:00:00Z",
        "next": {"interval_s": 30, "hold_s": 50, "spread_s": 1}});
    let fields: [&[&str]; 9] = [
        &["head", "root"],
        &["head", "epoch"],
        &["head", "version"],
        &["next", "interval_s"],
        &["next", "hold_s"],
        &["next", "spread_s"],
        &["time"],
        &["full"],
        &["next"],
    ];
    for found in extremes() {
        for path in fields {
            let body = put(reported.clone(), path, found.as_ref());
            survives(&answer(200, &body, None), &body.to_string());
        }
        for slug in [Slug::StateRegressed, Slug::OutboxGap, Slug::ClockSkew, Slug::TooManyEvents, Slug::RateLimited] {
            for key in ["boot", "expected", "time", "retry_s", "status", "seq"] {
                let problem = serde_json::to_value(slug.problem("why").with(key, json!(1))).unwrap();
                let body = put(problem, &[key], found.as_ref());
                survives(&answer(slug.status(), &body, None), &body.to_string());
            }
        }
    }
}

#[tokio::test]
async fn whatever_wait_a_server_asks_for_it_ends() {
    let joining = FakeControl::start().joining();
    let pending = json!({"status": "pending", "code": "A-1", "retry_s": 5, "time": "2026-09-01T12:00:00Z"});
    let now = Instant::now();
    for found in extremes() {
        let header = found.as_ref().map_or_else(String::new, |value| value.to_string().replace('"', ""));
        let asked = retry_after(&header);
        for status in [429, 500, 503] {
            survives(&answer(status, &json!({}), asked), &header);
            let later = join::read(&answer(status, &json!({}), asked).unwrap(), &joining, "x");
            assert!(matches!(later, Ok(join::Heard::Later { asked: found, .. }) if found == asked), "{later:?}");
        }
        let due = Readoption::NotNeeded.forgotten(now, 1.0);
        for heard in [Heard::Nothing { after: asked }, Heard::Nothing { after: Some(Duration::MAX) }] {
            let at = due.clone().heard(heard, now, 1.0).next().unwrap();
            assert!(at <= now + SELDOM + Duration::from_secs(60) && at >= now + Duration::from_secs(60), "{header}");
        }
        for key in ["retry_s", "time"] {
            let body = put(pending.clone(), &[key], found.as_ref());
            // What cannot be read is an error in words.
            if let Ok(heard) = join::read(&answer(202, &body, None).unwrap(), &joining, "x") {
                let join::Heard::Wait { after, .. } = heard else { panic!("{heard:?}") };
                assert!((1..=60).contains(&after.as_secs()), "{body}: {after:?}");
            }
        }
    }
}

/// The end of the numbers, and beyond: this manager says so and goes on, and so does the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_cannot_be_is_not_believed() {
    for boot in [json!(u64::MAX), json!(i64::MAX), json!(BOOT_MAX), json!(-1), json!(1.5)] {
        let mut bench = Bench::new().await;
        bench.connected().await;
        bench.fake.fault("/v1/report", Fault::Problem(Slug::StateRegressed, "boot", boot.clone()), 1);
        bench.record(1).await;
        let status = bench.until("refused", |status| matches!(status.link, ControlLink::Refused { .. })).await;
        let ControlLink::Refused { cause } = status.link else { unreachable!() };
        assert!(cause.contains("names no start that can be"), "{cause}");
        bench.start().await;
        bench.connected().await;
        bench.arrived(1).await;
        assert_eq!(bench.fake.lock().reports.last().unwrap().boot, 2, "{boot}");
    }
}

/// The largest that is believed, of somebody on the way; then the server itself again, which has never heard of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_too_high_for_the_server_comes_down_again() {
    let mut bench = Bench::new().await;
    bench.connected().await;
    bench.fake.fault("/v1/report", Fault::Problem(Slug::StateRegressed, "boot", json!(BOOT_MAX - 1)), 1);
    bench.record(1).await;
    bench.arrived(1).await;
    assert_eq!(bench.fake.lock().reports.last().unwrap().boot, BOOT_MAX);
    bench.start().await;
    bench.connected().await;
    bench.fake.fault("/v1/report", Fault::Problem(Slug::StateRegressed, "boot", json!(1)), 1);
    bench.record(1).await;
    bench.arrived(2).await;
    assert_eq!(bench.fake.lock().reports.last().unwrap().boot, 2);
    bench.start().await;
    bench.connected().await;
    assert_eq!(bench.fake.lock().reports.last().unwrap().boot, 3);
}
