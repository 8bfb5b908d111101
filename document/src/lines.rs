//! From byte offsets to lines and columns.

use agentd_protocol::validate::Problem;

use crate::Located;

/// Where each line starts.
pub(crate) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// Line of a byte, from 1; a byte past the end is on the last line.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    pub(crate) fn locate(&self, at: usize, problem: Problem) -> Located {
        let line = self.line(at);
        let before = self.text.get(self.starts[line - 1]..at).unwrap_or_default();
        Located { line, column: before.chars().count() + 1, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one() {
        let lines = Lines::new("a\nbä = 1\n");
        assert_eq!([0, 1, 2, 9, 99].map(|at| lines.line(at)), [1, 1, 2, 2, 3]);
        let at = "a\nbä = ".len();
        assert_eq!(lines.locate(at, crate::whole(String::new(), String::new())).column, 6);
    }
}
