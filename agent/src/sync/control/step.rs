//! What an answer to a report means, and what to do next (pure).

use std::time::Duration;

use agentd_protocol::control::enroll::Pace;
use agentd_protocol::control::problem::{Problem, Slug};
use agentd_protocol::control::report::Reported;
use agentd_protocol::control::time::Time;
use agentd_protocol::control::{BOOT_MAX, BOOT_PLAUSIBLE_MAX, CLOCK_WINDOW_SECS, HOLD_SECS_MAX};

use super::client::{Answer, NoAnswer};

/// First pause after a failure; doubles.
const BACK_OFF_BASE: Duration = Duration::from_secs(1);
/// Whatever `poll_interval` allows.
const BACK_OFF_MAX: Duration = Duration::from_secs(300);
/// No answer, however odd, makes a host ask more often.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// A server that says it holds and does not.
const HELD_MIN: Duration = Duration::from_secs(1);
/// A server that does not take this host: the first hour often (it may still be loading its keys), then seldom.
const REFUSED_SOON: Duration = Duration::from_secs(15 * 60);
const REFUSED_LATE: Duration = Duration::from_secs(3_600);
const REFUSED_SOON_TIMES: u32 = 4;
/// Cures tried in a row before it counts as a failure.
const CURES_MAX: u32 = 3;
/// Most that hosts are spread over after a restart of the server.
const SPREAD_MAX: Duration = Duration::from_secs(600);

/// What came of a report.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    Taken {
        reported: Reported,
        /// The server holds reports.
        holds: bool,
    },
    /// No answer, or "later".
    Later {
        cause: String,
        after: Option<Duration>,
    },
    Skewed {
        server: Time,
    },
    /// This host's state went back in time: go on above `boot`.
    Regressed {
        boot: u64,
    },
    Gap {
        expected: u64,
    },
    TooLarge,
    /// The server does not take this host.
    Refused {
        cause: String,
    },
    /// It does not know this host: it has forgotten it, or is not the one that took it in.
    Forgotten {
        cause: String,
    },
}

pub(super) fn outcome(answer: &Result<Answer, NoAnswer>) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(none) => return Outcome::Later { cause: none.to_string(), after: None },
    };
    if answer.status == 200 {
        return match serde_json::from_slice(&answer.body) {
            Ok(reported) => Outcome::Taken { reported, holds: answer.holds },
            Err(_) => Outcome::Later { cause: "its answer cannot be read".to_owned(), after: None },
        };
    }
    let problem = answer.problem();
    let number = |key: &str| problem.as_ref()?.extra.get(key)?.as_u64();
    let time = || serde_json::from_value(problem.as_ref()?.extra.get("time")?.clone()).ok();
    let cause = cause(answer.status, problem.as_ref());
    match problem.as_ref().and_then(Problem::slug) {
        Some(Slug::ClockSkew) => time().map_or_else(|| Outcome::Refused { cause }, |server| Outcome::Skewed { server }),
        // Nobody has signed it: one at the end of the numbers would be the last that this host ever counts.
        Some(Slug::StateRegressed) => match number("boot") {
            Some(boot) if boot < BOOT_MAX => Outcome::Regressed { boot },
            Some(_) | None => Outcome::Refused { cause: format!("{cause} (and names no start that can be)") },
        },
        Some(Slug::OutboxGap) => {
            number("expected").map_or(Outcome::Refused { cause }, |expected| Outcome::Gap { expected })
        }
        Some(Slug::BodyTooLarge | Slug::TooManyEvents) => Outcome::TooLarge,
        Some(Slug::IdentityConflict) => Outcome::Refused { cause },
        Some(Slug::HostUnknown) => Outcome::Forgotten { cause },
        // The rest by its class: another server has other words for it.
        _ => match answer.status {
            401 | 403 | 404 | 410 | 426 => Outcome::Refused { cause },
            413 => Outcome::TooLarge,
            _ => Outcome::Later { cause, after: answer.retry_after },
        },
    }
}

/// For people: what the server called it, within bounds.
pub(super) fn cause(status: u16, problem: Option<&Problem>) -> String {
    /// Of what somebody else wrote, characters.
    const CHARS_MAX: usize = 200;
    let said = problem.map(|problem| match problem.detail.as_str() {
        "" => problem.title.clone(),
        detail => format!("{}: {detail}", problem.title),
    });
    let plain = |text: String| -> String {
        text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(CHARS_MAX).collect()
    };
    said.map_or_else(|| format!("it answers {status}"), |said| format!("it answers {status}, {}", plain(said)))
}

/// How it stands with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// Reports are taken.
    Steady,
    Failing {
        times: u32,
    },
    Refused {
        times: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) course: Course,
    /// Cures tried since a report was taken.
    cures: u32,
    pub(super) pace: Pace,
    /// The last answer came from a server that holds.
    pub(super) holds: bool,
}

