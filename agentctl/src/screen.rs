//! Where output goes: how wide it may be and whether it may be coloured. Colour never says what words do not.

use std::io::{IsTerminal as _, stdout};

use terminal_size::{Height, Width, terminal_size_of};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Strong,
    Dim,
    Good,
    Busy,
    Bad,
}

/// SGR parameters (ECMA-48, §8.3.117).
const fn sgr(style: Style) -> Option<&'static str> {
    match style {
        Style::Plain => None,
        Style::Strong => Some("1"),
        Style::Dim => Some("2"),
        Style::Good => Some("32"),
        Style::Busy => Some("33"),
        Style::Bad => Some("31"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Screen {
    /// A file, a pipe, or a terminal that says it can do nothing: neither cut nor coloured.
    Plain,
    Terminal {
        columns: usize,
        rows: usize,
        colours: Colours,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colours {
    Yes,
    No,
}

impl Screen {
    /// Of standard output; asked anew for each page, since windows change.
    pub(crate) fn of_stdout() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        if dumb || !stdout().is_terminal() {
            return Self::Plain;
        }
        // A terminal that does not tell its size has the one every terminal once had.
        let (Width(columns), Height(rows)) = terminal_size_of(stdout()).unwrap_or((Width(80), Height(24)));
        // https://no-color.org: set and not empty.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colours = if refused { Colours::No } else { Colours::Yes };
        Self::Terminal { columns: columns.into(), rows: rows.into(), colours }
    }

    pub(crate) fn columns(self) -> Option<usize> {
        match self {
            Self::Plain => None,
            Self::Terminal { columns, .. } => Some(columns),
        }
    }

    fn paint(self, style: Style, text: &str) -> String {
        match (self, sgr(style)) {
            (Self::Terminal { colours: Colours::Yes, .. }, Some(sgr)) if !text.is_empty() => {
                format!("\x1b[{sgr}m{text}\x1b[0m")
            }
            (Self::Plain | Self::Terminal { .. }, _) => text.to_owned(),
        }
    }
}

/// A line of text in pieces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Line(Vec<(Style, String)>);

impl Line {
    pub(crate) fn new(style: Style, text: impl Into<String>) -> Self {
        Self::default().with(style, text)
    }

    pub(crate) fn with(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    /// Whole, for a screen that breaks lines itself.
    pub(crate) fn shown(&self, screen: Screen) -> String {
        self.0.iter().map(|(style, text)| screen.paint(*style, text)).collect()
    }

    /// Cut at the edge of the screen.
    pub(crate) fn cut(&self, screen: Screen) -> String {
        let Some(mut left) = screen.columns() else { return self.shown(screen) };
        let mut shown = String::new();
        for (style, text) in &self.0 {
            let piece = shorten(text, left);
            left -= width(&piece);
            shown.push_str(&screen.paint(*style, &piece));
        }
        shown
    }
}

impl<T: Into<String>> From<T> for Line {
    fn from(text: T) -> Self {
        Self::new(Style::Plain, text)
    }
}

/// In characters, each of which counts for one column.
pub(crate) fn width(text: &str) -> usize {
    text.chars().count()
}

pub(crate) fn shorten(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(columns.saturating_sub(1)).collect();
    if columns > 0 {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: Screen = Screen::Terminal { columns: 8, rows: 5, colours: Colours::Yes };

    #[test]
    fn colours_are_for_terminals_and_take_no_room() {
        let line = Line::new(Style::Bad, "failing").with(Style::Plain, " now");
        assert_eq!(line.shown(Screen::Plain), "failing now");
        assert_eq!(line.cut(Screen::Plain), "failing now");
        assert_eq!(line.shown(NARROW), "\x1b[31mfailing\x1b[0m now");
        assert_eq!(line.cut(NARROW), "\x1b[31mfailing\x1b[0m…");
        let grey = Screen::Terminal { columns: 8, rows: 5, colours: Colours::No };
        assert_eq!(line.cut(grey), "failing…");
        assert_eq!(shorten("abc", 0), "");
    }
}
