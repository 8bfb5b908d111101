//! Headers that change on the way: who the client is, and what belongs to one connection only.

use std::net::IpAddr;

use agentd_protocol::edge::ForwardedBy;
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
/// Who the client is, as Cloudflare's edge says it. X-Forwarded-For it only appends to: that is the client's own word.
const CONNECTING_IP: HeaderName = HeaderName::from_static("cf-connecting-ip");
/// Of the same standing, and said of the same client.
const CONNECTING_ALIASES: [HeaderName; 3] = [
    HeaderName::from_static("cf-connecting-ipv6"),
    HeaderName::from_static("cf-pseudo-ipv4"),
    HeaderName::from_static("true-client-ip"),
];
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

/// A client, and by which scheme it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) client: Option<IpAddr>,
    pub(super) scheme: &'static str,
}

/// Who asks. `said_by` is believed of a peer on loopback alone, and where it names one address; where it is not, what it
/// may have said is taken out, so that a service that goes by it is not deceived.
pub(super) fn origin(head: &mut RequestHeader, peer: Option<IpAddr>, said_by: ForwardedBy) -> Origin {
    let said = match said_by {
        ForwardedBy::Cloudflare if peer.is_some_and(|peer| peer.to_canonical().is_loopback()) => said(head),
        ForwardedBy::Cloudflare | ForwardedBy::Nobody => None,
    };
    match said {
        Some(client) => {
            let https = only(head, &FORWARDED_PROTO).is_some_and(|scheme| scheme == "https");
            Origin { client: Some(client), scheme: if https { "https" } else { "http" } }
        }
        None => {
            std::iter::once(&CONNECTING_IP).chain(&CONNECTING_ALIASES).for_each(|name| drop(head.remove_header(name)));
            Origin { client: peer, scheme: "http" }
        }
    }
}

fn said(head: &RequestHeader) -> Option<IpAddr> {
    only(head, &CONNECTING_IP)?.parse().ok()
}

fn only<'a>(head: &'a RequestHeader, name: &HeaderName) -> Option<&'a str> {
    let mut values = head.headers.get_all(name).iter();
    let value = values.next()?.to_str().ok();
    value.filter(|_| values.next().is_none())
}

/// Sets who asked for what; drops what the client claimed.
pub(super) fn forward(head: &mut RequestHeader, origin: Origin) -> PingoraResult<()> {
    for name in &CLAIMS {
        head.remove_header(name);
    }
    match origin.client {
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
    head.insert_header(FORWARDED_PROTO, HeaderValue::from_static(origin.scheme))?;
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

    const NOBODY: Origin = Origin { client: None, scheme: "http" };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_tunnel_is_believed_from_loopback_alone() {
        let tunnel = || {
            let said = [("cf-connecting-ip", "203.0.113.9"), ("cf-connecting-ipv6", "2001:db8::9")];
            request(&[said[0], said[1], ("x-forwarded-proto", "https"), ("x-forwarded-for", "6.6.6.6")])
        };
        let believed = Origin { client: Some(ip("203.0.113.9")), scheme: "https" };
        for peer in ["127.0.0.1", "::ffff:127.0.0.1", "::1"] {
            let mut head = tunnel();
            assert_eq!(origin(&mut head, Some(ip(peer)), ForwardedBy::Cloudflare), believed, "{peer}");
            assert_eq!(head.headers["cf-connecting-ip"], "203.0.113.9");
        }
        for (peer, said_by) in [("10.0.0.7", ForwardedBy::Cloudflare), ("127.0.0.1", ForwardedBy::Nobody)] {
            let mut head = tunnel();
            let found = origin(&mut head, Some(ip(peer)), said_by);
            assert_eq!(found, Origin { client: Some(ip(peer)), scheme: "http" });
            assert!(!head.headers.keys().any(|name| name.as_str().starts_with("cf-connecting")), "{head:?}");
        }
    }

    #[test]
    fn a_word_that_names_no_one_address_is_none() {
        for said in [&[][..], &["nobody"], &["203.0.113.9, 6.6.6.6"], &["203.0.113.9", "6.6.6.6"], &[""]] {
            let lines: Vec<(&'static str, &str)> = said.iter().map(|value| ("cf-connecting-ip", *value)).collect();
            let mut head = request(&lines);
            head.append_header("x-forwarded-proto", "https").unwrap();
            let found = origin(&mut head, Some(ip("127.0.0.1")), ForwardedBy::Cloudflare);
            assert_eq!(found, Origin { client: Some(ip("127.0.0.1")), scheme: "http" }, "{said:?}");
            assert!(!head.headers.contains_key("cf-connecting-ip"), "{said:?}");
        }
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
        forward(&mut head, Origin { client: Some(ip("::ffff:10.0.0.7")), ..NOBODY }).unwrap();
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
            forward(&mut head, NOBODY).unwrap();
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
