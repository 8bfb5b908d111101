//! A version on its way, and how it ended: what each host does, since when, and why where it does not. Pure.

use super::super::status::{self, Status, Tone};
use super::super::text::{self, Moment};
use crate::core::AHEAD_BELIEVED_MAX;
use crate::model::{Doing, HostRow, Presence, Rollout, Standing, VersionRow};
use agentd_protocol::api::Verdict;

/// The result stands on the stack's page for so long.
const RESULT_SHOWN_MS: u64 = 15 * 60_000;
/// Hosts that are told of one by one; those that want a look come first.
const LINES_MAX: usize = 12;

#[derive(Debug)]
pub(crate) struct Deploy {
    pub(crate) published: Moment,
    pub(crate) said: String,
    pub(crate) done: u32,
    pub(crate) of: u32,
    /// Some host is at it.
    pub(crate) is_moving: bool,
    pub(crate) lines: Vec<Line>,
    pub(crate) more: usize,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) host: String,
    pub(crate) host_name: String,
    pub(crate) status: Status,
    pub(crate) doing: Vec<DoingView>,
    pub(crate) why: Option<String>,
    pub(crate) since: Option<Moment>,
    /// From publishing to the host's `applied`.
    pub(crate) took: Option<String>,
}

#[derive(Debug)]
pub(crate) struct DoingView {
    pub(crate) service: String,
    pub(crate) status: Status,
    pub(crate) since: Moment,
}

/// Where a host stands with the newest version; what wants a look first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Failed,
    Refused,
    Ahead,
    Silent,
    Working,
    Waiting,
    Held,
    Done,
}

/// What a host said of the versions before says nothing of one that it has not fetched yet.
fn stage(row: &HostRow, last: &VersionRow) -> Stage {
    match (&row.rollout, row.presence) {
        (Rollout::Applied, _) => Stage::Done,
        (_, Presence::Silent { .. } | Presence::NeverReported) => Stage::Silent,
        (Rollout::Refused { .. }, _) => Stage::Refused,
        (Rollout::Held, _) => Stage::Held,
        (Rollout::Ahead, _) => Stage::Ahead,
        (Rollout::Behind, _) if row.seen < last.number => Stage::Waiting,
        (Rollout::Behind, _) if row.verdict == Some(Verdict::Degraded) => Stage::Failed,
        (Rollout::Behind, _) if !row.doing.is_empty() || row.verdict == Some(Verdict::Applying) => Stage::Working,
        (Rollout::Behind | Rollout::NothingPublished, _) => Stage::Waiting,
    }
}

impl Stage {
    fn status(self) -> Status {
        match self {
            Self::Failed => Status::new(Tone::Bad, "failed"),
            Self::Refused => Status::new(Tone::Bad, "refused"),
            Self::Ahead => Status::new(Tone::Warning, "ahead of server"),
            Self::Silent => Status::new(Tone::Silent, "silent"),
            Self::Working => Status::new(Tone::Moving, "at work"),
            Self::Waiting => Status::new(Tone::Moving, "waiting"),
            Self::Held => Status::new(Tone::Quiet, "on hold"),
            Self::Done => Status::new(Tone::Good, "done"),
        }
    }
}

impl Deploy {
    /// `None`: nothing was published, or nobody is there.
    pub(crate) fn of(last: Option<&VersionRow>, hosts: &[HostRow], now_ms: u64) -> Option<Self> {
        let last = last?;
        let active = hosts.iter().filter(|row| row.standing == Standing::Active);
        let mut staged: Vec<(Stage, &HostRow)> = active.map(|row| (stage(row, last), row)).collect();
        if staged.is_empty() {
            return None;
        }
        staged.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.name.cmp(&b.1.name)));
        let count = |wanted: Stage| staged.iter().filter(|(stage, _)| *stage == wanted).count();
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let said = said(last, &staged);
        let lines = staged.iter().take(LINES_MAX).map(|(stage, row)| Line::of(*stage, row, last, now_ms));
        Some(Self {
            published: Moment::relative(last.created_unix_ms, now_ms),
            said,
            done: small(count(Stage::Done)),
            of: small(staged.len()),
            is_moving: count(Stage::Working) + count(Stage::Waiting) > 0,
            lines: lines.collect(),
            more: staged.len().saturating_sub(LINES_MAX),
        })
    }

    /// On its way, or just ended.
    pub(crate) fn is_news(&self) -> bool {
        self.done < self.of || self.published.now_ms.saturating_sub(self.published.at_ms) < RESULT_SHOWN_MS
    }
}

