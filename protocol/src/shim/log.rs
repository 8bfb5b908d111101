//! Log segments: `NNNNNNNN.log` holds the raw bytes of both streams in arrival order, `NNNNNNNN.idx` says from which
//! offset on they came from which stream at what time. The index record is written before the bytes; an extent ends
//! where the next record begins or at the end of the file; a torn last record is dropped.

pub const INDEX_RECORD_BYTES: usize = 16;
/// Bytes past the segment limit after which a segment is sealed even inside a line.
pub const LINE_SLACK_BYTES: u64 = 1024 * 1024;

/// What the shim itself notes between the bytes; no bytes belong to a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A new incarnation begins here.
    IncarnationStart,
    /// Bytes were thrown away here because the disk was full.
    Dropped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexRecord {
    pub unix_ns: u64,
    /// Byte offset in the segment; below 2^56.
    pub offset: u64,
    pub source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Stdout,
    Stderr,
    Mark(Mark),
}

impl IndexRecord {
    pub fn encode(self) -> [u8; INDEX_RECORD_BYTES] {
        let source: u64 = match self.source {
            Source::Stdout => 1,
            Source::Stderr => 2,
            Source::Mark(Mark::IncarnationStart) => 0x81,
            Source::Mark(Mark::Dropped) => 0x82,
        };
        let mut out = [0; INDEX_RECORD_BYTES];
        out[..8].copy_from_slice(&self.unix_ns.to_le_bytes());
        out[8..].copy_from_slice(&(self.offset << 8 | source).to_le_bytes());
        out
    }

    /// `None` for a source this version does not know.
    pub fn decode(bytes: [u8; INDEX_RECORD_BYTES]) -> Option<Self> {
        let (time, place) = bytes.split_at(8);
        let place = u64::from_le_bytes(place.try_into().ok()?);
        let source = match place & 0xff {
            1 => Source::Stdout,
            2 => Source::Stderr,
            0x81 => Source::Mark(Mark::IncarnationStart),
            0x82 => Source::Mark(Mark::Dropped),
            _ => return None,
        };
        Some(Self { unix_ns: u64::from_le_bytes(time.try_into().ok()?), offset: place >> 8, source })
    }
}

/// `00000012.log`
pub fn segment_name(number: u32) -> String {
    format!("{number:08}.log")
}

/// `00000012.idx`
pub fn index_name(number: u32) -> String {
    format!("{number:08}.idx")
}

/// The number in a segment's name.
pub fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 8).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_records_round_trip() {
        for source in
            [Source::Stdout, Source::Stderr, Source::Mark(Mark::IncarnationStart), Source::Mark(Mark::Dropped)]
        {
            let record = IndexRecord { unix_ns: 1, offset: 1 << 40, source };
            assert_eq!(IndexRecord::decode(record.encode()), Some(record));
        }
        assert_eq!(segment_number(&segment_name(12)), Some(12));
        assert_eq!(segment_number("x.log"), None);
    }
}
