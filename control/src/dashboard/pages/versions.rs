//! What was published, one version in full, and the way back to it.

use askama::Template;

use super::super::frame::{Frame, Headline, Live, Section};
use super::super::status::{self, Tone};
use super::super::text;
use super::deploy::Deploy;
use super::parts::{DiffView, LastChange};
use super::stack::{StackHead, Tab};
use crate::model::{Diff, Health, StackOverview, VersionDetail, VersionRow};

#[derive(Debug, Template)]
#[template(path = "versions.html")]
pub(crate) struct List {
    pub(crate) frame: Frame,
    pub(crate) head: StackHead,
    pub(crate) versions: Vec<LastChange>,
    pub(crate) older: Option<u64>,
}

impl List {
    /// `limit`: how many were asked for.
    pub(crate) fn of(frame: Frame, stack: &StackOverview, versions: &[VersionRow], limit: u32) -> Self {
        let now_ms = frame.now_ms;
        let lines: Vec<LastChange> = versions.iter().map(|row| LastChange::of(row, now_ms)).collect();
        let is_full = u32::try_from(lines.len()).is_ok_and(|count| count >= limit);
        let older = lines.last().map(|row| row.version).filter(|number| is_full && *number > 1);
        Self { head: StackHead::of(stack, Tab::Versions, now_ms), versions: lines, older, frame }
    }
}

#[derive(Debug, Template)]
#[template(path = "version.html")]
pub(crate) struct One {
    pub(crate) frame: Frame,
    pub(crate) head: StackHead,
    pub(crate) headline: Headline,
    pub(crate) row: LastChange,
    pub(crate) is_newest: bool,
    pub(crate) services: Vec<ServiceAt>,
    /// Of the newest one.
    pub(crate) deploy: Option<Deploy>,
    /// Against the version before.
    pub(crate) diff: DiffView,
    pub(crate) document: String,
}

#[derive(Debug)]
pub(crate) struct ServiceAt {
    pub(crate) name: String,
    pub(crate) repo: String,
    pub(crate) from: Option<String>,
    pub(crate) commit: String,
}

impl One {
    pub(crate) fn of(frame: Frame, stack: &StackOverview, version: &VersionDetail, diff: &Diff) -> Self {
        let now_ms = frame.now_ms;
        let is_newest = version.row.number == stack.version;
        let document = serde_json::to_string_pretty(&version.document).unwrap_or_default();
        let document: Vec<String> = document.lines().map(|line| text::clean(line, text::LINE_CHARS_MAX)).collect();
        Self {
            head: StackHead::of(stack, Tab::Versions, now_ms),
            headline: headline(stack, version, is_newest),
            row: LastChange::of(&version.row, now_ms),
            services: version
                .services
                .iter()
                .map(|service| ServiceAt {
                    name: service.name.to_string(),
                    repo: text::word(&service.repo),
                    from: service.from.as_deref().map(text::word),
                    commit: service.commit.short().to_owned(),
                })
                .collect(),
            deploy: Deploy::of(Some(&version.row).filter(|_| is_newest), &version.hosts, now_ms),
            diff: DiffView::of(diff),
            document: document.join("\n"),
            is_newest,
            frame,
        }
    }
}

fn headline(stack: &StackOverview, version: &VersionDetail, is_newest: bool) -> Headline {
    let number = version.row.number;
    if !is_newest {
        return Headline::new(Tone::Quiet, format!("Version {number} was replaced; {} is the newest", stack.version));
    }
    let (done, of) = (stack.hosts.applied, stack.hosts.active);
    match stack.health {
        _ if of == 0 => Headline::new(Tone::Quiet, format!("Version {number} waits for its first host")),
        Health::Broken => Headline::new(
            Tone::Bad,
            format!(
                "Version {number} is broken: {}",
                stack.problem.as_deref().map_or_else(|| "a service is not as it should be".to_owned(), text::sentence)
            ),
        ),
        Health::Good | Health::Moving | Health::Warning | Health::Unknown if done == of => {
            Headline::new(Tone::Good, format!("Version {number} is applied on {}", text::many(of, "host")))
        }
        Health::Good | Health::Moving | Health::Warning | Health::Unknown => {
            let tone = status::health(stack.health).tone.max(Tone::Moving);
            Headline::new(tone, format!("Version {number} is applied on {done} of {}", text::many(of, "host")))
        }
    }
}

#[derive(Debug, Template)]
#[template(path = "rollback.html")]
pub(crate) struct Rollback {
    pub(crate) frame: Frame,
    pub(crate) head: StackHead,
    pub(crate) to: LastChange,
    /// The version the diff is against; another one published meanwhile is another diff.
    pub(crate) from: u64,
    pub(crate) diff: DiffView,
    pub(crate) idempotency_key: String,
    pub(crate) reason: String,
    pub(crate) failed: Option<String>,
}

impl Rollback {
    pub(crate) fn of(
        frame: Frame,
        stack: &StackOverview,
        to: &VersionRow,
        diff: &Diff,
        idempotency_key: String,
    ) -> Self {
        let now_ms = frame.now_ms;
        Self {
            head: StackHead::of(stack, Tab::Versions, now_ms),
            to: LastChange::of(to, now_ms),
            from: stack.version.0,
            diff: DiffView::of(diff),
            idempotency_key,
            reason: String::new(),
            failed: None,
            frame,
        }
    }
}