fn said(last: &VersionRow, staged: &[(Stage, &HostRow)]) -> String {
    let count = |wanted: Stage| staged.iter().filter(|(stage, _)| *stage == wanted).count();
    let (done, of, number) = (count(Stage::Done), staged.len(), last.number);
    let hosts = text::many(u32::try_from(of).unwrap_or(u32::MAX), "host");
    if done == of {
        let slowest = staged.iter().filter_map(|(_, row)| took_ms(row, last)).max();
        let after = slowest.map(|ms| format!(", the last one after {}", text::span(ms))).unwrap_or_default();
        let all = if of == 1 { "its host".to_owned() } else { format!("all {hosts}") };
        return format!("Version {number} is on {all}{after}");
    }
    let mut words = vec![format!("done on {done} of {hosts}")];
    for (stage, word) in [
        (Stage::Failed, "failed on"),
        (Stage::Refused, "refused by"),
        (Stage::Ahead, "behind the version of"),
        (Stage::Working, "at work on"),
        (Stage::Waiting, "not begun on"),
        (Stage::Held, "on hold on"),
    ] {
        let hosts = count(stage);
        if hosts > 0 {
            words.push(format!("{word} {hosts}"));
        }
    }
    let silent = count(Stage::Silent);
    if silent > 0 {
        words.push(format!("{silent} silent"));
    }
    format!("Version {number}: {}", words.join(", "))
}

/// By the host's own clock; one that is behind the server's says nothing of it.
fn took_ms(row: &HostRow, last: &VersionRow) -> Option<u64> {
    let since = row.verdict_since_unix_ms.filter(|_| row.verdict == Some(Verdict::Applied))?;
    since.checked_sub(last.created_unix_ms)
}

fn ahead(row: &HostRow, last: &VersionRow) -> String {
    let seen = row.seen;
    if seen.0.saturating_sub(last.number.0) > AHEAD_BELIEVED_MAX {
        return format!("says that it has seen version {seen}, which nobody believes: let it join anew");
    }
    format!("ahead of this server: version {seen}; publish to go above it")
}

