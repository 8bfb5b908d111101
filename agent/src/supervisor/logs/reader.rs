//! The last lines of an instance. Lines are put together per stream over extents and segments; a line stands where its
//! first byte arrived.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use agentd_protocol::shim::log::{
    INDEX_RECORD_BYTES, IndexRecord, Mark, Source, index_name, segment_name, segment_number,
};

/// A longer line is shown in pieces of this size.
const LINE_BYTES_MAX: usize = 256 * 1024;
/// Bytes read from the end, in growing windows until there are enough lines.
const WINDOWS_BYTES: [u64; 3] = [256 * 1024, 2 * 1024 * 1024, 16 * 1024 * 1024];
/// Bytes of an index read at most: one record per write of 1 byte in a segment would be more, and is not worth it.
const INDEX_BYTES_MAX: u64 = 32 * 1024 * 1024;

const DROPPED_TEXT: &str = "[agentd: output is missing here, the disk was full]";

/// The last `lines` lines of both streams, oldest first; invalid UTF-8 is replaced.
pub(in super::super) fn tail(log_dir: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for window in WINDOWS_BYTES {
        let (chunks, start) = read_window(log_dir, window)?;
        found = assemble(&chunks, start);
        if found.len() >= lines || start == Start::Whole {
            break;
        }
    }
    Ok(found.split_off(found.len().saturating_sub(lines)))
}

/// Bytes, or a mark, of one source in arrival order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chunk {
    source: Source,
    bytes: Vec<u8>,
}

/// Whether the first bytes of a window begin a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Whole,
    Cut,
}

