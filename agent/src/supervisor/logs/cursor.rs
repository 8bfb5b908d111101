//! A place in one log, and reading on from there: over segments of an instance, or in a plain file of lines. The size is
//! taken first, then the index is read, then the bytes up to that size: so every byte's record has been seen.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use agentd_protocol::shim::log::{
    INDEX_RECORD_BYTES, IndexRecord, Mark, Source, index_name, segment_name, segment_number,
};
use jiff::Timestamp;

use super::lines::{Assembler, Extent, Head, Line, split};

/// Bytes read at once.
const BLOCK_BYTES: u64 = 256 * 1024;
/// Bytes looked through, from the end, for the beginning of the last lines.
const LOOK_BACK_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of an index read at most: one record per write of 1 byte in a segment would be more, and is not worth it.
const INDEX_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Where the bytes of a log are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Files {
    /// Segments and their indexes.
    Segments(PathBuf),
    /// One file that grows; each line begins with its time.
    Plain(PathBuf),
}

#[derive(Debug)]
pub(super) struct Cursor {
    files: Files,
    segment: u32,
    offset: u64,
    /// Bytes of the segment's index that have been used.
    index_done: u64,
    extent: Extent,
    assembler: Assembler,
}

/// Whether there may be more to read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    AtEnd,
}

