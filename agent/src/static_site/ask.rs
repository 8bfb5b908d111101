//! What a request's path means below the folder (pure).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The one hidden name that is public by its standard (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// A path whose every segment is a plain, visible name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Relative; empty for the folder itself.
    pub(super) path: PathBuf,
    pub(super) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// `/a`
    Name,
    /// `/a/`, and the root
    Slash,
}

/// `None` for whatever names no file on purpose: hidden names, `..` in any spelling, separators and control characters
/// behind an escape, empty segments.
pub(super) fn asked(path: &str) -> Option<Asked> {
    let rest = path.strip_prefix('/')?;
    let (names, end) = match rest.strip_suffix('/') {
        Some(names) => (names, End::Slash),
        None if rest.is_empty() => (rest, End::Slash),
        None => (rest, End::Name),
    };
    if names.is_empty() {
        // `//` is no spelling of the root.
        return rest.is_empty().then(|| Asked { path: PathBuf::new(), end });
    }
    let path = names.split('/').map(|name| decoded(name).filter(|name| is_plain(name))).map(|name| {
        let name: OsString = OsString::from_vec(name?);
        Some(name)
    });
    Some(Asked { path: path.collect::<Option<PathBuf>>()?, end })
}

fn is_plain(name: &[u8]) -> bool {
    let visible = name.first().is_some_and(|first| *first != b'.') || name == WELL_KNOWN;
    visible && !name.iter().any(|byte| matches!(byte, b'/' | b'\\') || byte.is_ascii_control())
}

/// Percent escapes undone, once; `None` for a broken one.
fn decoded(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut parts = name.as_bytes().split(|byte| *byte == b'%');
    bytes.extend_from_slice(parts.next()?);
    for part in parts {
        let (hex, plain) = part.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(hex[0])? * 16 + digit(hex[1])?);
        bytes.extend_from_slice(plain);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_one_file_or_nothing() {
        let cases = [
            ("/", Some(("", End::Slash))),
            ("/a.txt", Some(("a.txt", End::Name))),
            ("/a/b/", Some(("a/b", End::Slash))),
            ("/a%20b/%C3%A4", Some(("a b/ä", End::Name))),
            ("/.well-known/acme", Some((".well-known/acme", End::Name))),
            ("/%252e%252e/a", Some(("%2e%2e/a", End::Name))),
            ("/a..b", Some(("a..b", End::Name))),
            ("", None),
            ("a", None),
            ("//", None),
            ("//a", None),
            ("/a//b", None),
            ("/..", None),
            ("/a/../b", None),
            ("/%2e%2e/b", None),
            ("/.%2E/b", None),
            ("/a/.", None),
            ("/.git/config", None),
            ("/a/.env", None),
            ("/%2egit/config", None),
            ("/.well-known/.env", None),
            ("/.well-known2", None),
            ("/a%2fb", None),
            ("/..%2fb", None),
            ("/a\\b", None),
            ("/a%5cb", None),
            ("/a%00", None),
            ("/a%0a", None),
            ("/a%7f", None),
            ("/a%", None),
            ("/a%2", None),
            ("/a%zz", None),
            ("/a%+1", None),
        ];
        for (path, wanted) in cases {
            let wanted = wanted.map(|(path, end)| Asked { path: path.into(), end });
            assert_eq!(asked(path), wanted, "{path}");
        }
    }
}