fn read_window(log_dir: &Path, window: u64) -> io::Result<(Vec<Chunk>, Start)> {
    let mut numbers: Vec<u32> =
        std::fs::read_dir(log_dir)?.filter_map(|entry| segment_number(entry.ok()?.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    let mut left = window;
    let mut segments = VecDeque::new();
    let mut start = Start::Whole;
    for number in numbers.into_iter().rev() {
        if left == 0 {
            start = Start::Cut;
            break;
        }
        // The index is read before the bytes: it may then lack records, never speak of bytes that are not there yet.
        let index = read_from(&log_dir.join(index_name(number)), 0, INDEX_BYTES_MAX)?.unwrap_or_default();
        let path = log_dir.join(segment_name(number));
        let bytes_total = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            // Rotated away between listing and reading.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let from = bytes_total.saturating_sub(left);
        if from > 0 {
            start = Start::Cut;
        }
        let Some(bytes) = read_from(&path, from, left)? else { continue };
        left -= u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(left);
        segments.push_front(split(&index, from, &bytes));
    }
    Ok((segments.into_iter().flatten().collect(), start))
}

/// `None` when the file is gone.
fn read_from(path: &Path, from: u64, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
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

/// Cuts a segment's bytes, read from offset `from` on, into its extents. A torn last record is dropped and its bytes
/// fall to the extent before; bytes before the first record count as stdout.
fn split(index: &[u8], from: u64, bytes: &[u8]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut push = |source: Source, bytes: &[u8]| {
        if !bytes.is_empty() || matches!(source, Source::Mark(_)) {
            chunks.push(Chunk { source, bytes: bytes.to_vec() });
        }
    };
    let mut done = 0;
    let mut source = Source::Stdout;
    for record in index.chunks_exact(INDEX_RECORD_BYTES) {
        let Some(record) = record.try_into().ok().and_then(IndexRecord::decode) else { continue };
        let begin = usize::try_from(record.offset.saturating_sub(from)).unwrap_or(usize::MAX);
        let begin = begin.clamp(done, bytes.len());
        push(source, &bytes[done..begin]);
        done = begin;
        match record.source {
            Source::Mark(_) if record.offset < from => {}
            Source::Mark(_) => push(record.source, &[]),
            Source::Stdout | Source::Stderr => source = record.source,
        }
    }
    push(source, &bytes[done..]);
    chunks
}

/// One stream's line that has not ended yet.
#[derive(Debug, Default)]
struct Open {
    /// Place in the output, taken when the first byte came.
    place: usize,
    bytes: Vec<u8>,
    /// The rest of a line whose beginning lies before the window.
    headless: bool,
}

/// Lines in the order of their first bytes.
fn assemble(chunks: &[Chunk], start: Start) -> Vec<String> {
    let headless = start == Start::Cut;
    let mut streams = [(); 2].map(|()| Open { headless, ..Open::default() });
    let mut lines: Vec<Option<String>> = Vec::new();
    for chunk in chunks {
        match chunk.source {
            Source::Stdout => feed(&mut streams[0], &chunk.bytes, &mut lines),
            Source::Stderr => feed(&mut streams[1], &chunk.bytes, &mut lines),
            Source::Mark(Mark::Dropped) => lines.push(Some(DROPPED_TEXT.to_owned())),
            // What the program before left unfinished is no beginning of what this one writes.
            Source::Mark(Mark::IncarnationStart) => {
                for open in &mut streams {
                    end_line(open, &mut lines);
                }
            }
        }
    }
    for open in &mut streams {
        end_line(open, &mut lines);
    }
    lines.into_iter().flatten().collect()
}

fn feed(open: &mut Open, bytes: &[u8], lines: &mut Vec<Option<String>>) {
    for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
        let (text, ended) = match piece.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (piece, false),
        };
        if open.headless {
            open.headless = !ended;
            continue;
        }
        let mut rest = text;
        begin_line(open, lines);
        while open.bytes.len() + rest.len() > LINE_BYTES_MAX {
            let (fits, more) = rest.split_at(LINE_BYTES_MAX - open.bytes.len());
            open.bytes.extend_from_slice(fits);
            end_line(open, lines);
            begin_line(open, lines);
            rest = more;
        }
        open.bytes.extend_from_slice(rest);
        if ended {
            if open.bytes.last() == Some(&b'\r') {
                open.bytes.pop();
            }
            lines[open.place - 1] = Some(String::from_utf8_lossy(&open.bytes).into_owned());
            *open = Open::default();
        }
    }
}

/// `place` is one past the index, 0 while no line is open.
fn begin_line(open: &mut Open, lines: &mut Vec<Option<String>>) {
    if open.place == 0 {
        lines.push(None);
        open.place = lines.len();
    }
}

/// Ends a line that has no line end; nothing when no byte of one has come.
fn end_line(open: &mut Open, lines: &mut [Option<String>]) {
    if open.place > 0 && !open.bytes.is_empty() {
        lines[open.place - 1] = Some(String::from_utf8_lossy(&open.bytes).into_owned());
    }
    *open = Open::default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(records: &[(u64, Source)]) -> Vec<u8> {
        let encode = |&(offset, source): &(u64, Source)| IndexRecord { unix_ns: 1, offset, source }.encode();
        records.iter().flat_map(encode).collect()
    }

    fn write(dir: &Path, number: u32, records: &[(u64, Source)], bytes: &[u8]) {
        std::fs::write(dir.join(index_name(number)), index(records)).unwrap();
        std::fs::write(dir.join(segment_name(number)), bytes).unwrap();
    }

    #[test]
    fn streams_are_kept_apart_and_ordered_by_first_byte() {
        let dir = tempfile::tempdir().unwrap();
        let records = [(0, Source::Stdout), (3, Source::Stderr), (7, Source::Stdout)];
        write(dir.path(), 0, &records, b"parerr\ntial\nlast");
        assert_eq!(tail(dir.path(), 10).unwrap(), ["partial", "err", "last"].map(str::to_owned));
        assert_eq!(tail(dir.path(), 1).unwrap(), ["last"]);
    }

    #[test]
    fn lines_go_on_over_segments() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 3, &[(0, Source::Stdout)], b"one\ntw");
        write(dir.path(), 4, &[(0, Source::Stderr), (2, Source::Stdout)], b"e\no\r\nthree\n");
        assert_eq!(tail(dir.path(), 9).unwrap(), ["one", "two", "e", "three"].map(str::to_owned));
    }

    #[test]
    fn a_torn_or_missing_index_costs_only_the_stream() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 0, &[(0, Source::Stderr)], b"a\nb\n");
        let mut torn = index(&[(0, Source::Stderr), (2, Source::Stdout)]);
        torn.truncate(INDEX_RECORD_BYTES + 7);
        assert_eq!(split(&torn, 0, b"a\nb\n").len(), 1);
        std::fs::remove_file(dir.path().join(index_name(0))).unwrap();
        assert_eq!(tail(dir.path(), 9).unwrap(), ["a", "b"]);
        // A record written before its bytes, by a shim that was killed in between.
        assert_eq!(split(&index(&[(0, Source::Stderr), (4, Source::Stdout)]), 0, b"a\nb\n").len(), 1);
    }

    #[test]
    fn marks_end_lines_and_are_told() {
        let start = Source::Mark(Mark::IncarnationStart);
        let records = [
            (0, Source::Stdout),
            (4, start),
            (4, Source::Stdout),
            (7, Source::Mark(Mark::Dropped)),
            (7, Source::Stdout),
        ];
        let lines = assemble(&split(&index(&records), 0, b"diedup\nend\n"), Start::Whole);
        assert_eq!(lines, ["died", "up", DROPPED_TEXT, "end"]);
    }

    #[test]
    fn long_lines_come_in_pieces_and_bad_utf8_is_shown() {
        let mut bytes = vec![b'x'; LINE_BYTES_MAX + 5];
        bytes.extend_from_slice(b"\n\xff!\n\n");
        let lines = assemble(&split(&[], 0, &bytes), Start::Whole);
        let lens: Vec<usize> = lines.iter().map(String::len).collect();
        assert_eq!(lens, [LINE_BYTES_MAX, 5, 4, 0]);
        assert_eq!(lines[2], "\u{fffd}!");
    }

    #[test]
    fn a_window_that_begins_inside_a_line_drops_its_rest() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = b"first ".repeat(100_000);
        bytes.extend_from_slice(b"\nsecond\nthird\n");
        write(dir.path(), 0, &[(0, Source::Stdout)], &bytes);
        let (chunks, start) = read_window(dir.path(), 64).unwrap();
        assert_eq!(start, Start::Cut);
        assert_eq!(assemble(&chunks, start), ["second", "third"]);
        assert_eq!(tail(dir.path(), 2).unwrap(), ["second", "third"]);
        assert!(tail(dir.path(), 3).unwrap()[0].ends_with("first "), "a wider window finds the beginning");
    }
}