impl Files {
    /// Numbers of the segments there are, ascending.
    fn numbers(&self) -> io::Result<Vec<u32>> {
        let dir = match self {
            Self::Segments(dir) => dir,
            Self::Plain(_) => return Ok(vec![0]),
        };
        let entries = match std::fs::read_dir(dir) {
            // Swept away: there is nothing more to come.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut numbers: Vec<u32> =
            entries.filter_map(|entry| segment_number(entry.ok()?.file_name().to_str()?)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn log(&self, segment: u32) -> PathBuf {
        match self {
            Self::Segments(dir) => dir.join(segment_name(segment)),
            Self::Plain(path) => path.clone(),
        }
    }

    /// The segment's index from byte `from` on, whole records only.
    fn index(&self, segment: u32, from: u64) -> io::Result<Vec<u8>> {
        let mut index = match self {
            Self::Segments(dir) => {
                let left = INDEX_BYTES_MAX.saturating_sub(from);
                read(&dir.join(index_name(segment)), from, left)?.unwrap_or_default()
            }
            Self::Plain(_) => Vec::new(),
        };
        index.truncate(index.len() - index.len() % INDEX_RECORD_BYTES);
        Ok(index)
    }

    /// `None` when it is gone.
    fn size(&self, segment: u32) -> io::Result<Option<u64>> {
        match std::fs::metadata(self.log(segment)) {
            Ok(facts) => Ok(Some(facts.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Cursor {
    /// At the oldest byte.
    pub(super) fn at_start(files: Files) -> io::Result<Self> {
        let segment = files.numbers()?.first().copied().unwrap_or(0);
        Ok(Self::new(files, segment))
    }

    fn new(files: Files, segment: u32) -> Self {
        Self { files, segment, offset: 0, index_done: 0, extent: Extent::default(), assembler: Assembler::default() }
    }

    /// Where at least the last `lines` lines lie ahead, or all that is within reach.
    pub(super) fn near_end(files: Files, lines: usize) -> io::Result<Self> {
        // One more for each stream, whose head may be cut.
        let mut wanted = lines.saturating_add(2);
        let mut left = LOOK_BACK_BYTES;
        let mut first = None;
        for segment in files.numbers()?.into_iter().rev() {
            let Some(size) = files.size(segment)? else { continue };
            match line_start(&files.log(segment), size, &mut wanted, &mut left)? {
                0 => first = Some(segment),
                offset => return Self::at(files, segment, offset),
            }
            if wanted == 0 || left == 0 {
                break;
            }
        }
        Ok(Self::new(files, first.unwrap_or(0)))
    }

    /// Where everything written from `unix_ns` on lies ahead. A plain file is read from its start.
    pub(super) fn since(files: Files, unix_ns: u64) -> io::Result<Self> {
        let mut first = None;
        for segment in files.numbers()?.into_iter().rev() {
            let index = files.index(segment, 0)?;
            let before = records(&index).take_while(|record| record.unix_ns < unix_ns).count();
            if before > 0 {
                let offset = match records(&index).nth(before) {
                    Some(record) => record.offset,
                    None => files.size(segment)?.unwrap_or(0),
                };
                return Self::at(files, segment, offset);
            }
            first = Some(segment);
        }
        Ok(Self::new(files, first.unwrap_or(0)))
    }

    /// At this byte; a stream that is in the middle of a line there is passed over up to its end.
    fn at(files: Files, segment: u32, offset: u64) -> io::Result<Self> {
        let index = files.index(segment, 0)?;
        let mut extent = Extent::default();
        let mut last_byte_at = [None; 2];
        let mut used = 0;
        let mut begin = 0;
        let mut note = |extent: Extent, begin: u64, end: u64| {
            let stream = usize::from(extent.source == Source::Stderr);
            if end > begin {
                last_byte_at[stream] = Some(end - 1);
            }
        };
        let mut restarted_at = None;
        for record in records(&index).take_while(|record| record.offset < offset) {
            used += INDEX_RECORD_BYTES;
            note(extent, begin, record.offset);
            begin = record.offset;
            match record.source {
                Source::Mark(Mark::IncarnationStart) => restarted_at = Some(record.offset),
                Source::Mark(Mark::Dropped) => {}
                source => extent = Extent { source, unix_ns: record.unix_ns },
            }
        }
        note(extent, begin, offset);
        let head = |last: Option<u64>| -> io::Result<Head> {
            let Some(last) = last.filter(|last| restarted_at.is_none_or(|at| *last >= at)) else {
                return Ok(Head::Whole);
            };
            let byte = read(&files.log(segment), last, 1)?.unwrap_or_default();
            Ok(if matches!(byte.as_slice(), [] | [b'\n']) { Head::Whole } else { Head::Cut })
        };
        let assembler = Assembler::new(head(last_byte_at[0])?, head(last_byte_at[1])?);
        let index_done = u64::try_from(used).unwrap_or(u64::MAX);
        Ok(Self { files, segment, offset, index_done, extent, assembler })
    }

    /// Reads one block on; lines that end in it are added, in the order in which they end.
    pub(super) fn advance(&mut self, lines: &mut Vec<Line>) -> io::Result<Progress> {
        // Listed before the size is taken: once there is a next segment, this one has got its last byte.
        let next = self.files.numbers()?.into_iter().find(|number| *number > self.segment);
        let size = self.files.size(self.segment)?;
        let known = size.unwrap_or(0);
        if known <= self.offset {
            // A plain file that was cut short begins anew.
            if known < self.offset && matches!(self.files, Files::Plain(_)) {
                self.offset = 0;
                return Ok(Progress::More);
            }
            self.read_on(known, lines)?;
            let Some(next) = next else { return Ok(Progress::AtEnd) };
            if size.is_none() {
                // Bytes are missing in between.
                self.assembler.finish(lines);
            }
            (self.segment, self.offset, self.index_done) = (next, 0, 0);
            return Ok(Progress::More);
        }
        self.read_on(known.min(self.offset.saturating_add(BLOCK_BYTES)), lines)?;
        Ok(Progress::More)
    }

    fn read_on(&mut self, end: u64, lines: &mut Vec<Line>) -> io::Result<()> {
        let index = self.files.index(self.segment, self.index_done)?;
        let bytes = match end.saturating_sub(self.offset) {
            0 => Vec::new(),
            count => read(&self.files.log(self.segment), self.offset, count)?.unwrap_or_default(),
        };
        let plain = matches!(self.files, Files::Plain(_));
        let (segment, assembler) = (self.segment, &mut self.assembler);
        let before = lines.len();
        let (used, extent) =
            split(&index, self.extent, self.offset, &bytes, |chunk| assembler.feed(segment, chunk, lines));
        self.extent = extent;
        self.index_done += u64::try_from(used).unwrap_or(u64::MAX);
        self.offset += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if plain {
            self.read_times(&mut lines[before..]);
        }
        Ok(())
    }

    /// A line without a time of its own belongs to the one before it.
    fn read_times(&mut self, lines: &mut [Line]) {
        for line in lines {
            let stamp = line.text.split(' ').next().unwrap_or_default();
            line.unix_ns = unix_ns(stamp).unwrap_or(self.extent.unix_ns);
            self.extent.unix_ns = line.unix_ns;
        }
    }

    /// Ends lines that have no line end; for when nothing more is to come.
    pub(super) fn finish(&mut self, lines: &mut Vec<Line>) {
        let before = lines.len();
        self.assembler.finish(lines);
        if matches!(self.files, Files::Plain(_)) {
            self.read_times(&mut lines[before..]);
        }
    }
}

/// Of a time as the manager writes it.
fn unix_ns(stamp: &str) -> Option<u64> {
    u64::try_from(stamp.parse::<Timestamp>().ok()?.as_nanosecond()).ok()
}

fn records(index: &[u8]) -> impl Iterator<Item = IndexRecord> {
    index.chunks_exact(INDEX_RECORD_BYTES).filter_map(|record| IndexRecord::decode(record.try_into().ok()?))
}

/// Offset behind the line end that has `wanted` others behind it, looked for from `size` back over `left` bytes; where
/// those are used up, the last line start seen. 0 when the whole file is wanted. Both counts are brought down.
fn line_start(path: &Path, size: u64, wanted: &mut usize, left: &mut u64) -> io::Result<u64> {
    let mut end = size;
    let mut seen = size;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK_BYTES.min(*left).max(1));
        let block = read(path, begin, end - begin)?.unwrap_or_default();
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = begin + u64::try_from(at).unwrap_or(u64::MAX) + 1;
            // The line end at the end of the file ends the last line, and begins none.
            if after == size {
                continue;
            }
            *wanted = wanted.saturating_sub(1);
            seen = after;
            if *wanted == 0 {
                return Ok(after);
            }
        }
        *left = left.saturating_sub(end - begin);
        if *left == 0 {
            return Ok(seen);
        }
        end = begin;
    }
    // The file's first line.
    *wanted = wanted.saturating_sub(usize::from(size > 0));
    Ok(0)
}

/// `None` when the file is gone.
fn read(path: &Path, from: u64, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appends records of (offset, source) at time offset + 1, and bytes.
    fn write(dir: &Path, number: u32, records: &[(u64, Source)], bytes: &[u8]) {
        use std::io::Write;
        let append = |path: PathBuf, bytes: &[u8]| {
            let file = File::options().append(true).create(true).open(path);
            file.unwrap().write_all(bytes).unwrap();
        };
        for &(offset, source) in records {
            let record = IndexRecord { unix_ns: u64::from(number) * 1_000 + offset + 1, offset, source };
            append(dir.join(index_name(number)), &record.encode());
        }
        append(dir.join(segment_name(number)), bytes);
    }

    fn rest(cursor: &mut Cursor) -> Vec<String> {
        let mut lines = Vec::new();
        while cursor.advance(&mut lines).unwrap() == Progress::More {}
        lines.into_iter().map(|line| line.text).collect()
    }

    fn segments(dir: &tempfile::TempDir) -> Files {
        Files::Segments(dir.path().to_owned())
    }

    const OUT: Source = Source::Stdout;
    const ERR: Source = Source::Stderr;

    #[test]
    fn what_comes_later_is_read_on_over_segments() {
        let dir = tempfile::tempdir().unwrap();
        let mut cursor = Cursor::at_start(segments(&dir)).unwrap();
        assert_eq!(rest(&mut cursor), [""; 0]);
        write(dir.path(), 0, &[(0, OUT)], b"one\ntw");
        assert_eq!(rest(&mut cursor), ["one"]);
        write(dir.path(), 0, &[], b"o\nthr");
        write(dir.path(), 1, &[(0, OUT), (3, ERR)], b"ee\nnow\n");
        assert_eq!(rest(&mut cursor), ["two", "three", "now"]);
        assert_eq!(rest(&mut cursor), [""; 0]);
        // A new program under the same log ends what the one before left open, before it says a word.
        write(dir.path(), 1, &[(7, OUT)], b"half");
        assert_eq!(rest(&mut cursor), [""; 0]);
        write(dir.path(), 1, &[(11, Source::Mark(Mark::IncarnationStart))], b"");
        assert_eq!(rest(&mut cursor), ["half"]);
        assert_eq!(rest(&mut cursor), [""; 0], "a mark counts once");
    }

    #[test]
    fn segments_that_were_rotated_away_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 0, &[(0, OUT)], b"one\nlost ");
        let mut cursor = Cursor::at_start(segments(&dir)).unwrap();
        assert_eq!(rest(&mut cursor), ["one"]);
        write(dir.path(), 4, &[(0, OUT)], b"four\n");
        std::fs::remove_file(dir.path().join(segment_name(0))).unwrap();
        std::fs::remove_file(dir.path().join(index_name(0))).unwrap();
        assert_eq!(rest(&mut cursor), ["lost ", "four"]);
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(rest(&mut cursor), [""; 0]);
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 0, &[(0, OUT)], b"a0\na1\n");
        write(dir.path(), 1, &[(0, OUT), (6, ERR), (9, OUT)], b"b0\nb1\nerrb2\n or\n");
        write(dir.path(), 1, &[(12, ERR)], b"");
        let near = |lines| rest(&mut Cursor::near_end(segments(&dir), lines).unwrap());
        assert_eq!(near(1), ["b1", "b2", "err or"], "two more than asked for, should a head be cut");
        assert_eq!(near(3)[..2], ["a1", "b0"]);
        assert_eq!(near(99), ["a0", "a1", "b0", "b1", "b2", "err or"]);
    }

    #[test]
    fn a_start_in_the_middle_of_a_line_passes_over_the_rest_of_it() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 0, &[(0, OUT), (4, ERR), (7, OUT)], b"one\nerrtwo\n");
        write(dir.path(), 0, &[(11, ERR)], b" end\nwhole\n");
        let since = |unix_ns| rest(&mut Cursor::since(segments(&dir), unix_ns).unwrap());
        assert_eq!(since(0), ["one", "two", "err end", "whole"]);
        assert_eq!(since(8), ["two", "whole"], "the end of `err` alone would be no line");
        assert_eq!(since(12), ["whole"]);
        assert_eq!(since(99), [""; 0]);
    }

