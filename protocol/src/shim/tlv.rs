//! Tag-length-value, little endian: `{ tag: u16, zero: u16, len: u32, bytes }`. One codec for messages and files.
//! A reader skips tags it does not know, so new fields never break an old shim.

use std::fmt;

const HEAD_BYTES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Ends inside an item.
    Truncated,
    /// An item has the wrong length for its type.
    Length { tag: u16 },
    /// A text item is not UTF-8.
    Text { tag: u16 },
    /// A required item is absent.
    Missing { tag: u16 },
    /// A number stands for nothing we know.
    Value { tag: u16 },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "record ends inside an item"),
            Self::Length { tag } => write!(f, "item {tag} has the wrong length"),
            Self::Text { tag } => write!(f, "item {tag} is not UTF-8"),
            Self::Missing { tag } => write!(f, "item {tag} is missing"),
            Self::Value { tag } => write!(f, "item {tag} has an unknown value"),
        }
    }
}

impl std::error::Error for Malformed {}

/// Appends items to a buffer.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    /// # Panics
    /// When `bytes` is over 4 GiB; every caller's input has a limit far below.
    pub fn bytes(&mut self, tag: u16, bytes: &[u8]) -> &mut Self {
        let len = u32::try_from(bytes.len()).expect("limits are far below 4 GiB");
        self.0.extend_from_slice(&tag.to_le_bytes());
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(&mut self, tag: u16, text: &str) -> &mut Self {
        self.bytes(tag, text.as_bytes())
    }

    pub fn u8(&mut self, tag: u16, value: u8) -> &mut Self {
        self.bytes(tag, &[value])
    }

    pub fn u32(&mut self, tag: u16, value: u32) -> &mut Self {
        self.bytes(tag, &value.to_le_bytes())
    }

    pub fn i32(&mut self, tag: u16, value: i32) -> &mut Self {
        self.bytes(tag, &value.to_le_bytes())
    }

    pub fn u64(&mut self, tag: u16, value: u64) -> &mut Self {
        self.bytes(tag, &value.to_le_bytes())
    }

    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// One item as it stands in the record.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub tag: u16,
    pub bytes: &'a [u8],
}

impl<'a> Item<'a> {
    pub fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes).map_err(|_| Malformed::Text { tag: self.tag })
    }

    pub fn u8(self) -> Result<u8, Malformed> {
        self.array::<1>().map(|b| b[0])
    }

    pub fn u32(self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn i32(self) -> Result<i32, Malformed> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn u64(self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(self) -> Result<[u8; N], Malformed> {
        self.bytes.try_into().map_err(|_| Malformed::Length { tag: self.tag })
    }
}

/// Reads items one after another; ends after the first malformed one.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Item<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let Some((head, body)) = rest.split_at_checked(HEAD_BYTES) else {
            return Some(Err(Malformed::Truncated));
        };
        let tag = u16::from_le_bytes([head[0], head[1]]);
        let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let split = usize::try_from(len).ok().and_then(|len| body.split_at_checked(len));
        let Some((bytes, rest)) = split else {
            return Some(Err(Malformed::Truncated));
        };
        self.0 = rest;
        Some(Ok(Item { tag, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_tags_are_skippable_and_torn_records_are_seen() {
        let bytes = Writer::new().text(1, "a").u64(900, 7).u32(2, 5).finish();
        let tags: Vec<u16> = Reader::new(&bytes).map(|item| item.unwrap().tag).collect();
        assert_eq!(tags, [1, 900, 2]);
        let torn: Vec<_> = Reader::new(&bytes[..bytes.len() - 1]).collect();
        assert_eq!(torn.last().unwrap().as_ref().unwrap_err(), &Malformed::Truncated);
    }
}
