//! Lines, put together per stream over extents and segments (pure). A line has the time and the place of its first byte.

use agentd_protocol::shim::log::{INDEX_RECORD_BYTES, IndexRecord, Mark, Source};

/// A longer line comes in pieces of this size.
pub(super) const LINE_BYTES_MAX: usize = 256 * 1024;

const DROPPED_TEXT: &str = "[agentd: output is missing here, the disk was full]";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub unix_ns: u64,
    pub origin: Origin,
    /// Segment, and offset in it.
    pub place: (u32, u64),
    /// Without its line end; invalid UTF-8 is replaced.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Stdout,
    Stderr,
    /// Not written by the program but said of its log.
    Remark,
}

/// Bytes, or a mark, of one source in arrival order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    pub(super) source: Source,
    pub(super) unix_ns: u64,
    pub(super) offset: u64,
    pub(super) bytes: &'a [u8],
}

/// Whether the first byte of a stream that is read from somewhere begins a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Head {
    #[default]
    Whole,
    /// The rest of a line whose beginning is not read: passed over.
    Cut,
}

/// One stream's line that has not ended yet.
#[derive(Debug, Default)]
struct Open {
    head: Head,
    /// Time and place of the first byte; `None` while no line is open.
    begun: Option<(u64, (u32, u64))>,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Assembler {
    stdout: Open,
    stderr: Open,
}

impl Assembler {
    pub(super) fn new(stdout: Head, stderr: Head) -> Self {
        let open = |head| Open { head, ..Open::default() };
        Self { stdout: open(stdout), stderr: open(stderr) }
    }

    /// Lines that end in this chunk, in the order in which they end.
    pub(super) fn feed(&mut self, segment: u32, chunk: Chunk<'_>, lines: &mut Vec<Line>) {
        let place = (segment, chunk.offset);
        match chunk.source {
            Source::Stdout => self.stdout.feed(Origin::Stdout, segment, chunk, lines),
            Source::Stderr => self.stderr.feed(Origin::Stderr, segment, chunk, lines),
            Source::Mark(Mark::Dropped) => lines.push(Line {
                unix_ns: chunk.unix_ns,
                origin: Origin::Remark,
                place,
                text: DROPPED_TEXT.to_owned(),
            }),
            // What the program before left unfinished is no beginning of what this one writes.
            Source::Mark(Mark::IncarnationStart) => self.finish(lines),
        }
    }

    /// Ends what has no line end.
    pub(super) fn finish(&mut self, lines: &mut Vec<Line>) {
        self.stdout.end(Origin::Stdout, lines);
        self.stderr.end(Origin::Stderr, lines);
        self.stdout.head = Head::Whole;
        self.stderr.head = Head::Whole;
    }
}

impl Open {
    fn feed(&mut self, origin: Origin, segment: u32, chunk: Chunk<'_>, lines: &mut Vec<Line>) {
        let mut offset = chunk.offset;
        for piece in chunk.bytes.split_inclusive(|&byte| byte == b'\n') {
            let begin = (chunk.unix_ns, (segment, offset));
            offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
            let ends = piece.ends_with(b"\n");
            if self.head == Head::Cut {
                self.head = if ends { Head::Whole } else { Head::Cut };
                continue;
            }
            self.begun.get_or_insert(begin);
            let mut rest = &piece[..piece.len() - usize::from(ends)];
            while self.bytes.len() + rest.len() > LINE_BYTES_MAX {
                let (fits, more) = rest.split_at(LINE_BYTES_MAX - self.bytes.len());
                self.bytes.extend_from_slice(fits);
                self.end(origin, lines);
                self.begun = Some(begin);
                rest = more;
            }
            self.bytes.extend_from_slice(rest);
            if ends {
                if self.bytes.last() == Some(&b'\r') {
                    self.bytes.pop();
                }
                self.end(origin, lines);
            }
        }
    }

    fn end(&mut self, origin: Origin, lines: &mut Vec<Line>) {
        let bytes = std::mem::take(&mut self.bytes);
        if let Some((unix_ns, place)) = self.begun.take() {
            lines.push(Line { unix_ns, origin, place, text: String::from_utf8_lossy(&bytes).into_owned() });
        }
    }
}

/// The source that bytes at a place belong to, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) source: Source,
    pub(super) unix_ns: u64,
}

impl Default for Extent {
    /// Bytes before the first record count as stdout.
    fn default() -> Self {
        Self { source: Source::Stdout, unix_ns: 0 }
    }
}

