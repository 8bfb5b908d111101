//! The document as it is edited: its text, its problems by line, and what publishing it would change.

use std::collections::BTreeMap;

use agentd_protocol::ids::{Commit, ServiceName};
use askama::Template;

use super::super::frame::{Frame, Headline, Live, Section};
use super::super::status::Tone;
use super::super::text::{self, Moment};
use super::parts::DiffView;
use super::stack::{StackHead, Tab};
use crate::model::{Draft, DraftFormat, DraftProblem, Follows, PointsAt, Preview, StackOverview};

#[derive(Debug, Template)]
#[template(path = "draft.html")]
pub(crate) struct Page {
    pub(crate) frame: Frame,
    pub(crate) head: StackHead,
    pub(crate) headline: Headline,
    pub(crate) revision: u64,
    pub(crate) text: String,
    pub(crate) rows: usize,
    pub(crate) is_json: bool,
    pub(crate) by: String,
    pub(crate) saved: Option<Moment>,
    pub(crate) problems: Vec<ProblemLine>,
    pub(crate) diff: Option<DiffView>,
    pub(crate) follows: Vec<FollowsLine>,
    /// Where a branch points could not be found out: nothing is said of what publishing changes there.
    pub(crate) unknown: bool,
    /// What the branches shown point at, as far as that is known.
    pub(crate) saw: String,
    pub(crate) can_publish: bool,
    pub(crate) reason: String,
    /// The same for a form that is sent twice.
    pub(crate) idempotency_key: String,
    pub(crate) failed: Option<String>,
}

#[derive(Debug)]
pub(crate) struct ProblemLine {
    /// 0: not known.
    pub(crate) line: u64,
    pub(crate) key: String,
    pub(crate) text: String,
    pub(crate) nearest: Option<String>,
    /// The line itself, where it holds no value of a variable.
    pub(crate) excerpt: Option<String>,
}

