use proptest::prelude::*;

use super::*;

/// A server, or what stands before it, with a limit; and a host that has this to say.
#[derive(Debug, Clone)]
struct World {
    limit: usize,
    /// Of each event, bytes; what tells of one that was given up is small.
    events: Vec<usize>,
    snapshot: [usize; 3],
}

/// What every report weighs, whatever it carries.
const ENVELOPE: usize = 100;
const GAP: usize = 20;

struct Played {
    reports: usize,
    given_up: usize,
    sent: usize,
    /// The least that was shown of the snapshot in a report that was taken.
    shown: Option<Detail>,
    stuck: bool,
}

/// Until all is said, or it cannot be.
fn play(world: &World) -> Played {
    let now = Instant::now();
    let (mut fit, mut waiting, mut has_snapshot) = (Fit::FULL, world.events.clone(), false);
    let mut played = Played { reports: 0, given_up: 0, sent: 0, shown: None, stuck: false };
    let mut stuck = 0;
    while !(waiting.is_empty() && (has_snapshot || !fit.takes_snapshot()) && fit.is_whole()) {
        played.reports += 1;
        assert!(played.reports < 40 + 20 * (world.events.len() + 1), "{world:?}: it does not end: {fit:?}");
        let records = fit.events().map_or(0, |(most, bytes_max)| {
            let mut bytes = 0;
            let fits = |(index, size): &(usize, &usize)| {
                bytes += **size;
                bytes <= bytes_max || *index == 0
            };
            waiting.iter().enumerate().take_while(fits).count().min(most)
        });
        let detail = fit.detail(now);
        let snapshot = fit.takes_snapshot() && !has_snapshot;
        let shown = snapshot.then(|| match detail {
            Detail::Full => world.snapshot[0],
            Detail::NoLogs => world.snapshot[1],
            Detail::Bare => world.snapshot[2],
        });
        let size = ENVELOPE + waiting[..records].iter().sum::<usize>() + shown.unwrap_or(0);
        let sent = Sent { records, snapshot };
        if size <= world.limit {
            waiting.drain(..records);
            played.sent += records;
            has_snapshot |= snapshot;
            if snapshot {
                played.shown = Some(detail);
            }
            fit = fit.taken(sent);
            continue;
        }
        let (next, verdict) = fit.too_large(sent, now);
        fit = next;
        match verdict {
            TooLarge::Smaller => {}
            TooLarge::GiveUp if waiting[0] != GAP => {
                played.given_up += 1;
                waiting[0] = GAP;
            }
            // What tells of a loss is never lost itself.
            TooLarge::GiveUp | TooLarge::Anything => {
                stuck += 1;
                if stuck > 3 {
                    played.stuck = true;
                    return played;
                }
            }
        }
    }
    played
}

proptest! {
    #[test]
    fn everything_that_fits_arrives_and_only_what_never_could_is_given_up(
        limit in 50_usize..3_000,
        events in prop::collection::vec(30_usize..4_000, 0..40),
        snapshot in 100_usize..5_000,
    ) {
        let world = World { limit, events, snapshot: [snapshot, snapshot * 2 / 3, snapshot / 3] };
        let played = play(&world);
        if limit < ENVELOPE {
            // Nothing arrives, so nothing is given up.
            prop_assert!(played.stuck && played.given_up == 0 && played.sent == 0);
        } else if limit >= ENVELOPE + GAP {
            let never = world.events.iter().filter(|size| ENVELOPE + **size > limit).count();
            prop_assert!(!played.stuck);
            prop_assert_eq!((played.given_up, played.sent), (never, world.events.len()));
            prop_assert_eq!(played.shown.is_some(), ENVELOPE + world.snapshot[2] <= limit);
        }
    }
}

#[tokio::test]
async fn a_large_snapshot_loses_its_logs_and_no_event() {
    let world = World { limit: 1_000, events: vec![100; 3], snapshot: [2_000, 800, 400] };
    let played = play(&world);
    assert_eq!((played.given_up, played.sent, played.shown), (0, 3, Some(Detail::NoLogs)));
}

#[tokio::test]
async fn what_was_cut_is_tried_again_after_a_while() {
    let now = Instant::now();
    let sent = Sent { records: 0, snapshot: true };
    let (mut fit, _) = Fit::FULL.too_large(sent, now);
    assert_eq!(fit.detail(now), Detail::NoLogs);
    for _ in 0..2 {
        (fit, _) = fit.too_large(sent, now);
    }
    assert!(!fit.takes_snapshot());
    assert_eq!(fit.detail(now + FULLER_AFTER), Detail::Full);
    assert!(fit.takes_snapshot());
}
