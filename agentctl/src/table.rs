//! Columns that line up, two spaces apart. On a terminal the last ones give way where there is no room.

use crate::screen::{Line, Screen, Style, shorten, width};

/// Between columns.
const GAP: usize = 2;
/// What is left of a column that gives way, characters.
const SHORT: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    style: Style,
    text: String,
}

impl Cell {
    pub(crate) fn new(style: Style, text: impl Into<String>) -> Self {
        Self { style, text: text.into() }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Style::Plain, text)
    }
}

/// `giving` columns at the right end may be cut, the last one first; an empty cell is shown as `-`.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: Vec<[Cell; N]>, giving: usize, screen: Screen) -> Vec<Line> {
    let head = head.map(|text| Cell::new(Style::Strong, text));
    let rows: Vec<[Cell; N]> = std::iter::once(head).chain(rows.into_iter().map(|row| row.map(dashed))).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = width(&cell.text).max(*widest);
        }
    }
    if let Some(columns) = screen.columns() {
        give_way(&mut widths, giving, columns);
    }
    let line = |row: &[Cell; N]| {
        let mut line = Line::default();
        for (at, (cell, room)) in row.iter().zip(widths).enumerate() {
            let text = shorten(&cell.text, room);
            let blanks = if at + 1 == N { 0 } else { room - width(&text) + GAP };
            line = line.with(cell.style, text).with(Style::Plain, " ".repeat(blanks));
        }
        line
    };
    rows.iter().map(line).collect()
}

fn dashed(cell: Cell) -> Cell {
    if cell.text.is_empty() { Cell::new(Style::Dim, "-") } else { cell }
}

fn give_way(widths: &mut [usize], giving: usize, columns: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    for _round in 0..giving {
        let first = widths.len() - giving;
        for at in (first..widths.len()).rev() {
            let excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(columns);
            let spare = widths[at].saturating_sub(SHORT);
            widths[at] -= spare.min(excess);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::Colours;

    fn rows() -> Vec<[Cell; 3]> {
        vec![
            ["api".into(), "http://127.0.0.1:8080/api/of/some/length".into(), "exit code 1 and more words".into()],
            ["mailer".into(), "".into(), "".into()],
        ]
    }

    fn text(screen: Screen) -> Vec<String> {
        table(["SERVICE", "URL", "LAST ERROR"], rows(), 2, screen).iter().map(|line| line.shown(screen)).collect()
    }

    #[test]
    fn what_is_piped_is_whole_and_lines_up() {
        let url = "http://127.0.0.1:8080/api/of/some/length";
        assert_eq!(
            text(Screen::Plain),
            [
                format!("SERVICE  {:40}  LAST ERROR", "URL"),
                format!("api      {url}  exit code 1 and more words"),
                format!("mailer   {:40}  -", "-"),
            ]
        );
    }

    #[test]
    fn on_a_terminal_the_last_column_gives_way_first() {
        let screen = |columns| Screen::Terminal { columns, rows: 9, colours: Colours::No };
        assert_eq!(text(screen(70))[1], "api      http://127.0.0.1:8080/api/of/some/length  exit code 1 and mo…");
        assert_eq!(text(screen(45))[1], "api      http://127.0.0.1…  exit code 1 and…");
    }
}
