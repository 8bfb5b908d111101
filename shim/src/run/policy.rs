//! Restart policy: when a program that ended unasked starts again. Pure; the manager may be away.

use agentd_protocol::shim::spec::RestartPolicy;
use agentd_protocol::shim::state::Exit;

/// Delay after the first unstable exit, ms; doubles with each further one.
const BACKOFF_FIRST_MS: u64 = 250;
const BACKOFF_MAX_MS: u64 = 60_000;
/// Exits in a row without having been stable until it is called a crash loop.
pub(crate) const UNSTABLE_EXITS_MAX: u32 = 10;
/// Between two tries in a crash loop, ms. Never given up.
pub(crate) const QUARANTINE_MS: u64 = 300_000;
/// EX_CONFIG of sysexits.h: the program itself says that trying again is no use.
const EX_CONFIG: u8 = 78;
/// What a shell answers for a command it cannot find.
const COMMAND_NOT_FOUND: u8 = 127;

/// Whether a manager is connected, who would have said `MarkReady`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manager {
    Connected,
    Away,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    StartNow,
    Backoff { wait_ms: u64 },
    Quarantine { wait_ms: u64 },
    Down,
}

/// Whether a run counts as stable: up long enough, and ready if anybody was there to find out.
pub(crate) fn is_stable(uptime_ms: u64, stable_after_ms: u64, ready: bool, manager: Manager) -> bool {
    uptime_ms >= stable_after_ms && (ready || manager == Manager::Away)
}

/// `unstable_exits` counts this exit already; 0 means that the run was stable.
pub(crate) fn after_exit(policy: RestartPolicy, exit: Exit, unstable_exits: u32, random: u64) -> Next {
    match (policy, exit) {
        (RestartPolicy::Never, _) | (RestartPolicy::OnFailure, Exit::Code(0)) => return Next::Down,
        (RestartPolicy::Always | RestartPolicy::OnFailure, _) => {}
    }
    if is_hopeless(exit, unstable_exits) || unstable_exits >= UNSTABLE_EXITS_MAX {
        return Next::Quarantine { wait_ms: jitter(QUARANTINE_MS, random) };
    }
    match unstable_exits {
        0 => Next::StartNow,
        k => Next::Backoff { wait_ms: jitter(backoff_ms(k), random) },
    }
}

/// Ends that another try in a moment cannot change.
fn is_hopeless(exit: Exit, unstable_exits: u32) -> bool {
    match exit {
        Exit::ExecFailed { errno } => matches!(errno, libc::ENOENT | libc::EACCES | libc::ENOEXEC),
        Exit::Code(EX_CONFIG) => true,
        Exit::Code(COMMAND_NOT_FOUND) => unstable_exits > 0,
        Exit::Code(_) | Exit::Signal { .. } | Exit::TimeLimit | Exit::Unknown => false,
    }
}

fn backoff_ms(unstable_exits: u32) -> u64 {
    let doublings = unstable_exits.saturating_sub(1).min(16);
    (BACKOFF_FIRST_MS << doublings).min(BACKOFF_MAX_MS)
}

/// ±20 %.
fn jitter(wait_ms: u64, random: u64) -> u64 {
    let fifth = wait_ms / 5;
    wait_ms - fifth + random % (2 * fifth + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ends_and_what_follows() {
        use RestartPolicy::{Always, Never, OnFailure};
        let crash = Exit::Signal { number: 11, core: true };
        let exec = |errno| Exit::ExecFailed { errno };
        // The middle of the jitter: twice the fifth, halved.
        let middle = |wait_ms: u64| wait_ms / 5;
        let quarantine = Next::Quarantine { wait_ms: QUARANTINE_MS };
        let rows = [
            (Always, crash, 0, 0, Next::Backoff { wait_ms: 0 }),
            (Always, crash, 1, 250, Next::Backoff { wait_ms: 250 }),
            (Always, Exit::Code(0), 2, 500, Next::Backoff { wait_ms: 500 }),
            (Always, Exit::Unknown, 3, 1_000, Next::Backoff { wait_ms: 1_000 }),
            (Always, crash, 9, 60_000, Next::Backoff { wait_ms: 60_000 }),
            (Always, crash, 10, QUARANTINE_MS, quarantine),
            (Always, crash, u32::MAX, QUARANTINE_MS, quarantine),
            (Always, exec(libc::ENOENT), 1, QUARANTINE_MS, quarantine),
            (Always, exec(libc::EACCES), 1, QUARANTINE_MS, quarantine),
            (Always, exec(libc::EAGAIN), 1, 250, Next::Backoff { wait_ms: 250 }),
            (Always, Exit::Code(78), 0, QUARANTINE_MS, quarantine),
            (Always, Exit::Code(127), 1, QUARANTINE_MS, quarantine),
            (Always, Exit::Code(126), 1, 250, Next::Backoff { wait_ms: 250 }),
            (OnFailure, Exit::Code(0), 1, 0, Next::Down),
            (OnFailure, Exit::Unknown, 1, 250, Next::Backoff { wait_ms: 250 }),
            (OnFailure, Exit::TimeLimit, 1, 250, Next::Backoff { wait_ms: 250 }),
            (Never, crash, 0, 0, Next::Down),
            (Never, exec(libc::ENOENT), 1, 0, Next::Down),
        ];
        for (policy, exit, unstable, base, expected) in rows {
            let expected = if expected == (Next::Backoff { wait_ms: 0 }) { Next::StartNow } else { expected };
            assert_eq!(after_exit(policy, exit, unstable, middle(base)), expected, "{policy:?} {exit:?} {unstable}");
        }
    }

    #[test]
    fn stable_needs_time_and_a_witness_where_there_is_one() {
        assert!(is_stable(10_000, 10_000, true, Manager::Connected));
        assert!(is_stable(10_000, 10_000, false, Manager::Away));
        assert!(!is_stable(10_000, 10_000, false, Manager::Connected));
        assert!(!is_stable(9_999, 10_000, true, Manager::Connected));
    }

    proptest! {
        #[test]
        fn an_always_policy_never_gives_up_and_waits_within_bounds(
            kind in 1u16..=5, value in any::<i32>(), unstable in any::<u32>(), random in any::<u64>()
        ) {
            let exit = Exit::from_parts(kind, value).unwrap();
            match after_exit(RestartPolicy::Always, exit, unstable, random) {
                Next::StartNow => prop_assert_eq!(unstable, 0),
                Next::Backoff { wait_ms } => prop_assert!((200..=72_000).contains(&wait_ms)),
                Next::Quarantine { wait_ms } => prop_assert!((240_000..=360_000).contains(&wait_ms)),
                Next::Down => prop_assert!(false, "gave up"),
            }
        }
    }
}
