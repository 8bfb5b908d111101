//! What happened, over all hosts; a link to a filtered view is a report of an incident.

use askama::Template;

use super::super::frame::{Frame, Live, Section};
use super::parts::EventLine;
use crate::model::{EventFilter, EventPage};

#[derive(Debug, Template)]
#[template(path = "events.html")]
pub(crate) struct Page {
    pub(crate) frame: Frame,
    pub(crate) filter: FilterView,
    pub(crate) stacks: Vec<(String, String)>,
    pub(crate) hosts: Vec<(String, String)>,
    pub(crate) events: Vec<EventLine>,
    pub(crate) older: Option<String>,
    pub(crate) newest: Option<String>,
    pub(crate) failed: Option<String>,
}

/// The filter as the address has it.
#[derive(Debug, Default, Clone)]
pub(crate) struct FilterView {
    pub(crate) stack: String,
    pub(crate) host: String,
    pub(crate) service: String,
    pub(crate) severity: String,
    pub(crate) kind: String,
    pub(crate) since: String,
    pub(crate) before: Option<u64>,
}

impl FilterView {
    /// Of this view, with another `before`.
    pub(crate) fn address(&self, before: Option<u64>) -> String {
        let before = before.map(|id| id.to_string()).unwrap_or_default();
        let pairs = [
            ("stack", &self.stack),
            ("host", &self.host),
            ("service", &self.service),
            ("severity", &self.severity),
            ("kind", &self.kind),
            ("since", &self.since),
            ("before", &before),
        ];
        let mut query = form_urlencoded(&pairs);
        query.insert_str(0, "/events");
        query
    }
}

fn form_urlencoded(pairs: &[(&str, &String)]) -> String {
    let mut query = String::new();
    for (key, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        let coded = askama::filters::urlencode_strict(value.as_str()).map(|coded| coded.to_string());
        let Ok(coded) = coded;
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(&format!("{key}={coded}"));
    }
    query
}

impl Page {
    pub(crate) fn of(frame: Frame, filter: FilterView, asked: &EventFilter, page: &EventPage) -> Self {
        let events: Vec<EventLine> = page.events.iter().map(|row| EventLine::of(row, frame.now_ms)).collect();
        let last = events.last().map(|event| event.id);
        Self {
            older: last.filter(|_| page.more).map(|id| filter.address(Some(id))),
            newest: asked.before.is_some().then(|| filter.address(None)),
            stacks: Vec::new(),
            hosts: Vec::new(),
            failed: None,
            frame,
            filter,
            events,
        }
    }
}
