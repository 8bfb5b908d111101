//! The lines of several logs in the order of their times, a batch at a time: as much is read as the reader takes.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use super::cursor::{Cursor, Files, Progress};
use super::lines::Line;

/// Lines, and bytes of them, in one batch.
const BATCH_LINES: usize = 1_000;
const BATCH_BYTES: usize = 256 * 1024;
/// Bytes of last lines that are collected before they are given out, over all logs.
const LAST_BYTES_MAX: usize = 32 * 1024 * 1024;

/// One log that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// What its lines are shown under: an instance's id.
    pub name: String,
    files: Files,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Beginning,
    /// At least this many lines before the end.
    Lines(usize),
    /// Unix time, ns.
    Since(u64),
}

#[derive(Debug, Default)]
pub struct Merged {
    tracks: Vec<Track>,
}

#[derive(Debug)]
struct Track {
    name: String,
    cursor: Cursor,
    pending: VecDeque<Line>,
    progress: Progress,
}

impl LogFile {
    pub(in super::super) fn segments(name: String, dir: PathBuf) -> Self {
        Self { name, files: Files::Segments(dir) }
    }

    /// A file of lines that begin with their time.
    pub fn plain(name: &str, path: PathBuf) -> Self {
        Self { name: name.to_owned(), files: Files::Plain(path) }
    }
}

/// The last `lines` lines of both streams, oldest first.
pub(in super::super) fn tail(log_dir: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut merged = Merged::default();
    merged.join(&LogFile::segments(String::new(), log_dir.to_owned()), Start::Lines(lines))?;
    let mut found = merged.last(usize::MAX)?;
    found.extend(merged.finish());
    // What ended last need not have begun last.
    found.sort_by_key(|(_, line)| line.place);
    let last = found.split_off(found.len().saturating_sub(lines));
    Ok(last.into_iter().map(|(_, line)| line.text).collect())
}

impl Merged {
    pub fn is_empty(&self) -> bool {
        self.tracks.is_empty()
    }

    /// Lets go of logs that are read to their end and will not grow; their last lines if those have no line end.
    pub fn leave(&mut self, grows: impl Fn(&str) -> bool) -> Vec<(String, Line)> {
        let over =
            |track: &mut Track| track.pending.is_empty() && track.progress == Progress::AtEnd && !grows(&track.name);
        let mut left = Self { tracks: self.tracks.extract_if(.., over).collect() };
        left.finish()
    }

    pub fn join(&mut self, file: &LogFile, start: Start) -> io::Result<()> {
        let files = file.files.clone();
        let cursor = match start {
            Start::Beginning => Cursor::at_start(files)?,
            Start::Lines(lines) => Cursor::near_end(files, lines)?,
            Start::Since(unix_ns) => Cursor::since(files, unix_ns)?,
        };
        let (name, pending) = (file.name.clone(), VecDeque::new());
        self.tracks.push(Track { name, cursor, pending, progress: Progress::More });
        Ok(())
    }

