//! All stacks: is anything red?

use askama::Template;

use super::super::frame::{Frame, Headline, Live, Section};
use super::super::status::{self, Status, Tone};
use super::super::text::{self, Moment};
use super::parts::LastChange;
use crate::model::{Health, HostCounts, StackOverview};

#[derive(Debug, Template)]
#[template(path = "stacks.html")]
pub(crate) struct Page {
    pub(crate) frame: Frame,
    pub(crate) headline: Headline,
    pub(crate) stacks: Vec<Line>,
    pub(crate) is_new: bool,
    pub(crate) failed: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) environment: String,
    pub(crate) status: Status,
    pub(crate) problem: Option<String>,
    pub(crate) problem_since: Option<Moment>,
    pub(crate) hosts: String,
    pub(crate) held: bool,
    pub(crate) draft_differs: bool,
    pub(crate) last: Option<LastChange>,
}

impl Page {
    pub(crate) fn of(frame: Frame, mut stacks: Vec<StackOverview>, failed: Option<String>) -> Self {
        stacks.sort_by(|a, b| b.health.cmp(&a.health).then_with(|| a.name.cmp(&b.name)));
        let now_ms = frame.now_ms;
        let headline = headline(&stacks);
        let is_new = stacks.is_empty();
        Self { frame, headline, stacks: stacks.iter().map(|stack| line(stack, now_ms)).collect(), is_new, failed }
    }
}

fn line(stack: &StackOverview, now_ms: u64) -> Line {
    Line {
        id: stack.id.to_string(),
        name: text::word(&stack.name),
        environment: text::word(&stack.environment),
        status: status::health(stack.health),
        problem: stack.problem.as_deref().map(text::sentence),
        problem_since: stack.problem_since_unix_ms.map(|at_ms| Moment::since(at_ms, now_ms)),
        hosts: hosts_in_words(stack.hosts, stack.version.0),
        held: stack.held,
        draft_differs: stack.draft_differs,
        last: stack.last.as_ref().map(|row| LastChange::of(row, now_ms)),
    }
}

fn headline(stacks: &[StackOverview]) -> Headline {
    let with = |health: Health| stacks.iter().filter(|stack| stack.health == health).collect::<Vec<_>>();
    let name = |stack: &StackOverview| text::word(&stack.name);
    match (with(Health::Broken).as_slice(), with(Health::Warning).as_slice(), with(Health::Moving).as_slice()) {
        _ if stacks.is_empty() => Headline::new(Tone::Quiet, "No stack yet. Make one, then join its first host."),
        ([one], _, _) => Headline::new(Tone::Bad, format!("{} is broken", name(one))),
        ([_, _, ..], _, _) => {
            Headline::new(Tone::Bad, format!("{} of {} stacks are broken", with(Health::Broken).len(), stacks.len()))
        }
        ([], [one], _) => Headline::new(Tone::Warning, format!("{} wants a look", name(one))),
        ([], [_, _, ..], _) => {
            Headline::new(Tone::Warning, format!("{} stacks want a look", with(Health::Warning).len()))
        }
        ([], [], [one]) => Headline::new(Tone::Moving, format!("{} is being deployed", name(one))),
        ([], [], [_, _, ..]) => {
            Headline::new(Tone::Moving, format!("{} stacks are being deployed", with(Health::Moving).len()))
        }
        ([], [], []) => Headline::new(Tone::Good, "Nothing is wrong"),
    }
}

/// `11 of 12 hosts on version 58, 1 silent`
pub(crate) fn hosts_in_words(counts: HostCounts, version: u64) -> String {
    if counts.active == 0 {
        return if counts.pending > 0 {
            format!("{} to join", text::many(counts.pending, "host wants"))
        } else {
            "no host".to_owned()
        };
    }
    let mut words = if version == 0 {
        text::many(counts.active, "host")
    } else {
        format!("{} of {} on {version}", counts.applied, text::many(counts.active, "host"))
    };
    for (count, word) in [
        (counts.behind, "behind"),
        (counts.degraded, "degraded"),
        (counts.refused, "refused"),
        (counts.silent, "silent"),
        (counts.pending, "asking to join"),
    ] {
        if count > 0 {
            words.push_str(&format!(", {count} {word}"));
        }
    }
    words
}