    #[test]
    fn a_torn_or_missing_index_costs_only_the_stream() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 0, &[(0, ERR), (2, OUT)], b"a\nb\n");
        let index = dir.path().join(index_name(0));
        let file = File::options().write(true).open(&index).unwrap();
        file.set_len(u64::try_from(INDEX_RECORD_BYTES).unwrap() + 7).unwrap();
        assert_eq!(rest(&mut Cursor::at_start(segments(&dir)).unwrap()), ["a", "b"]);
        std::fs::remove_file(index).unwrap();
        assert_eq!(rest(&mut Cursor::at_start(segments(&dir)).unwrap()), ["a", "b"]);
    }

    #[test]
    fn a_plain_file_has_its_times_in_its_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agentd.log");
        std::fs::write(&path, "2026-11-21T07:54:13.25Z  INFO starts\n  and goes on\n1970-01-01T00:00:01Z x\n").unwrap();
        let mut lines = Vec::new();
        let mut cursor = Cursor::at_start(Files::Plain(path)).unwrap();
        while cursor.advance(&mut lines).unwrap() == Progress::More {}
        let times: Vec<u64> = lines.iter().map(|line| line.unix_ns / 1_000_000).collect();
        assert_eq!(times, [1_795_247_653_250, 1_795_247_653_250, 1_000]);
    }
}
