//! Whether a browser sends a request on behalf of another site, and whether it was led here under a wrong name. Pure.

use http::{HeaderMap, Method, header};

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Why a request is another site's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// The browser says so.
    Site,
    /// Its origin is not this host.
    Origin,
}

/// The algorithm of Go 1.25's `http.CrossOriginProtection`: browsers of today say where a request comes from; older ones
/// name the origin; what says neither is no browser, and has no cookies to be abused.
pub(crate) fn check(method: &Method, headers: &HeaderMap) -> Result<(), Foreign> {
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) {
        return Ok(());
    }
    match headers.get(SEC_FETCH_SITE).map(|site| site.as_bytes()) {
        Some(b"same-origin" | b"none") => return Ok(()),
        Some(b"") | None => {}
        Some(_) => return Err(Foreign::Site),
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = headers.get(header::HOST).map(|host| host.as_bytes()).unwrap_or_default();
    let origin_host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host.as_bytes());
    if origin_host == Some(host) && !host.is_empty() { Ok(()) } else { Err(Foreign::Origin) }
}

/// Names this server goes by. Over plain HTTP nothing else vouches for a name, so a page of another site could have its
/// own name lead here (DNS rebinding); a numeric address cannot be such a name.
pub(crate) fn is_ours(host: Option<&str>, names: &[String]) -> bool {
    let Some(host) = host else { return false };
    let name = without_port(host);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|ours| ours.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(pairs: &[(&'static str, &str)]) -> Result<(), Foreign> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        check(&Method::POST, &headers)
    }

    #[test]
    fn other_sites_are_told_from_this_one() {
        let host = ("host", "ctl.example.com:8443");
        for (headers, answer) in [
            (&[host][..], Ok(())),
            (&[host, ("sec-fetch-site", "same-origin")], Ok(())),
            (&[host, ("sec-fetch-site", "none")], Ok(())),
            (&[host, ("sec-fetch-site", "same-site")], Err(Foreign::Site)),
            (&[host, ("sec-fetch-site", "cross-site")], Err(Foreign::Site)),
            (&[host, ("sec-fetch-site", "anything")], Err(Foreign::Site)),
            (&[host, ("origin", "https://ctl.example.com:8443")], Ok(())),
            (&[host, ("origin", "https://ctl.example.com")], Err(Foreign::Origin)),
            (&[host, ("origin", "https://evil.example")], Err(Foreign::Origin)),
            (&[host, ("origin", "null")], Err(Foreign::Origin)),
            (&[("origin", "https://evil.example")], Err(Foreign::Origin)),
            (&[host, ("sec-fetch-site", "same-origin"), ("origin", "null")], Ok(())),
        ] {
            assert_eq!(checked(headers), answer, "{headers:?}");
        }
        let mut cross = HeaderMap::new();
        cross.insert(SEC_FETCH_SITE, "cross-site".parse().unwrap());
        assert_eq!(check(&Method::GET, &cross), Ok(()), "a link from another site may lead here");
        assert_eq!(check(&Method::DELETE, &cross), Err(Foreign::Site));
    }

    #[test]
    fn names_that_are_not_ours_lead_nowhere() {
        let names = ["ctl.example.com".to_owned()];
        for good in ["localhost", "LOCALHOST:8480", "127.0.0.1:8480", "[::1]:8480", "[::1]", "ctl.example.com:443"] {
            assert!(is_ours(Some(good), &names), "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example:8480", "", "127.0.0.1.evil.example", "ctl.example.com.evil"]
        {
            assert!(!is_ours(Some(bad), &names), "{bad}");
        }
        assert!(!is_ours(None, &names));
    }
}
