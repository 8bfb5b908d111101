//! What stands around every page.

use super::status::Tone;
use super::text::sentence;

/// Which entry of the navigation a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Stacks,
    Hosts,
    Events,
    Audit,
    Account,
    /// Before somebody is logged in.
    Outside,
}

/// Whether a page is fetched again when something changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Live {
    /// By this path and query, which answer the same page.
    From(String),
    Still,
}

/// What was just done, said once at the top of the page that follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) tone: Tone,
    pub(crate) text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) title: String,
    pub(crate) section: Section,
    /// Empty: nobody is logged in.
    pub(crate) user: String,
    pub(crate) now_ms: u64,
    pub(crate) live: Live,
    pub(crate) notice: Option<Notice>,
    /// What people have to know of the server itself.
    pub(crate) server: Vec<Notice>,
}

impl Frame {
    pub(crate) fn new(title: impl Into<String>, section: Section, user: &str, now_ms: u64) -> Self {
        Self {
            title: title.into(),
            section,
            user: user.to_owned(),
            now_ms,
            live: Live::Still,
            notice: None,
            server: Vec::new(),
        }
    }

    pub(crate) fn live(mut self, path: impl Into<String>) -> Self {
        self.live = Live::From(path.into());
        self
    }

    pub(crate) fn noted(mut self, notice: Option<Notice>) -> Self {
        self.notice = notice;
        self
    }

    pub(crate) fn about_server(mut self, notices: Vec<String>) -> Self {
        self.server = notices.into_iter().map(|text| Notice { tone: Tone::Warning, text: sentence(&text) }).collect();
        self
    }

    pub(crate) fn at(&self, section: Section) -> bool {
        self.section == section
    }
}

/// The sentence a page opens with: what is true, in words that need nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Headline {
    pub(crate) tone: Tone,
    pub(crate) text: String,
}

impl Headline {
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { tone, text: text.into() }
    }
}
