//! The loop where something is wrong for long: reports that do not fit, clocks, keys, a server that has forgotten.

use std::time::{Duration, Instant};

use agentd_protocol::api::{ControlLink, Problem, Readoption, What};
use agentd_protocol::control::key::SecretKey;
use agentd_protocol::control::report::GAP_KIND;
use agentd_protocol::ids::Version;
use serde_json::json;

use super::fake::Fault;
use super::tests::{Bench, LIMIT, small};
use super::unix_ms;
use crate::store::NewEvent;

const YEAR_S: i64 = 365 * 24 * 3_600;

/// With some log lines: most of what makes a snapshot large.
fn trouble() -> Problem {
    Problem {
        log_tail: (0..20).map(|line| format!("{line} {}", "x".repeat(400))).collect(),
        ..crate::store::testing::problem()
    }
}

async fn all_sent(bench: &Bench) {
    let start = Instant::now();
    while bench.store.outbox_report().await.unwrap().records > 0 {
        assert!(start.elapsed() < LIMIT, "{:?}", bench.store.outbox_report().await);
        tokio::time::sleep(Duration::from_millis(10)).await; // poll: acknowledged by another task
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_do_not_fit_are_taken_apart_and_lose_nothing() {
    let bench = Bench::new().await;
    bench.connected().await;
    // Many events, of which few fit; a snapshot that fits without its log lines.
    bench.shown.lock().unwrap().stack.problems = vec![trouble()];
    bench.fake.lock().body_bytes_max = 8_000;
    bench.record(300).await;
    bench.arrived(300).await;
    all_sent(&bench).await;
    bench
        .until("the host is shown without its log lines", |_| {
            let inner = bench.fake.lock();
            let last = inner.reports.iter().rev().find_map(|report| report.snapshot.as_ref());
            last.is_some_and(|shown| shown.stack.problems.iter().any(|problem| problem.log_tail.is_empty()))
        })
        .await;
    assert!(!bench.fake.kinds().contains(&GAP_KIND.to_owned()));
    // Nothing at all fits: nothing is given up.
    bench.fake.lock().body_bytes_max = 10;
    bench.record(3).await;
    bench.until("offline", |status| matches!(status.link, ControlLink::Offline { .. })).await;
    assert_eq!(bench.store.outbox_report().await.unwrap().lost, 0);
    bench.fake.lock().body_bytes_max = usize::MAX;
    bench.arrived(303).await;
    bench.connected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_that_never_fits_is_told_of_and_the_others_arrive() {
    let bench = Bench::new().await;
    bench.connected().await;
    bench.fake.lock().body_bytes_max = 2_500;
    let large = NewEvent {
        at_unix_ms: unix_ms(),
        service: None,
        release: None,
        instance: None,
        suppressed: 0,
        shim_seq: None,
        what: What::ConfigUnresolved { cause: "x".repeat(3_000) },
    };
    bench.record(2).await;
    bench.store.record_events(vec![large]).await.unwrap();
    bench.record(2).await;
    bench.arrived(5).await;
    all_sent(&bench).await;
    let events = bench.fake.lock().events.clone();
    let gaps: Vec<_> = events.values().filter(|event| event.kind == GAP_KIND).collect();
    assert_eq!((gaps.len(), &gaps[0].data["count"], events.len()), (1, &json!(1), 5));
    assert!(gaps[0].text.contains("too large"), "{}", gaps[0].text);
    assert_eq!(bench.store.outbox_report().await.unwrap().lost, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_root_is_followed_and_the_key_before_it_is_not_believed_any_more() {
    let mut bench = Bench::new().await;
    bench.fake.publish(&small(1));
    bench.adopts(Version(1)).await;
    let stolen = bench.fake.lock().version_key.clone();
    bench.fake.rotate(SecretKey::from_seed(&[41; 32]), false);
    bench.fake.publish(&small(1));
    bench.adopts(Version(2)).await;
    let good = std::mem::replace(&mut bench.fake.lock().version_key, stolen);
    bench.fake.publish_as(&small(1), 99);
    let signed = |reasons: &[String]| reasons[0].contains("signed");
    bench.until("refused", |status| status.refused.as_ref().is_some_and(|told| signed(&told.reasons))).await;
    assert_eq!(bench.store.latest_version().await.unwrap().unwrap().version, Version(2));
    bench.fake.lock().version_key = good;
    bench.fake.publish_as(&small(1), 3);
    bench.adopts(Version(3)).await;
    // The next epoch: the way back after somebody has pushed the numbers up. It survives a restart.
    bench.fake.publish_as(&small(1), 900_000);
    bench.adopts(Version(900_000)).await;
    bench.fake.rotate(SecretKey::from_seed(&[42; 32]), true);
    bench.fake.publish_as(&small(1), 4);
    bench.adopts(Version(4)).await;
    bench.start().await;
    bench.fake.publish_as(&small(2), 5);
    bench.adopts(Version(5)).await;
}

/// Whichever of the two is wrong: what is handed out is judged by this host's clock and by what it has believed before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_years_off_is_told_everything_and_believed_nothing_new() {
    for (years, part) in [(2, "in the future"), (-2, "nobody has said since")] {
        let mut bench = Bench::new().await;
        bench.fake.publish(&small(1));
        bench.adopts(Version(1)).await;
        bench.connected().await;
        {
            let mut inner = bench.fake.lock();
            (inner.clock_ahead_s, inner.issued_ahead_s) = (years * YEAR_S, years * YEAR_S);
        }
        bench.fake.publish(&small(1));
        let refused = |reasons: &[String]| reasons[0].contains(part);
        bench.until(part, |status| status.refused.as_ref().is_some_and(|told| refused(&told.reasons))).await;
        bench.record(3).await;
        bench.arrived(3).await;
        let status = bench.connected().await;
        assert!(status.clock_skew_ms.abs() > YEAR_S * 1_000, "{status:?}");
        assert_eq!(bench.store.latest_version().await.unwrap().unwrap().version, Version(1));
        {
            let mut inner = bench.fake.lock();
            (inner.clock_ahead_s, inner.issued_ahead_s) = (0, 0);
        }
        bench.fake.publish(&small(1));
        bench.adopts(Version(3)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stale_stays_in_force_until_somebody_says_that_it_is_current() {
    let mut bench = Bench::new().await;
    bench.fake.lock().fresh_s = 1;
    bench.fake.publish(&small(1));
    bench.adopts(Version(1)).await;
    bench.until("stale", |status| status.fresh_until_unix_ms.is_some_and(|until| until < unix_ms())).await;
    // Looked at while it is stale: nothing new is believed, and what is in force stays.
    bench.start().await;
    let stale = |reasons: &[String]| reasons[0].contains("nobody has said since");
    bench.until("told", |status| status.refused.as_ref().is_some_and(|told| stale(&told.reasons))).await;
    assert_eq!(bench.store.latest_version().await.unwrap().unwrap().version, Version(1));
    bench.fake.lock().fresh_s = 3_600;
    bench.fake.refresh();
    let fresh = |until: u64| until > unix_ms() + 3_000_000;
    bench.until("fresh", |status| status.fresh_until_unix_ms.is_some_and(fresh)).await;
    bench.until("settled", |status| status.refused.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_went_without_a_word_is_missed_when_its_answer_is_due() {
    let mut bench = Bench::new().await;
    bench.fake.publish(&small(1));
    bench.adopts(Version(1)).await;
    bench.connected().await;
    bench.fake.fault("/v1/report", Fault::Silent, 1);
    // The hold is a second: what is not answered 10 s after that never will be.
    let start = Instant::now();
    bench.until("offline", |status| matches!(status.link, ControlLink::Offline { .. })).await;
    assert!(start.elapsed() < Duration::from_secs(14), "{:?}", start.elapsed());
    bench.connected().await;
}

/// The first wish comes after half a minute at least: what is due is told at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_forgotten_the_host_is_told_of_at_once() {
    let mut bench = Bench::new().await;
    bench.fake.publish(&small(1));
    bench.adopts(Version(1)).await;
    bench.connected().await;
    bench.fake.forget();
    bench.record(1).await;
    let status = bench.until("forgotten", |status| status.readoption.is_some()).await;
    assert_eq!(status.readoption, Some(Readoption::Due));
    assert!(matches!(status.link, ControlLink::Refused { .. }));
    assert_eq!(bench.store.latest_version().await.unwrap().unwrap().version, Version(1));
}