/// A service that follows a branch or tag, and where that points now.
#[derive(Debug)]
pub(crate) struct FollowsLine {
    pub(crate) service: String,
    pub(crate) reference: String,
    pub(crate) repo: String,
    pub(crate) published: Option<String>,
    pub(crate) now: PointsNow,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PointsNow {
    Same,
    Moved(String),
    Unknown(String),
}

/// What a form that failed had in it.
#[derive(Debug, Default)]
pub(crate) struct Typed {
    /// As it was typed; the stored text stands where there is none.
    pub(crate) text: Option<String>,
    pub(crate) reason: String,
    pub(crate) failed: Option<String>,
    pub(crate) problems: Option<Vec<DraftProblem>>,
}

/// Of the text area.
const ROWS_MIN: usize = 16;
const ROWS_MAX: usize = 44;

impl Page {
    pub(crate) fn of(
        frame: Frame,
        stack: &StackOverview,
        (draft, preview): (&Draft, Option<&Preview>),
        typed: Typed,
        idempotency_key: String,
    ) -> Self {
        let now_ms = frame.now_ms;
        let text = typed.text.unwrap_or_else(|| draft.text.clone());
        let problems = typed.problems.as_ref().unwrap_or(&draft.problems);
        let preview = preview.filter(|_| problems.is_empty());
        let diff = preview.map(|preview| &preview.diff);
        let follows: Vec<FollowsLine> =
            preview.iter().flat_map(|preview| &preview.follows).map(FollowsLine::of).collect();
        let unknown = follows.iter().any(|line| matches!(line.now, PointsNow::Unknown(_)));
        let is_same = diff.map(crate::model::Diff::is_empty);
        let can_publish = typed.failed.is_none() && (is_same == Some(false) || unknown) && draft.revision > 0;
        Self {
            head: StackHead::of(stack, Tab::Draft, now_ms),
            headline: headline(problems.len(), (is_same, unknown), stack, draft),
            revision: draft.revision,
            rows: text.lines().count().clamp(ROWS_MIN, ROWS_MAX) + 2,
            problems: problems.iter().map(|problem| ProblemLine::of(problem, &text)).collect(),
            text,
            is_json: draft.format == DraftFormat::Json,
            by: super::parts::person(&draft.by),
            saved: (draft.saved_unix_ms > 0).then(|| Moment::relative(draft.saved_unix_ms, now_ms)),
            saw: preview.map(saw).unwrap_or_default(),
            diff: diff.map(DiffView::of),
            follows,
            unknown,
            can_publish,
            reason: typed.reason,
            idempotency_key,
            failed: typed.failed,
            frame,
        }
    }
}

impl Page {
    /// Problems that came up on publishing alone; the form to try again stays.
    pub(crate) fn blame(&mut self, problems: &[DraftProblem]) {
        self.problems = problems.iter().map(|problem| ProblemLine::of(problem, &self.text)).collect();
    }
}

/// What branches and tags were seen at, as the form brings it back: `api=COMMIT web=COMMIT`.
fn saw(preview: &Preview) -> String {
    let known = preview.follows.iter().filter_map(|follows| match &follows.now {
        PointsAt::Commit { commit } => Some(format!("{}={commit}", follows.service)),
        PointsAt::Unknown { .. } => None,
    });
    known.collect::<Vec<_>>().join(" ")
}

/// `None`: no form of ours.
pub(crate) fn seen(saw: &str) -> Option<BTreeMap<ServiceName, Commit>> {
    let pair = |pair: &str| {
        let (service, commit) = pair.split_once('=')?;
        Some((service.parse().ok()?, commit.parse().ok()?))
    };
    saw.split_ascii_whitespace().map(pair).collect()
}

fn headline(problems: usize, seen: (Option<bool>, bool), stack: &StackOverview, draft: &Draft) -> Headline {
    if problems > 0 {
        let count = u32::try_from(problems).unwrap_or(u32::MAX);
        return Headline::new(
            Tone::Bad,
            format!("{} to mend before this can be published", text::many(count, "problem")),
        );
    }
    match seen {
        _ if draft.revision == 0 => {
            Headline::new(Tone::Quiet, "Nothing saved yet. Write what the hosts of this stack should run.")
        }
        (Some(true), false) => {
            Headline::new(Tone::Good, format!("Publishing now would change nothing: version {} says it", stack.version))
        }
        (Some(true), true) => Headline::new(
            Tone::Warning,
            format!("The document is that of version {}; where its branches point is not known", stack.version),
        ),
        (Some(false), _) if stack.version.0 == 0 => Headline::new(Tone::Moving, "Ready to be published as version 1"),
        (Some(false), _) => {
            Headline::new(Tone::Moving, format!("Publishing now would change version {}", stack.version))
        }
        (None, _) => Headline::new(Tone::Quiet, "The draft is saved"),
    }
}

impl FollowsLine {
    fn of(follows: &Follows) -> Self {
        let short = |commit: &agentd_protocol::ids::Commit| commit.short().to_owned();
        Self {
            service: follows.service.to_string(),
            reference: text::word(&follows.reference),
            repo: text::word(&follows.repo),
            published: follows.published.as_ref().map(short),
            now: match &follows.now {
                PointsAt::Commit { commit } if follows.published.as_ref() == Some(commit) => PointsNow::Same,
                PointsAt::Commit { commit } => PointsNow::Moved(short(commit)),
                PointsAt::Unknown { why } => PointsNow::Unknown(text::sentence(why)),
            },
        }
    }
}

impl ProblemLine {
    fn of(problem: &DraftProblem, text: &str) -> Self {
        let at = usize::try_from(problem.line).ok().and_then(|line| line.checked_sub(1));
        let line = at.and_then(|at| text.lines().nth(at));
        // A line below `env` may hold a value that was just typed: it stands in the editor alone.
        let shown = line.filter(|_| !problem.pointer.contains("/env"));
        Self {
            line: problem.line,
            key: text::word(&problem.key),
            text: text::sentence(&problem.text),
            nearest: problem.nearest.as_deref().map(text::word),
            excerpt: shown.map(|line| text::clean(line.trim(), text::SENTENCE_CHARS_MAX)),
        }
    }
}
