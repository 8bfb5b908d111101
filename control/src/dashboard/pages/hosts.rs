//! All hosts: who is connected, and on which version.

use askama::Template;

use super::super::frame::{Frame, Headline, Live, Section};
use super::super::status::Tone;
use super::super::text;
use super::parts::HostLine;
use crate::model::HostRow;

#[derive(Debug, Template)]
#[template(path = "hosts.html")]
pub(crate) struct Page {
    pub(crate) frame: Frame,
    pub(crate) headline: Headline,
    pub(crate) hosts: Vec<HostLine>,
    pub(crate) stacks: Vec<(String, String)>,
    pub(crate) stack: String,
}

impl Page {
    pub(crate) fn of(frame: Frame, hosts: &[HostRow], stacks: Vec<(String, String)>, stack: String) -> Self {
        let mut lines: Vec<HostLine> = hosts.iter().map(|row| HostLine::of(row, frame.now_ms)).collect();
        lines.sort_by(|a, b| rank(b).cmp(&rank(a)).then_with(|| a.name.cmp(&b.name)));
        Self { headline: headline(&lines), hosts: lines, stacks, stack, frame }
    }
}

/// What wants a person comes first, who is gone last.
fn rank(line: &HostLine) -> (bool, Tone) {
    let worst = line.verdict.map_or(line.rollout.tone, |verdict| verdict.tone.max(line.rollout.tone));
    (line.revoked.is_none(), if line.is_active() { worst.max(line.status.tone) } else { line.status.tone })
}

fn headline(lines: &[HostLine]) -> Headline {
    let count = |keep: &dyn Fn(&HostLine) -> bool| {
        u32::try_from(lines.iter().filter(|line| keep(line)).count()).unwrap_or(u32::MAX)
    };
    let active = count(&|line| line.is_active());
    let parts = [
        (
            count(&|line| line.is_active() && line.verdict.is_some_and(|verdict| verdict.tone == Tone::Bad)),
            "degraded",
            Tone::Bad,
        ),
        (count(&|line| line.is_active() && line.refused.is_some()), "refusing the newest version", Tone::Bad),
        (count(&|line| line.is_active() && line.silent), "silent", Tone::Silent),
        (count(&|line| line.code.is_some()), "asking to join", Tone::Warning),
    ];
    let wrong: Vec<&(u32, &str, Tone)> = parts.iter().filter(|(count, ..)| *count > 0).collect();
    match wrong.first() {
        None if active == 0 => {
            Headline::new(Tone::Quiet, "No host yet. A stack's page `Join` has the command to paste.")
        }
        None => Headline::new(Tone::Good, format!("{} connected, nothing wrong", text::many(active, "host"))),
        Some((_, _, tone)) => {
            let words: Vec<String> = wrong.iter().map(|(count, word, _)| format!("{count} {word}")).collect();
            Headline::new(*tone, format!("{}: {}", text::many(active, "host"), words.join(", ")))
        }
    }
}