/// Cuts bytes, read from offset `from` on within `extent`, into the extents that `index` begins. `index` holds whole
/// records only; those that lie past the bytes are left. Tells how many were used, and what goes on at the end.
pub(super) fn split<'a>(
    index: &[u8],
    mut extent: Extent,
    from: u64,
    bytes: &'a [u8],
    mut feed: impl FnMut(Chunk<'a>),
) -> (usize, Extent) {
    let mut done = 0;
    let mut used = 0;
    let offset_of = |at: usize| from.saturating_add(u64::try_from(at).unwrap_or(u64::MAX));
    for record in index.chunks_exact(INDEX_RECORD_BYTES) {
        let Some(record) = record.try_into().ok().and_then(IndexRecord::decode) else {
            used += INDEX_RECORD_BYTES;
            continue;
        };
        if record.offset > offset_of(bytes.len()) {
            break;
        }
        used += INDEX_RECORD_BYTES;
        let begin = usize::try_from(record.offset.saturating_sub(from)).unwrap_or(usize::MAX);
        let begin = begin.clamp(done, bytes.len());
        if begin > done {
            let Extent { source, unix_ns } = extent;
            feed(Chunk { source, unix_ns, offset: offset_of(done), bytes: &bytes[done..begin] });
        }
        done = begin;
        match record.source {
            Source::Mark(_) if record.offset < from => {}
            source @ Source::Mark(_) => {
                feed(Chunk { source, unix_ns: record.unix_ns, offset: record.offset, bytes: &[] });
            }
            source @ (Source::Stdout | Source::Stderr) => extent = Extent { source, unix_ns: record.unix_ns },
        }
    }
    if done < bytes.len() {
        let Extent { source, unix_ns } = extent;
        feed(Chunk { source, unix_ns, offset: offset_of(done), bytes: &bytes[done..] });
    }
    (used, extent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(records: &[(u64, Source)]) -> Vec<u8> {
        let encode = |&(offset, source): &(u64, Source)| IndexRecord { unix_ns: offset + 1, offset, source }.encode();
        records.iter().flat_map(encode).collect()
    }

    fn lines(records: &[(u64, Source)], bytes: &[u8]) -> Vec<Line> {
        let mut assembler = Assembler::default();
        let mut lines = Vec::new();
        split(&index(records), Extent::default(), 0, bytes, |chunk| assembler.feed(7, chunk, &mut lines));
        assembler.finish(&mut lines);
        lines.sort_by_key(|line| line.place);
        lines
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn streams_are_kept_apart_and_stand_where_they_began() {
        let found = lines(&[(0, Source::Stdout), (3, Source::Stderr), (7, Source::Stdout)], b"parerr\ntial\nlast");
        assert_eq!(texts(&found), ["partial", "err", "last"]);
        let told: Vec<_> = found.iter().map(|line| (line.unix_ns, line.origin, line.place)).collect();
        let expected = [(1, Origin::Stdout, (7, 0)), (4, Origin::Stderr, (7, 3)), (8, Origin::Stdout, (7, 12))];
        assert_eq!(told, expected);
    }

    #[test]
    fn marks_end_lines_and_are_told() {
        let start = Source::Mark(Mark::IncarnationStart);
        let dropped = Source::Mark(Mark::Dropped);
        let records = [(0, Source::Stdout), (4, start), (4, Source::Stdout), (7, dropped), (7, Source::Stdout)];
        assert_eq!(texts(&lines(&records, b"diedup\nend\n")), ["died", "up", DROPPED_TEXT, "end"]);
    }

    #[test]
    fn long_lines_come_in_pieces_and_bad_utf8_is_shown() {
        let mut bytes = vec![b'x'; LINE_BYTES_MAX + 5];
        bytes.extend_from_slice(b"\r\n\xff!\n\n");
        let found = lines(&[], &bytes);
        let lens: Vec<usize> = found.iter().map(|line| line.text.len()).collect();
        assert_eq!(lens, [LINE_BYTES_MAX, 5, 4, 0]);
        assert_eq!(found[2].text, "\u{fffd}!");
    }

    #[test]
    fn a_cut_head_is_passed_over_in_its_stream_alone() {
        let mut assembler = Assembler::new(Head::Cut, Head::Whole);
        let mut found = Vec::new();
        let records = index(&[(10, Source::Stderr), (14, Source::Stdout)]);
        let extent = Extent { source: Source::Stdout, unix_ns: 1 };
        split(&records, extent, 7, b"estone\nt\ntwo\n", |chunk| assembler.feed(0, chunk, &mut found));
        assert_eq!(texts(&found), ["one", "two"]);
    }

    #[test]
    fn records_past_the_bytes_wait() {
        let records = index(&[(0, Source::Stderr), (4, Source::Stdout), (9, Source::Stderr)]);
        let mut count = 0;
        let (used, extent) = split(&records, Extent::default(), 0, b"a\nb\n", |_| count += 1);
        assert_eq!((used, count), (2 * INDEX_RECORD_BYTES, 1));
        assert_eq!(extent, Extent { source: Source::Stdout, unix_ns: 5 }, "for the bytes to come");
    }
}