/// What the host itself settles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// `poll_interval` of the stack in force.
    pub(super) ceiling: Duration,
    /// How long the call took.
    pub(super) took: Duration,
    /// The call asked to be held.
    pub(super) asked: bool,
    /// From 0 to 1.
    pub(super) random: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Report { after: Duration },
    Cure { cure: Cure, after: Duration },
}

/// What to change before the next report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cure {
    /// Sign by the server's clock.
    Clock(Time),
    Boot(u64),
    Gap {
        expected: u64,
    },
    Smaller,
}

impl State {
    pub(super) fn new() -> Self {
        Self { course: Course::Steady, cures: 0, pace: Pace { interval_s: 30, hold_s: 50, spread_s: 0 }, holds: true }
    }

    /// How long the next report may be held, seconds; the first tells how it stands, and is not held.
    pub(super) fn wait_s(&self, ceiling: Duration) -> u64 {
        self.pace.hold_s.min(HOLD_SECS_MAX).min(ceiling.as_secs())
    }
}

pub(super) fn step(state: State, outcome: &Outcome, limits: Limits) -> (State, Next) {
    let cured = |cure| {
        let state = State { cures: state.cures + 1, ..state };
        if state.cures > CURES_MAX { fail(state, None, limits) } else { (state, Next::Cure { cure, after: PAUSE_MIN }) }
    };
    match outcome {
        Outcome::Taken { reported, holds } => taken(reported.next, *holds, limits),
        Outcome::Later { after, .. } => fail(state, *after, limits),
        Outcome::Skewed { server } => cured(Cure::Clock(*server)),
        Outcome::Regressed { boot } => cured(Cure::Boot(*boot)),
        Outcome::Gap { expected } => cured(Cure::Gap { expected: *expected }),
        // Not counted: each is smaller than the one before, and what does not end there is a failure.
        Outcome::TooLarge => (state, Next::Cure { cure: Cure::Smaller, after: PAUSE_MIN }),
        Outcome::Refused { .. } | Outcome::Forgotten { .. } => refused(state, limits),
    }
}

fn taken(pace: Pace, holds: bool, limits: Limits) -> (State, Next) {
    // One that brought news did not ask to be held, and tells nothing about that.
    let holds = if limits.asked { holds } else { pace.hold_s > 0 };
    let interval = Duration::from_secs(pace.interval_s.max(1)).min(limits.ceiling);
    let spread = Duration::from_secs(pace.spread_s).min(SPREAD_MAX);
    let after = if pace.spread_s > 0 {
        spread.mul_f64(limits.random)
    } else if holds && limits.asked && limits.took >= HELD_MIN {
        Duration::ZERO
    } else if holds {
        HELD_MIN.min(interval)
    } else {
        interval.mul_f64(0.9 + limits.random / 10.0)
    };
    (State { course: Course::Steady, cures: 0, pace, holds }, Next::Report { after })
}

/// Full jitter; what the server asks for wins, with up to a fifth more.
fn fail(state: State, asked: Option<Duration>, limits: Limits) -> (State, Next) {
    let times = match state.course {
        Course::Failing { times } => times.saturating_add(1),
        Course::Steady | Course::Refused { .. } => 1,
    };
    let after = match asked {
        Some(asked) => asked.mul_f64(1.0 + limits.random / 5.0),
        None => {
            let most = BACK_OFF_BASE.saturating_mul(1 << times.min(16)).min(BACK_OFF_MAX).min(limits.ceiling);
            most.mul_f64(limits.random)
        }
    };
    (State { course: Course::Failing { times }, cures: 0, ..state }, Next::Report { after: after.max(PAUSE_MIN) })
}

fn refused(state: State, limits: Limits) -> (State, Next) {
    let times = match state.course {
        Course::Refused { times } => times.saturating_add(1),
        Course::Steady | Course::Failing { .. } => 1,
    };
    let most = if times <= REFUSED_SOON_TIMES { REFUSED_SOON } else { REFUSED_LATE };
    let after = most.mul_f64(0.8 + limits.random / 5.0);
    (State { course: Course::Refused { times }, cures: 0, ..state }, Next::Report { after })
}

/// The start to go on as, where a server knows of the start `known`: above it. Below the host's own only where that cannot be
/// its own count, but is what another answer made of it.
pub(super) fn boot_after(own: u64, known: u64) -> u64 {
    let least = if own > BOOT_PLAUSIBLE_MAX { known } else { known.max(own) };
    least.saturating_add(1).min(BOOT_MAX)
}

/// Seconds to add to the host's clock when signing; none while they agree well enough.
pub(super) fn offset_s(server: Time, host: Time) -> i64 {
    let skew = server.unix_secs().saturating_sub(host.unix_secs());
    if skew.unsigned_abs() > CLOCK_WINDOW_SECS / 2 { skew } else { 0 }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