    /// The next lines there are now, each with the name of its log; none when all has been read. Lines that have not
    /// ended wait.
    pub fn batch(&mut self) -> io::Result<Vec<(String, Line)>> {
        for track in &mut self.tracks {
            track.progress = Progress::More;
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_LINES && bytes < BATCH_BYTES {
            let Some((name, line)) = self.first()? else { break };
            bytes += line.text.len();
            batch.push((name, line));
        }
        Ok(batch)
    }

    /// The last `lines` of all that is ahead; fewer where they are very long.
    pub fn last(&mut self, lines: usize) -> io::Result<Vec<(String, Line)>> {
        let mut last: VecDeque<(String, Line)> = VecDeque::new();
        let mut bytes = 0;
        loop {
            let batch = self.batch()?;
            if batch.is_empty() {
                return Ok(last.into());
            }
            for (name, line) in batch {
                bytes += line.text.len();
                last.push_back((name, line));
                while last.len() > lines || bytes > LAST_BYTES_MAX {
                    bytes -= last.pop_front().map_or(bytes, |(_, line)| line.text.len());
                }
            }
        }
    }

    /// Lines without a line end; for when nothing more is to come.
    pub fn finish(&mut self) -> Vec<(String, Line)> {
        let mut left = Vec::new();
        for track in &mut self.tracks {
            let mut lines = Vec::new();
            track.cursor.finish(&mut lines);
            left.extend(lines.into_iter().map(|line| (track.name.clone(), line)));
        }
        left.sort_by_key(|(_, line)| line.unix_ns);
        left
    }

    /// The line that came first of those that are ahead.
    fn first(&mut self) -> io::Result<Option<(String, Line)>> {
        for track in &mut self.tracks {
            track.fill()?;
        }
        let next = |track: &&mut Track| track.pending.front().map(|line| line.unix_ns);
        let ahead = self.tracks.iter_mut().filter(|track| !track.pending.is_empty());
        let Some(track) = ahead.min_by_key(next) else { return Ok(None) };
        Ok(track.pending.pop_front().map(|line| (track.name.clone(), line)))
    }
}

impl Track {
    fn fill(&mut self) -> io::Result<()> {
        while self.pending.is_empty() && self.progress == Progress::More {
            let mut lines = Vec::new();
            self.progress = self.cursor.advance(&mut lines)?;
            lines.sort_by_key(|line| line.place);
            self.pending.extend(lines);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::shim::log::{IndexRecord, Source, index_name, segment_name};

    use super::*;

    /// A log of one line per time.
    fn log(root: &Path, name: &str, times: &[u64]) -> LogFile {
        let dir = root.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let (mut bytes, mut index) = (Vec::new(), Vec::new());
        for time in times {
            let offset = u64::try_from(bytes.len()).unwrap();
            index.extend(IndexRecord { unix_ns: *time, offset, source: Source::Stdout }.encode());
            bytes.extend(format!("{name}{time}\n").into_bytes());
        }
        std::fs::write(dir.join(index_name(0)), index).unwrap();
        std::fs::write(dir.join(segment_name(0)), bytes).unwrap();
        LogFile::segments(name.to_owned(), dir)
    }

    fn texts(lines: Vec<(String, Line)>) -> Vec<String> {
        lines.into_iter().map(|(_, line)| line.text).collect()
    }

    fn both(root: &Path, start: Start) -> Merged {
        let mut merged = Merged::default();
        for file in [log(root, "a", &[1, 4, 5, 8]), log(root, "b", &[2, 3, 6, 7])] {
            merged.join(&file, start).unwrap();
        }
        merged
    }

    #[test]
    fn lines_of_several_logs_stand_in_order_of_time() {
        let root = tempfile::tempdir().unwrap();
        let mut merged = both(root.path(), Start::Beginning);
        assert_eq!(texts(merged.batch().unwrap()), ["a1", "b2", "b3", "a4", "a5", "b6", "b7", "a8"]);
        assert_eq!(texts(merged.batch().unwrap()), [""; 0]);
        merged.join(&log(root.path(), "c", &[9]), Start::Beginning).unwrap();
        assert_eq!(texts(merged.batch().unwrap()), ["c9"]);
        assert_eq!(texts(merged.batch().unwrap()), [""; 0]);
        std::fs::write(root.path().join("c").join(segment_name(1)), "half").unwrap();
        assert_eq!(texts(merged.batch().unwrap()), [""; 0], "it may yet end");
        assert_eq!(texts(merged.leave(|name| name != "c")), ["half"]);
        assert!(!merged.is_empty());
        assert_eq!(texts(both(root.path(), Start::Since(6)).batch().unwrap()), ["b6", "b7", "a8"]);
        assert_eq!(texts(both(root.path(), Start::Lines(3)).last(3).unwrap()), ["b6", "b7", "a8"]);
        assert_eq!(texts(both(root.path(), Start::Lines(0)).last(0).unwrap()), [""; 0]);
    }

    #[test]
    fn the_tail_of_a_log_ends_with_its_unfinished_line() {
        let root = tempfile::tempdir().unwrap();
        log(root.path(), "a", &[1, 2]);
        let dir = root.path().join("a");
        std::fs::write(dir.join(segment_name(1)), "one\nha").unwrap();
        assert_eq!(tail(&dir, 3).unwrap(), ["a2", "one", "ha"]);
        assert_eq!(tail(&dir, 1).unwrap(), ["ha"]);
        assert_eq!(tail(&dir, 9).unwrap().len(), 4);
        assert_eq!(tail(&root.path().join("none"), 9).unwrap(), [""; 0]);
    }

    #[test]
    fn a_batch_is_bounded_and_the_rest_comes_after_it() {
        let root = tempfile::tempdir().unwrap();
        let times: Vec<u64> = (1..=2_500).collect();
        let mut merged = Merged::default();
        merged.join(&log(root.path(), "a", &times), Start::Beginning).unwrap();
        let counts: Vec<usize> = (0..4).map(|_| merged.batch().unwrap().len()).collect();
        assert_eq!(counts, [BATCH_LINES, BATCH_LINES, 500, 0]);
    }
}
