//! What a person typed, understood (pure).

use agentd_protocol::edge::matching::host_name;

/// An address, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// As typed, without scheme and port; `None`: a path alone.
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    /// With its leading `/`, without query.
    pub(super) path: String,
    /// Whether a path was given at all.
    pub(super) form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `api`, `api.svc.internal`
    Name,
    /// `/api/x`, `example.com/x`, `http://...`
    Address,
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| {
            format!("`{text}` {why}; give a name (api), a URL (http://api.svc.internal/x) or a path (/api)")
        };
        if text.is_empty() || text.chars().any(|letter| letter.is_control() || letter == ' ') {
            return Err(bad("is no address"));
        }
        let (rest, scheme) = match text.split_once("://") {
            Some(("http" | "HTTP", rest)) => (rest, true),
            Some(("https" | "HTTPS", _)) => return Err(bad("is encrypted, and the proxy speaks plain HTTP")),
            Some(_) => return Err(bad("is no HTTP address")),
            None => (text, false),
        };
        let start = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(start);
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let form = if scheme || !path.is_empty() { Form::Address } else { Form::Name };
        let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
        if authority.is_empty() {
            return if scheme { Err(bad("names no host")) } else { Ok(Self { host: None, port: None, path, form }) };
        }
        let host = host_name(authority);
        let port = match authority.rsplit_once(':') {
            Some((_, digits)) if !digits.ends_with(']') => {
                Some(digits.parse().map_err(|_| bad("has no port number after its colon"))?)
            }
            Some(_) | None => None,
        };
        Ok(Self { host: Some(host.to_owned()), port, path, form })
    }

    /// The service's own label, where the address is one from within: `api`, `api.svc.internal`.
    pub(super) fn internal_label(&self, suffix: &str, services: impl Fn(&str) -> Known) -> Option<String> {
        let host = self.host.as_ref()?.to_ascii_lowercase();
        if let Some((label, rest)) = host.split_once('.') {
            return (rest == suffix).then(|| label.to_owned());
        }
        // A name without dots is a service's where there is one, or where nothing but the name was asked for.
        (self.form == Form::Name || services(&host) == Known::Yes).then_some(host)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Option<String>, Option<u16>, String) {
        let Target { host, port, path, .. } = Target::parse(text).unwrap();
        (host, port, path)
    }

    #[test]
    fn addresses_are_taken_apart() {
        let host = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            ("api", (host("api"), None, "/")),
            ("api.svc.internal", (host("api.svc.internal"), None, "/")),
            ("http://api.svc.internal:8081/x?y=1#z", (host("api.svc.internal"), Some(8081), "/x")),
            ("http://Example.COM.", (host("Example.COM"), None, "/")),
            ("example.com/a/b", (host("example.com"), None, "/a/b")),
            ("/api/x?q", (None, None, "/api/x")),
            ("http://[::1]:8080/x", (host("[::1]"), Some(8080), "/x")),
            ("http://[::1]/x", (host("[::1]"), None, "/x")),
        ] {
            let (host, port, path) = expected;
            assert_eq!(parsed(text), (host, port, path.to_owned()), "{text}");
        }
        for bad in ["", "a b", "https://x/", "ftp://x/", "http:///x", "api:port"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_from_within_is_told_from_a_host_outside() {
        let label = |text: &str| {
            let known = |name: &str| if name == "api" { Known::Yes } else { Known::No };
            Target::parse(text).unwrap().internal_label("svc.internal", known)
        };
        assert_eq!(label("api").as_deref(), Some("api"));
        assert_eq!(label("API.svc.internal").as_deref(), Some("api"));
        assert_eq!(label("nobody").as_deref(), Some("nobody"));
        assert_eq!(label("nobody.svc.internal").as_deref(), Some("nobody"));
        assert_eq!(label("http://api/x").as_deref(), Some("api"));
        assert_eq!(label("http://localhost/x"), None, "no service is called so");
        assert_eq!(label("example.com"), None);
        assert_eq!(label("/api"), None);
    }
}
