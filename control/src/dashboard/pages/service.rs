//! One service on every host.

use askama::Template;

use super::super::frame::{Frame, Headline, Live, Section};
use super::super::status::Tone;
use super::parts::{LastChange, ProblemView};
use super::stack::{Cell, ServiceLine, StackHead, Tab};
use crate::dashboard::text;
use crate::model::{HostDetail, ServiceDetail, StackOverview};

#[derive(Debug, Template)]
#[template(path = "service.html")]
pub(crate) struct Page {
    pub(crate) frame: Frame,
    pub(crate) head: StackHead,
    pub(crate) headline: Headline,
    pub(crate) line: ServiceLine,
    pub(crate) cells: Vec<Cell>,
    pub(crate) problems: Vec<ProblemView>,
    pub(crate) env: Vec<String>,
    pub(crate) history: Vec<LastChange>,
}

impl Page {
    pub(crate) fn of(frame: Frame, stack: &StackOverview, service: &ServiceDetail, troubled: &[HostDetail]) -> Self {
        let now_ms = frame.now_ms;
        let name = service.row.name.as_str();
        let mut cells: Vec<Cell> = service.row.cells.iter().map(|cell| Cell::of(cell, now_ms)).collect();
        cells.sort_by(|a, b| b.status.tone.cmp(&a.status.tone).then_with(|| a.host_name.cmp(&b.host_name)));
        let problems = super::stack::problems(troubled, now_ms);
        Self {
            head: StackHead::of(stack, Tab::Overview, now_ms),
            headline: headline(name, &cells),
            line: ServiceLine::of(&service.row, now_ms),
            problems: problems.into_iter().filter(|problem| problem.service.as_deref() == Some(name)).collect(),
            env: service.env.iter().map(|variable| text::word(variable)).collect(),
            history: service.history.iter().map(|row| LastChange::of(row, now_ms)).collect(),
            cells,
            frame,
        }
    }
}

fn headline(name: &str, cells: &[Cell]) -> Headline {
    let Some(worst) = cells.first() else { return Headline::new(Tone::Quiet, format!("{name} runs on no host")) };
    let alike = cells.iter().filter(|cell| cell.status == worst.status).count();
    let place = match alike {
        1 => format!("on {}", worst.host_name),
        all if all == cells.len() => format!("on all {all} hosts"),
        some => format!("on {some} of {} hosts", cells.len()),
    };
    Headline::new(worst.status.tone, format!("{name}: {} {place}", worst.status.word))
}
