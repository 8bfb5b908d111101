//! What we refuse before routing: anything two programs could read in two ways. Works on the raw head, before a more
//! lenient parser sees it. Pure.

/// Most header lines of one request.
const HEADER_LINES_MAX: usize = 128;
/// Longest method, bytes; the longest registered one has 17.
const METHOD_BYTES_MAX: usize = 24;

/// Digits of a Content-Length: all that a u64 surely holds.
const LENGTH_DIGITS_MAX: usize = 18;

/// Why a request was answered without being routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not HTTP/1, or written so loosely that the next program may read it otherwise.
    Malformed,
    /// The head did not arrive in time.
    TooSlow,
    TooLarge,
    Version,
    MissingHost,
    SeveralHosts,
    BadHost,
    BadPath,
    Scheme,
    /// `*`: about the server itself, which is not what we route.
    Asterisk,
    Connect,
    /// Content-Length and Transfer-Encoding that contradict each other or themselves.
    Framing,
}

/// A request target in one of the two forms we serve (RFC 9112 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target<'a> {
    Origin,
    /// The authority replaces Host; `path_and_query` may be empty or start with `?`.
    Absolute {
        authority: &'a str,
        path_and_query: &'a str,
    },
}

/// Where the head ends, if all of it is there; `scanned` bytes were looked at before.
pub(super) fn head_end(bytes: &[u8], scanned: usize) -> Result<Option<usize>, Refusal> {
    // RFC 9112 §2.2: empty lines before the request line are ignored.
    let Some(start) = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) else { return Ok(None) };
    for (at, _) in bytes.iter().enumerate().skip(scanned).filter(|(_, byte)| **byte == b'\n') {
        let line = &bytes[..at];
        if line.last() != Some(&b'\r') {
            return Err(Refusal::Malformed);
        }
        if at >= start + 4 && line.ends_with(b"\r\n\r") {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}

/// Checks a whole head, blank line included. A head in absolute form comes back in origin form, with the target's
/// authority as its Host (RFC 9112 §3.2.2).
pub(super) fn check_head(head: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let mut lines = Lines { rest: head.trim_ascii_start() };
    let request = request_line(lines.next().ok_or(Refusal::Malformed)?)?;
    let headers = lines.rest;
    let mut seen = Seen::default();
    for (count, line) in lines.take_while(|line| !line.is_empty()).enumerate() {
        if count == HEADER_LINES_MAX {
            return Err(Refusal::TooLarge);
        }
        let (name, value) = header_line(line)?;
        seen.note(name, value)?;
    }
    seen.check(request.version)?;
    match check_target(&request)? {
        Target::Origin => Ok(None),
        Target::Absolute { authority, path_and_query } => {
            Ok(Some(in_origin_form(&request, authority, path_and_query, headers)))
        }
    }
}

fn in_origin_form(request: &RequestLine<'_>, authority: &str, path_and_query: &str, headers: &[u8]) -> Vec<u8> {
    let version = match request.version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
    };
    let slash = if path_and_query.starts_with('/') { "" } else { "/" };
    let mut head = request.method.to_vec();
    head.extend_from_slice(format!(" {slash}{path_and_query} {version}\r\nHost: {authority}\r\n").as_bytes());
    let is_host = |line: &[u8]| line.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"host:"));
    for line in (Lines { rest: headers }).filter(|line| !is_host(line)) {
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
    }
    head
}

fn target(raw: &str) -> Result<Target<'_>, Refusal> {
    if raw.starts_with('/') {
        return Ok(Target::Origin);
    }
    let (scheme, rest) = raw.split_once("://").ok_or(Refusal::BadPath)?;
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(Refusal::Scheme);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path_and_query) = rest.split_at(end);
    if is_authority(authority.as_bytes()) {
        Ok(Target::Absolute { authority, path_and_query })
    } else {
        Err(Refusal::BadHost)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a str,
    version: Version,
}

/// Lines without their CRLF; [`head_end`] has seen that every LF follows a CR.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::Malformed);
    };
    if method.is_empty() || method.len() > METHOD_BYTES_MAX || !method.iter().copied().all(is_token) {
        return Err(Refusal::Malformed);
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(Refusal::BadPath);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        other if other.starts_with(b"HTTP/") => return Err(Refusal::Version),
        _ => return Err(Refusal::Malformed),
    };
    let target = std::str::from_utf8(target).map_err(|_| Refusal::BadPath)?;
    Ok(RequestLine { method, target, version })
}

