//! Columns that line up, two spaces apart. On a terminal the last ones give way where there is no room.

use crate::screen::{Line, Screen, Style, shorten, width};

/// Between columns.
const GAP: usize = 2;
/// What is left of a column that gives way, characters; of the last one its head.
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

/// What a table does on a terminal that is too narrow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Narrow {
    /// Columns at the right end that are cut, the last one first.
    pub(crate) cut: usize,
    /// Columns, counted from 0, that go when cutting is not enough, in this order.
    pub(crate) dropped: &'static [usize],
}

/// An empty cell is shown as `-`.
pub(crate) fn table<const N: usize>(
    head: [&str; N],
    rows: Vec<[Cell; N]>,
    narrow: Narrow,
    screen: Screen,
) -> Vec<Line> {
    let titles = head.map(|text| Cell::new(Style::Strong, text));
    let rows: Vec<[Cell; N]> = std::iter::once(titles).chain(rows.into_iter().map(|row| row.map(dashed))).collect();
    let mut columns: Vec<Column> = (0..N)
        .map(|at| {
            let widest = rows.iter().map(|row| width(&row[at].text)).max().unwrap_or(0);
            let least = match at {
                _ if at + narrow.cut < N => widest,
                _ if at + 1 == N => width(head[at]),
                _ => SHORT,
            };
            Column { at, width: widest, least: least.min(widest) }
        })
        .collect();
    if let Some(room) = screen.columns() {
        fit(&mut columns, narrow.dropped, room);
    }
    rows.iter().map(|row| line(row, &columns)).collect()
}

struct Column {
    at: usize,
    width: usize,
    /// What it can be cut to.
    least: usize,
}

fn fit(columns: &mut Vec<Column>, dropped: &[usize], room: usize) {
    let gaps = |columns: &[Column]| GAP * columns.len().saturating_sub(1);
    for gone in dropped {
        let least: usize = columns.iter().map(|column| column.least).sum();
        if least + gaps(columns) <= room {
            break;
        }
        columns.retain(|column| column.at != *gone);
    }
    let wanted: usize = columns.iter().map(|column| column.width).sum();
    let mut excess = (wanted + gaps(columns)).saturating_sub(room);
    for column in columns.iter_mut().rev() {
        let given = (column.width - column.least).min(excess);
        column.width -= given;
        excess -= given;
    }
}

fn line(row: &[Cell], columns: &[Column]) -> Line {
    let mut line = Line::default();
    for (place, column) in columns.iter().enumerate() {
        let cell = &row[column.at];
        let text = shorten(&cell.text, column.width);
        let blanks = if place + 1 == columns.len() { 0 } else { column.width - width(&text) + GAP };
        line = line.with(cell.style, text).with(Style::Plain, " ".repeat(blanks));
    }
    line
}

fn dashed(cell: Cell) -> Cell {
    if cell.text.is_empty() { Cell::new(Style::Dim, "-") } else { cell }
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
        let narrow = Narrow { cut: 2, dropped: &[2] };
        table(["SERVICE", "URL", "LAST ERROR"], rows(), narrow, screen).iter().map(|line| line.shown(screen)).collect()
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
        assert_eq!(text(screen(45))[1], "api      http://127.0.0.1:8080/a…  exit code…");
        assert_eq!(text(screen(30))[1], "api      http://127.0.0.1:808…", "the last one has gone");
        assert_eq!(text(screen(9))[1], "api      http://127.0.0.…", "narrower than anything can be");
    }
}
