//! Headers that change on the way: who the client is, and what belongs to one connection only.

use std::net::IpAddr;

use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use pingora::Result as PingoraResult;
use pingora::http::{RequestHeader, ResponseHeader};

/// Longest X-Request-Id we pass on, bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Responses with more names in Connection lose the rest of the list, not the headers it named.
const NOMINATED_MAX: usize = 16;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What a client says about its own path to us; only we may say it to a service.
const CLAIMS: [HeaderName; 4] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-real-ip"),
];
/// RFC 9110 §7.6.1; Connection itself and Transfer-Encoding belong to the parser.
const HOP_BY_HOP: [HeaderName; 4] =
    [HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection"), header::TE, header::TRAILER];
/// Names that Connection may not take away: the message would change its meaning.
const PROTECTED: [HeaderName; 4] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE];

/// Sets who asked for what; drops what the client claimed.
pub(super) fn forward(head: &mut RequestHeader, client: Option<IpAddr>) -> PingoraResult<()> {
    for name in &CLAIMS {
        head.remove_header(name);
    }
    match client {
        Some(client) => head.insert_header(FORWARDED_FOR, client.to_canonical().to_string())?,
        None => {
            head.remove_header(&FORWARDED_FOR);
        }
    }
    match head.headers.get(header::HOST).cloned() {
        Some(host) => head.insert_header(FORWARDED_HOST, host)?,
        None => {
            head.remove_header(&FORWARDED_HOST);
        }
    }
    head.insert_header(FORWARDED_PROTO, HeaderValue::from_static("http"))?;
    let mut ids = head.headers.get_all(REQUEST_ID).iter();
    let keeps_id = ids.next().is_some_and(is_request_id) && ids.next().is_none();
    if !keeps_id {
        head.insert_header(REQUEST_ID, format!("{:032x}", fastrand::u128(..)))?;
    }
    Ok(())
}

/// Takes `bytes` off the front of the path; what is left starts with `/`.
pub(super) fn strip_prefix(head: &mut RequestHeader, bytes: usize) -> PingoraResult<()> {
    let stripped = stripped(head.raw_path(), bytes);
    head.set_raw_path(&stripped)
}

fn stripped(path_and_query: &[u8], bytes: usize) -> Vec<u8> {
    let rest = path_and_query.get(bytes..).unwrap_or_default();
    // `/api/` + `/..` was refused before, `/api//x` was not: the rest must not look like an authority.
    let path_end = rest.iter().position(|byte| *byte != b'/').unwrap_or(rest.len());
    let mut stripped = Vec::with_capacity(rest.len() + 1);
    stripped.push(b'/');
    stripped.extend_from_slice(&rest[path_end..]);
    stripped
}

pub(super) fn clean_response(head: &mut ResponseHeader) {
    for name in nominated(head) {
        head.remove_header(&name);
    }
    for name in &HOP_BY_HOP {
        head.remove_header(name);
    }
    // Elsewhere it only advertises what the backend could speak, which nobody can take up through us.
    if !matches!(head.status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED) {
        head.remove_header(&header::UPGRADE);
    }
}

fn nominated(head: &ResponseHeader) -> Vec<HeaderName> {
    let values = head.headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).filter_map(|name| HeaderName::try_from(name.trim()).ok());
    names.filter(|name| !PROTECTED.contains(name)).take(NOMINATED_MAX).collect()
}

/// A browser's EventSource says so; other streams are found by their silence only.
pub(super) fn wants_events(head: &RequestHeader) -> bool {
    let accept = head.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn the_clients_claims_are_replaced() {
        let mut head = request(&[
            ("host", "a.test:8080"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "7.7.7.7"),
            ("x-forwarded-host", "evil.test"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
        ]);
        forward(&mut head, Some("::ffff:10.0.0.7".parse().unwrap())).unwrap();
        let all =
            |name: &str| head.headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(all("x-forwarded-for"), ["10.0.0.7"]);
        assert_eq!(all("x-forwarded-host"), ["a.test:8080"]);
        assert_eq!(all("x-forwarded-proto"), ["http"]);
        assert!(all("forwarded").is_empty() && all("x-real-ip").is_empty());
        assert_eq!(all("x-request-id")[0].len(), 32);
    }

    #[test]
    fn request_ids_are_kept_when_sane() {
        for (sent, kept) in [("abc-1.2:3_X", true), ("", false), ("a b", false), (&"a".repeat(129), false)] {
            let mut head = request(&[("x-request-id", sent)]);
            forward(&mut head, None).unwrap();
            assert_eq!(head.headers["x-request-id"] == sent, kept, "{sent}");
        }
    }

    #[test]
    fn prefixes() {
        for (path, bytes, expected) in
            [("/api", 4, "/"), ("/api/x", 4, "/x"), ("/api?q=1", 4, "/?q=1"), ("/api//x", 4, "/x"), ("/api/", 4, "/")]
        {
            assert_eq!(stripped(path.as_bytes(), bytes), expected.as_bytes(), "{path}");
        }
    }

    #[test]
    fn responses_lose_what_belongs_to_the_connection() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("connection", "close, X-Own, content-length"),
            ("x-own", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("content-length", "3"),
        ] {
            head.append_header(name, value).unwrap();
        }
        clean_response(&mut head);
        let names: std::collections::BTreeSet<_> = head.headers.keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["connection", "content-length", "x-other"].into());
    }
}