/// A name directly followed by `:`; a folded line (RFC 9112 §5.2) starts with white space and has no such name.
fn header_line(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Refusal::Malformed)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let name_is_good = !name.is_empty() && name.iter().copied().all(is_token);
    let value_is_good = value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
    if name_is_good && value_is_good { Ok((name, value)) } else { Err(Refusal::Malformed) }
}

/// The headers that decide where a request goes and where it ends.
#[derive(Debug, Default)]
struct Seen {
    hosts: usize,
    lengths: usize,
    encodings: usize,
}

impl Seen {
    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
            return if is_authority(value) { Ok(()) } else { Err(Refusal::BadHost) };
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths += 1;
            let plain = (1..=LENGTH_DIGITS_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
            return if plain { Ok(()) } else { Err(Refusal::Framing) };
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.encodings += 1;
            return if value.eq_ignore_ascii_case(b"chunked") { Ok(()) } else { Err(Refusal::Framing) };
        }
        Ok(())
    }

    fn check(&self, version: Version) -> Result<(), Refusal> {
        match (self.hosts, version) {
            (0, Version::Http11) => return Err(Refusal::MissingHost),
            (0 | 1, _) => {}
            _ => return Err(Refusal::SeveralHosts),
        }
        match (self.lengths, self.encodings, version) {
            (0 | 1, 0, _) | (0, 1, Version::Http11) => Ok(()),
            _ => Err(Refusal::Framing),
        }
    }
}

fn check_target<'a>(request: &RequestLine<'a>) -> Result<Target<'a>, Refusal> {
    if request.method == b"CONNECT" {
        return Err(Refusal::Connect);
    }
    if request.target == "*" {
        return Err(Refusal::Asterisk);
    }
    let target = target(request.target)?;
    let path_and_query = match target {
        Target::Origin => request.target,
        Target::Absolute { path_and_query, .. } => path_and_query,
    };
    // No URL has these (RFC 3986 §2), and browsers escape them.
    if path_and_query.contains(['"', '<', '>', '#']) {
        return Err(Refusal::BadPath);
    }
    check_path(path_and_query.split('?').next().unwrap_or_default())?;
    Ok(target)
}

/// No path that means one thing to a router and another to the program behind it.
fn check_path(path: &str) -> Result<(), Refusal> {
    let plain = !path.starts_with("//") && !path.contains(['\\', '`']);
    // Some servers cut a segment's `;parameters` before they resolve dots.
    let dotted = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if plain && !path.split('/').any(dotted) && escapes_are_harmless(path) { Ok(()) } else { Err(Refusal::BadPath) }
}

fn escapes_are_harmless(path: &str) -> bool {
    path.split('%').skip(1).all(|escape| {
        let digits = escape.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(b'.' | b'/' | b'\\' | 0) | None => false,
            Some(_) => true,
        }
    })
}

