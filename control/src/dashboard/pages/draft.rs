//! The document as it is edited: its text, its problems by line, and what publishing it would change.

use askama::Template;

use super::super::frame::{Frame, Headline, Live, Section};
use super::super::status::Tone;
use super::super::text::{self, Moment};
use super::parts::DiffView;
use super::stack::{StackHead, Tab};
use crate::model::{Draft, DraftFormat, DraftProblem, StackOverview};

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
        draft: &Draft,
        typed: Typed,
        idempotency_key: String,
    ) -> Self {
        let now_ms = frame.now_ms;
        let text = typed.text.unwrap_or_else(|| draft.text.clone());
        let problems = typed.problems.as_ref().unwrap_or(&draft.problems);
        let diff = draft.diff.as_ref().filter(|_| problems.is_empty());
        let can_publish = typed.failed.is_none() && diff.is_some_and(|diff| !diff.is_empty()) && draft.revision > 0;
        Self {
            head: StackHead::of(stack, Tab::Draft, now_ms),
            headline: headline(problems.len(), diff.map(crate::model::Diff::is_empty), stack, draft),
            revision: draft.revision,
            rows: text.lines().count().clamp(ROWS_MIN, ROWS_MAX) + 2,
            problems: problems.iter().map(|problem| ProblemLine::of(problem, &text)).collect(),
            text,
            is_json: draft.format == DraftFormat::Json,
            by: text::word(&draft.by),
            saved: (draft.saved_unix_ms > 0).then(|| Moment::relative(draft.saved_unix_ms, now_ms)),
            diff: diff.map(DiffView::of),
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

fn headline(problems: usize, is_same: Option<bool>, stack: &StackOverview, draft: &Draft) -> Headline {
    if problems > 0 {
        let count = u32::try_from(problems).unwrap_or(u32::MAX);
        return Headline::new(
            Tone::Bad,
            format!("{} to mend before this can be published", text::many(count, "problem")),
        );
    }
    match is_same {
        _ if draft.revision == 0 => {
            Headline::new(Tone::Quiet, "Nothing saved yet. Write what the hosts of this stack should run.")
        }
        Some(true) => Headline::new(Tone::Good, format!("The draft is what version {} says", stack.version)),
        Some(false) if stack.version.0 == 0 => Headline::new(Tone::Moving, "Ready to be published as version 1"),
        Some(false) => Headline::new(Tone::Moving, format!("The draft differs from version {}", stack.version)),
        None => Headline::new(Tone::Quiet, "The draft is saved"),
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