impl Line {
    fn of(stage: Stage, row: &HostRow, last: &VersionRow, now_ms: u64) -> Self {
        let doing = |doing: &Doing| DoingView {
            service: doing.service.to_string(),
            status: status::service(doing.state),
            since: Moment::relative(doing.since_unix_ms, now_ms),
        };
        let why = match (&row.rollout, stage) {
            (Rollout::Refused { refusal }, _) => refusal.reasons.first().map(|reason| text::sentence(reason)),
            (_, Stage::Ahead) => Some(ahead(row, last)),
            (_, Stage::Failed) => row.problem.as_deref().map(text::sentence),
            (_, Stage::Waiting) if row.seen < last.number => Some("has not fetched it yet".to_owned()),
            (_, Stage::Waiting) => Some("has fetched it, and begins".to_owned()),
            _ => None,
        };
        let since_ms = match (row.presence, stage) {
            (Presence::Silent { since_unix_ms }, Stage::Silent) => Some(since_unix_ms),
            (_, Stage::Failed | Stage::Working) => row.verdict_since_unix_ms,
            _ => None,
        };
        Self {
            host: row.id.to_string(),
            host_name: text::word(&row.name),
            status: stage.status(),
            doing: if stage == Stage::Working { row.doing.iter().map(doing).collect() } else { Vec::new() },
            why,
            since: since_ms.map(|at_ms| Moment::since(at_ms, now_ms)),
            took: took_ms(row, last).filter(|_| stage == Stage::Done).map(text::span),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::model::VersionKind;
    use agentd_protocol::api::ServiceState;
    use agentd_protocol::digest::Digest;
    use agentd_protocol::ids::Version;

    const NOW_MS: u64 = sample::NOW_MS;

    fn version() -> VersionRow {
        VersionRow {
            number: Version(58),
            note: VersionKind::Deploy,
            by: "user martha".into(),
            reason: String::new(),
            created_unix_ms: NOW_MS - 60_000,
            sha256: Digest::of(b""),
            summary: Vec::new(),
        }
    }

    fn host(name: &str, change: impl Fn(&mut HostRow)) -> HostRow {
        let mut row = sample::stack(sample::plain).hosts.remove(0);
        row.name = name.to_owned();
        change(&mut row);
        row
    }

    #[test]
    fn each_host_says_what_it_does_and_how_it_ended() {
        let hosts = [
            host("done", |row| row.verdict_since_unix_ms = Some(NOW_MS - 48_000)),
            host("works", |row| {
                row.rollout = Rollout::Behind;
                row.verdict = Some(Verdict::Applying);
                let (service, state) = ("api".parse().unwrap(), ServiceState::Building);
                row.doing = vec![Doing { service, state, since_unix_ms: NOW_MS - 30_000 }];
            }),
            host("fails", |row| {
                row.rollout = Rollout::Behind;
                row.verdict = Some(Verdict::Degraded);
                row.problem = Some("api: not ready".into());
            }),
            host("waits", |row| {
                row.rollout = Rollout::Behind;
                row.seen = Version(57);
            }),
            host("gone", |row| {
                row.rollout = Rollout::Behind;
                row.presence = Presence::Silent { since_unix_ms: NOW_MS - 900_000 };
            }),
        ];
        let deploy = Deploy::of(Some(&version()), &hosts, NOW_MS).unwrap();
        assert_eq!(
            deploy.said,
            "Version 58: done on 1 of 5 hosts, failed on 1, at work on 1, not begun on 1, 1 silent"
        );
        let order: Vec<&str> = deploy.lines.iter().map(|line| line.host_name.as_str()).collect();
        assert_eq!(order, ["fails", "gone", "works", "waits", "done"]);
        assert_eq!(deploy.lines[0].why.as_deref(), Some("api: not ready"));
        assert_eq!(deploy.lines[2].doing[0].status.word, "building");
        assert_eq!(deploy.lines[3].why.as_deref(), Some("has not fetched it yet"));
        assert_eq!(deploy.lines[4].took.as_deref(), Some("12 s"));
        assert!(deploy.is_news() && deploy.is_moving);
    }

    #[test]
    fn a_host_that_is_ahead_waits_for_nothing() {
        let ahead = |seen| {
            move |row: &mut HostRow| {
                row.rollout = Rollout::Ahead;
                row.seen = Version(seen);
            }
        };
        let hosts = [host("a-done", |_| {}), host("b-ahead", ahead(61)), host("c-lies", ahead(u64::MAX))];
        let deploy = Deploy::of(Some(&version()), &hosts, NOW_MS).unwrap();
        assert_eq!(deploy.said, "Version 58: done on 1 of 3 hosts, behind the version of 2");
        assert!(!deploy.is_moving, "nothing will happen by itself");
        let line = &deploy.lines[0];
        assert_eq!((line.host_name.as_str(), line.status.word), ("b-ahead", "ahead of server"));
        assert_eq!(line.why.as_deref(), Some("ahead of this server: version 61; publish to go above it"));
        assert!(deploy.lines[1].why.as_deref().unwrap().ends_with("which nobody believes: let it join anew"));
    }

    #[test]
    fn a_version_that_was_not_fetched_has_not_failed() {
        let degraded = |seen| {
            host("a", move |row| {
                row.rollout = Rollout::Behind;
                row.verdict = Some(Verdict::Degraded);
                row.problem = Some("api: not ready".into());
                row.seen = Version(seen);
            })
        };
        let before = Deploy::of(Some(&version()), &[degraded(57)], NOW_MS).unwrap();
        assert_eq!(before.said, "Version 58: done on 0 of 1 host, not begun on 1");
        assert_eq!(before.lines[0].why.as_deref(), Some("has not fetched it yet"));
        let after = Deploy::of(Some(&version()), &[degraded(58)], NOW_MS).unwrap();
        assert_eq!(after.said, "Version 58: done on 0 of 1 host, failed on 1");
    }

    #[test]
    fn the_result_is_said_and_then_it_is_no_news() {
        let hosts = [host("a", |row| row.verdict_since_unix_ms = Some(NOW_MS - 48_000)), host("b", |_| {})];
        let deploy = Deploy::of(Some(&version()), &hosts, NOW_MS).unwrap();
        assert_eq!(deploy.said, "Version 58 is on all 2 hosts, the last one after 12 s");
        let later = NOW_MS + RESULT_SHOWN_MS;
        assert!(deploy.is_news() && !Deploy::of(Some(&version()), &hosts, later).unwrap().is_news());
        assert!(Deploy::of(None, &hosts, NOW_MS).is_none() && Deploy::of(Some(&version()), &[], NOW_MS).is_none());
    }
}
