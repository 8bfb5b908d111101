//! Conditions of a request on what the client has already (pure; RFC 9110 §13).

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    NotModified,
    Failed,
}

/// By entity tags alone; they outrank dates.
pub(super) fn by_tag(headers: &HeaderMap, tag: &str) -> Verdict {
    if headers.contains_key(IF_MATCH) && !names(headers, &IF_MATCH, tag) {
        return Verdict::Failed;
    }
    if names(headers, &IF_NONE_MATCH, tag) { Verdict::NotModified } else { Verdict::Send }
}

/// By date, where no tag was given. Only the same date is the same file: a rollback brings older files back, and they
/// are new to whoever has seen the newer ones.
pub(super) fn by_date(headers: &HeaderMap, last_modified: Option<&HeaderValue>) -> Verdict {
    let same = last_modified.is_some() && headers.get(IF_MODIFIED_SINCE) == last_modified;
    if same && !headers.contains_key(IF_NONE_MATCH) { Verdict::NotModified } else { Verdict::Send }
}

/// The headers that are left for the one who reads the file: one range of a GET, unless it was for another file.
/// Whoever asks for several ranges, or by a date, gets the whole, as a server may always do.
pub(super) fn left(method: &Method, headers: &HeaderMap, tag: &str) -> HeaderMap {
    let mut left = HeaderMap::new();
    let of_this = headers.get(IF_RANGE).is_none_or(|wanted| wanted.as_bytes() == tag.as_bytes());
    let one = |value: &&HeaderValue| value.as_bytes().starts_with(b"bytes=") && !value.as_bytes().contains(&b',');
    if let (&Method::GET, true, Some(range)) = (method, of_this, headers.get(RANGE).filter(one)) {
        left.insert(RANGE, range.clone());
    }
    if let (false, Some(date)) = (headers.contains_key(IF_MATCH), headers.get(IF_UNMODIFIED_SINCE)) {
        left.insert(IF_UNMODIFIED_SINCE, date.clone());
    }
    left
}

/// Whether the list under `header` names `tag`. Our tags are strong, and hold no comma.
fn names(headers: &HeaderMap, header: &HeaderName, tag: &str) -> bool {
    let values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    let weakly = |item: &str| *header == IF_NONE_MATCH && item.strip_prefix("W/") == Some(tag);
    values.flat_map(|value| value.split(',')).map(str::trim).any(|item| item == "*" || item == tag || weakly(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"1-2\"";
    const DATE: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn tags_are_compared_as_the_header_asks() {
        let cases: [(HeaderName, &str, Verdict); 8] = [
            (IF_NONE_MATCH, TAG, Verdict::NotModified),
            (IF_NONE_MATCH, "\"x\", W/\"1-2\"", Verdict::NotModified),
            (IF_NONE_MATCH, "*", Verdict::NotModified),
            (IF_NONE_MATCH, "\"1-2", Verdict::Send),
            (IF_MATCH, TAG, Verdict::Send),
            (IF_MATCH, "*", Verdict::Send),
            (IF_MATCH, "W/\"1-2\"", Verdict::Failed),
            (IF_MATCH, "\"x\"", Verdict::Failed),
        ];
        for (name, value, wanted) in cases {
            assert_eq!(by_tag(&headers(&[(name.clone(), value)]), TAG), wanted, "{name}: {value}");
        }
    }

    #[test]
    fn a_date_counts_only_when_it_is_the_same_and_no_tag_was_given() {
        let date = HeaderValue::from_static(DATE);
        let later = "Fri, 02 Jan 2026 00:00:00 GMT";
        assert_eq!(by_date(&headers(&[(IF_MODIFIED_SINCE, DATE)]), Some(&date)), Verdict::NotModified);
        assert_eq!(by_date(&headers(&[(IF_MODIFIED_SINCE, later)]), Some(&date)), Verdict::Send);
        let both = headers(&[(IF_MODIFIED_SINCE, DATE), (IF_NONE_MATCH, "\"x\"")]);
        assert_eq!(by_date(&both, Some(&date)), Verdict::Send);
        assert_eq!(by_date(&HeaderMap::new(), None), Verdict::Send);
    }

    #[test]
    fn a_range_is_left_where_it_is_of_this_file() {
        let has =
            |method: &Method, pairs: &[(HeaderName, &str)]| left(method, &headers(pairs), TAG).contains_key(RANGE);
        assert!(has(&Method::GET, &[(RANGE, "bytes=0-1")]));
        assert!(has(&Method::GET, &[(RANGE, "bytes=0-1"), (IF_RANGE, TAG)]));
        assert!(!has(&Method::HEAD, &[(RANGE, "bytes=0-1")]));
        assert!(!has(&Method::GET, &[(RANGE, "bytes=0-1"), (IF_RANGE, "\"x\"")]));
        assert!(!has(&Method::GET, &[(RANGE, "bytes=0-1"), (IF_RANGE, DATE)]));
        assert!(!has(&Method::GET, &[(RANGE, "bytes=0-1,3-4")]));
        assert!(!has(&Method::GET, &[(RANGE, "lines=0-1")]));
    }
}
