//! Which refs to ask for now, and when again (pure: time and chance come in).

use std::collections::BTreeMap;
use std::time::Duration;

use agentd_protocol::ids::Commit;
use agentd_protocol::stack::{Revision, Service, Stack};
use tokio::time::Instant;

use super::Unresolved;
use super::decide::Answers;

/// First wait after a failure; doubles up to the poll interval.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Of the wait, both ways: hosts that started together do not ask together for ever.
const JITTER: f64 = 0.1;
/// Of the poll interval: what is due this soon is asked for with the rest, in one pass.
const TOGETHER: f64 = 0.2;

/// Services that follow the same branch of the same repository ask once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    pub(super) repo: String,
    pub(super) auth: Option<String>,
    pub(super) reference: String,
}

pub(super) fn question(entry: &Service) -> Option<Question> {
    match &entry.source {
        Revision::Commit(_) => None,
        Revision::Ref(reference) => {
            Some(Question { repo: entry.repo.clone(), auth: entry.git_auth.clone(), reference: reference.clone() })
        }
    }
}

/// Why a pass runs, which decides whom it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    Tick,
    /// The file changed: every ref is asked for, but those that failed a moment ago wait for their turn, so that one
    /// dead repository does not slow down every edit.
    File,
    /// A local repository changed.
    Repo,
    /// A person asked.
    Poke,
}

/// What is known of each question of the file.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<Question, Answered>);

#[derive(Debug)]
struct Answered {
    answer: Result<Commit, Unresolved>,
    failures: u32,
    ask_at: Instant,
}

impl Known {
    /// Forgets what the file no longer asks, and names what to ask now.
    pub(super) fn due(&mut self, file: &Stack, wake: Wake, now: Instant) -> Vec<Question> {
        let mut wanted: Vec<Question> = file.service.iter().filter_map(question).collect();
        wanted.sort();
        wanted.dedup();
        self.0.retain(|question, _| wanted.binary_search(question).is_ok());
        let together = now + file.stack.poll_interval.0.mul_f64(TOGETHER);
        wanted.retain(|question| match (self.0.get(question), wake) {
            (None, _) | (Some(_), Wake::Poke) => true,
            (Some(known), Wake::File) => known.failures == 0 || known.ask_at <= now,
            (Some(known), Wake::Repo) => is_local(&question.repo) || known.ask_at <= now,
            (Some(known), Wake::Tick) if known.failures > 0 => known.ask_at <= now,
            (Some(known), Wake::Tick) => known.ask_at <= together,
        });
        wanted
    }

    /// `chance` is in 0..1.
    pub(super) fn learn(
        &mut self,
        question: Question,
        answer: Result<Commit, Unresolved>,
        poll_interval: Duration,
        now: Instant,
        chance: f64,
    ) {
        let failures = match &answer {
            Ok(_) => 0,
            Err(_) => self.0.get(&question).map_or(0, |known| known.failures).saturating_add(1),
        };
        let ask_at = now + jittered(wait(failures, poll_interval), chance);
        self.0.insert(question, Answered { answer, failures, ask_at });
    }

    pub(super) fn answers(&self) -> Answers {
        self.0.iter().map(|(question, known)| (question.clone(), known.answer.clone())).collect()
    }

    /// Asks nothing before `until`, for want of a file that asks.
    pub(super) fn rest(&mut self, until: Instant) {
        self.0.values_mut().for_each(|known| known.ask_at = known.ask_at.max(until));
    }

    /// When the next question is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|known| known.ask_at).min()
    }
}

pub(super) fn is_local(repo: &str) -> bool {
    repo.starts_with("file://")
}

/// `chance` in 0..1 becomes 90 to 110 % of the wait.
pub(super) fn jittered(wait: Duration, chance: f64) -> Duration {
    wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance)
}

fn wait(failures: u32, poll_interval: Duration) -> Duration {
    match failures {
        0 => poll_interval,
        _ => RETRY_MIN.saturating_mul(2_u32.saturating_pow(failures - 1)).min(poll_interval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{commit, service, stack};

    fn file() -> Stack {
        let at = |label: &str, repo: &str| Service {
            repo: repo.to_owned(),
            source: Revision::Ref("main".into()),
            ..service(label)
        };
        stack(vec![
            at("a", "https://git.example.com/x"),
            at("b", "https://git.example.com/x"),
            at("c", "file:///srv/y"),
        ])
    }

    fn failed() -> Result<Commit, Unresolved> {
        Err(Unresolved { text: "refused".into() })
    }

    const POLL: Duration = Duration::from_secs(15);

    #[test]
    fn each_ref_is_asked_for_once() {
        let now = Instant::now();
        assert_eq!(Known::default().due(&file(), Wake::Tick, now).len(), 2);
    }

    #[test]
    fn waits_grow_from_a_second_to_the_poll_interval() {
        let waits: Vec<u64> = [0, 1, 2, 4, 5, 40].map(|failures| wait(failures, POLL).as_secs()).into();
        assert_eq!(waits, [15, 1, 2, 8, 15, 15]);
        assert_eq!(jittered(POLL, 0.0), Duration::from_millis(13_500));
        assert_eq!(jittered(POLL, 1.0), Duration::from_millis(16_500));
    }

    #[test]
    fn who_is_asked_depends_on_the_wake() {
        let now = Instant::now();
        let mut known = Known::default();
        let asked = known.due(&file(), Wake::Tick, now);
        let (local, remote) = (asked[0].clone(), asked[1].clone());
        known.learn(local.clone(), Ok(commit('a')), POLL, now, 0.5);
        known.learn(remote.clone(), failed(), POLL, now, 0.5);
        assert_eq!(known.due(&file(), Wake::Tick, now), []);
        assert_eq!(known.due(&file(), Wake::Repo, now), std::slice::from_ref(&local));
        assert_eq!(known.due(&file(), Wake::File, now), std::slice::from_ref(&local));
        assert_eq!(known.due(&file(), Wake::Poke, now).len(), 2);
        assert_eq!(known.next(), Some(now + Duration::from_secs(1)));
        assert_eq!(known.due(&file(), Wake::File, now + Duration::from_secs(1)).len(), 2);
        assert_eq!(known.due(&file(), Wake::Tick, now + Duration::from_secs(1)), [remote]);
        assert_eq!(known.due(&file(), Wake::Tick, now + Duration::from_secs(13)).len(), 2, "nearly due is due");
    }

    #[test]
    fn rest_puts_off_what_is_due_before() {
        let now = Instant::now();
        let mut known = Known::default();
        for question in known.due(&file(), Wake::Tick, now) {
            known.learn(question, failed(), POLL, now, 0.5);
        }
        known.rest(now + POLL);
        assert_eq!(known.next(), Some(now + POLL));
    }

    #[test]
    fn what_left_the_file_is_forgotten() {
        let now = Instant::now();
        let mut known = Known::default();
        for question in known.due(&file(), Wake::Tick, now) {
            known.learn(question, Ok(commit('a')), POLL, now, 0.5);
        }
        known.due(&stack(vec![]), Wake::File, now);
        assert!(known.answers().is_empty());
        assert_eq!(known.next(), None);
    }
}