/// `host[:port]` (RFC 3986 §3.2) without user information.
fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !text.ends_with(b"]") => (&text[..colon], &text[colon + 1..]),
        _ => (text, &[][..]),
    };
    let in_brackets = host.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let host_is_good = match in_brackets {
        Some(address) => std::str::from_utf8(address).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            !host.is_empty()
                && host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
        }
    };
    host_is_good && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(head: &str) -> Result<(), Refusal> {
        let end = head_end(head.as_bytes(), 0)?.expect("the head is whole");
        check_head(&head.as_bytes()[..end]).map(|_| ())
    }

    fn path(path: &str) -> Result<(), Refusal> {
        check(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
    }

    #[test]
    fn the_end_is_found_however_the_bytes_arrive() {
        let head = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nbody\r\n\r\n";
        assert_eq!(head_end(head, 0), Ok(Some(29)));
        for cut in 0..29 {
            assert_eq!(head_end(&head[..cut], 0), Ok(None), "{cut}");
            assert_eq!(head_end(head, cut), Ok(Some(29)), "{cut}");
        }
        assert_eq!(head_end(b"GET / HTTP/1.1\nHost: a\n\n", 0), Err(Refusal::Malformed));
    }

    #[test]
    fn hosts() {
        let host = |lines: &str| check(&format!("GET / HTTP/1.1\r\n{lines}\r\n"));
        assert_eq!(host("Host: a.test:8080\r\n"), Ok(()));
        assert_eq!(host("HOST:[::1]:80\r\n"), Ok(()));
        assert_eq!(host(""), Err(Refusal::MissingHost));
        assert_eq!(host("Host: a\r\nhost: a\r\n"), Err(Refusal::SeveralHosts));
        for bad in ["", "a b", "a/b", "u@a", "a:b", "a:123456", "a,b", "[::1", "[zz]", "\u{fc}"] {
            assert_eq!(host(&format!("Host: {bad}\r\n")), Err(Refusal::BadHost), "{bad}");
        }
        assert_eq!(check("GET / HTTP/1.0\r\n\r\n"), Ok(()));
        assert_eq!(check("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"), Err(Refusal::SeveralHosts));
    }

    #[test]
    fn paths() {
        for good in ["/", "/a/b", "/a//b", "/a%20b", "/...", "/a.b/.well-known/x", "/x?u=../..%2f\\", "/a;b=1"] {
            assert_eq!(path(good), Ok(()), "{good}");
        }
        for bad in [
            "//a",
            "/..",
            "/a/../b",
            "/./a",
            "/a/.",
            "/%2e%2E/a",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a%00",
            "/a%",
            "/a%2",
            "/a%zz",
            "/..;x/a",
            "/a#b",
            "a",
            "/\u{fc}",
        ] {
            assert_eq!(path(bad), Err(Refusal::BadPath), "{bad}");
        }
    }

    #[test]
    fn other_target_forms() {
        assert_eq!(path("http://b.test/x"), Ok(()));
        assert_eq!(target("HTTP://b.test:80?q"), Ok(Target::Absolute { authority: "b.test:80", path_and_query: "?q" }));
        assert_eq!(path("https://b.test/x"), Err(Refusal::Scheme));
        assert_eq!(path("http:///x"), Err(Refusal::BadHost));
        assert_eq!(path("http://u@b/x"), Err(Refusal::BadHost));
        assert_eq!(path("http://b/../x"), Err(Refusal::BadPath));
        assert_eq!(check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), Err(Refusal::Asterisk));
        assert_eq!(check("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"), Err(Refusal::Connect));
    }

    #[test]
    fn absolute_form_becomes_origin_form() {
        for (target, origin) in [("http://b:80/x?y", "/x?y"), ("http://b:80", "/"), ("http://b:80?y", "/?y")] {
            let head = format!("GET {target} HTTP/1.1\r\nX: 1\r\nHOST: a\r\nY: 2\r\n\r\n");
            let rewritten = check_head(head.as_bytes()).unwrap().unwrap();
            let expected = format!("GET {origin} HTTP/1.1\r\nHost: b:80\r\nX: 1\r\nY: 2\r\n\r\n");
            assert_eq!(String::from_utf8(rewritten).unwrap(), expected);
        }
    }

    #[test]
    fn framing() {
        let framed = |lines: &str| check(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        assert_eq!(framed("Content-Length: 3\r\n"), Ok(()));
        assert_eq!(framed("Transfer-Encoding: Chunked\r\n"), Ok(()));
        for bad in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: +3\r\n",
            "Content-Length:\r\n",
            "Content-Length: 9999999999999999999\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert_eq!(framed(bad), Err(Refusal::Framing), "{bad}");
        }
        assert_eq!(check("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Refusal::Framing));
        for bad in ["X : y\r\n", " folded\r\n", "X: a\r\n b\r\n", "X: a\rb\r\n", "nocolon\r\n", "X: \0\r\n", ": y\r\n"]
        {
            assert_eq!(framed(bad), Err(Refusal::Malformed), "{bad:?}");
        }
        assert_eq!(framed(&"X: y\r\n".repeat(200)), Err(Refusal::TooLarge));
    }

    #[test]
    fn request_lines() {
        for bad in
            ["GET /", "GET  / HTTP/1.1", "GET / HTTP/1.1 x", "G@T / HTTP/1.1", "GET / http/1.1", "GET\t/ HTTP/1.1"]
        {
            assert_eq!(check(&format!("{bad}\r\nHost: a\r\n\r\n")), Err(Refusal::Malformed), "{bad}");
        }
        assert_eq!(check("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), Err(Refusal::Version));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(prop::sample::select(b"GET /%.\r\n:Host1a".to_vec()), 0..80)) {
            if let Ok(Some(end)) = head_end(&bytes, 0) {
                prop_assert!(end <= bytes.len());
                prop_assert!(bytes[..end].ends_with(b"\r\n\r\n"));
                if check_head(&bytes[..end]).is_ok() {
                    prop_assert!(!bytes[..end].windows(2).any(|pair| pair == b"//" && bytes[..end].starts_with(b"GET //")));
                }
            }
        }
    }
}
