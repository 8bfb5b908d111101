//! From a pointer into the tree to a place in the text.

use std::collections::HashMap;

use agentd_protocol::validate::At;

/// Byte offsets of keys and values by pointer (RFC 6901).
#[derive(Debug, Default)]
pub(crate) struct Lines {
    keys: HashMap<String, usize>,
    values: HashMap<String, usize>,
}

impl Lines {
    pub(crate) fn put(&mut self, pointer: &str, key: Option<usize>, value: usize) {
        if let Some(key) = key {
            self.keys.insert(pointer.to_owned(), key);
        }
        self.values.insert(pointer.to_owned(), value);
    }

    /// Where the pointer's key or value starts; where it does not exist, its nearest ancestor.
    pub(crate) fn offset(&self, pointer: &str, at: At) -> usize {
        let mut pointer = pointer;
        loop {
            let (first, second) = match at {
                At::Key => (&self.keys, &self.values),
                At::Value => (&self.values, &self.keys),
            };
            if let Some(offset) = first.get(pointer).or_else(|| second.get(pointer)) {
                return *offset;
            }
            match pointer.rsplit_once('/') {
                Some((parent, _)) => pointer = parent,
                None => return 0,
            }
        }
    }
}

pub(crate) fn child(pointer: &str, leaf: &str) -> String {
    format!("{pointer}/{}", leaf.replace('~', "~0").replace('/', "~1"))
}

/// Line and column from 1; an offset past the end is the end.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        assert_eq!(position("ab\ncd", 0), (1, 1));
        assert_eq!(position("ab\ncd", 4), (2, 2));
        assert_eq!(position("ä\nöx", 5), (2, 2));
        assert_eq!(position("ab", 99), (1, 3));
    }
}
