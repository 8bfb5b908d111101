//! Which service a request belongs to: exact host before any host, then the longest path, on segment boundaries. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;

use agentd_protocol::edge::Route;
use agentd_protocol::edge::matching::host_name;
use agentd_protocol::ids::ServiceName;

use super::Error;
use super::errors::Fault;

/// Longest host that can match, bytes: a DNS name's text form (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// Which of our listeners a connection came in by; what may be reached depends on it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// By host and path to the services that are public.
    External,
    /// By the service's name in Host, whatever the path; for this host's own programs.
    Internal,
}

impl Entrance {
    /// The internal listener is bound to loopback; should it ever be not, nobody else is let in.
    pub(super) fn admits(self, peer: SocketAddr) -> bool {
        match self {
            Self::External => true,
            Self::Internal => peer.ip().to_canonical().is_loopback(),
        }
    }

    pub(super) fn unknown(self) -> Fault {
        match self {
            Self::External => Fault::NoRoute,
            Self::Internal => Fault::NoName,
        }
    }
}

/// The names services have for each other: `<service>.<suffix>` and `<service>` alone.
#[derive(Debug, Default)]
pub struct Names {
    suffix: Box<str>,
    /// Positions in the snapshot's list.
    services: HashMap<Box<str>, usize>,
}

impl Names {
    pub fn build<'a>(suffix: &str, services: impl Iterator<Item = &'a ServiceName>) -> Self {
        let services = services.enumerate().map(|(position, name)| (name.as_str().into(), position));
        Self { suffix: suffix.into(), services: services.collect() }
    }

    /// `host` as the client sent it: port, case and a trailing dot are ignored. Allocates nothing.
    pub fn lookup(&self, host: Option<&str>) -> Option<Match> {
        let mut lower = [0; HOST_BYTES_MAX];
        let name = lower_name(host?, &mut lower)?;
        let service = match name.split_once('.') {
            Some((service, suffix)) if *suffix == *self.suffix => service,
            Some(_) => return None,
            None => name,
        };
        self.services.get(service).map(|position| Match { service: *position, strip_bytes: 0 })
    }
}

/// All external routes of one snapshot.
#[derive(Debug, Default)]
pub struct Routes {
    hosts: HashMap<Box<str>, Prefixes>,
    any: Prefixes,
}

/// What a request matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Position of the service in the snapshot's list.
    pub service: usize,
    /// Bytes to take off the front of the path before it goes to the backend.
    pub strip_bytes: usize,
}

#[derive(Debug, Default)]
struct Prefixes {
    by_path: HashMap<Box<str>, Match>,
    longest_bytes: usize,
}

impl Routes {
    /// `position` finds a service's place in the snapshot.
    pub fn build(routes: &[Route], position: impl Fn(&Route) -> Option<usize>) -> Result<Self, Error> {
        let mut table = Self::default();
        for route in routes {
            let service = position(route).ok_or_else(|| Error::UnknownService { name: route.service.clone() })?;
            check(route)?;
            let prefixes = match &route.host {
                Some(host) => table.hosts.entry(host.as_str().into()).or_default(),
                None => &mut table.any,
            };
            prefixes.insert(route, service)?;
        }
        Ok(table)
    }

    /// `host` as the client sent it: port, case and a trailing dot are ignored. Allocates nothing.
    pub fn lookup(&self, host: Option<&str>, path: &str) -> Option<Match> {
        let exact = host.and_then(|host| self.with_host(host)).and_then(|prefixes| prefixes.longest_match(path));
        exact.or_else(|| self.any.longest_match(path))
    }

    fn with_host(&self, host: &str) -> Option<&Prefixes> {
        if self.hosts.is_empty() {
            return None;
        }
        let mut lower = [0; HOST_BYTES_MAX];
        self.hosts.get(lower_name(host, &mut lower)?)
    }
}

impl Prefixes {
    fn insert(&mut self, route: &Route, service: usize) -> Result<(), Error> {
        let strip_bytes = if route.strip_prefix && route.path != "/" { route.path.len() } else { 0 };
        self.longest_bytes = self.longest_bytes.max(route.path.len());
        match self.by_path.insert(route.path.as_str().into(), Match { service, strip_bytes }) {
            None => Ok(()),
            Some(_) => Err(Error::DuplicateRoute { host: route.host.clone(), path: route.path.clone() }),
        }
    }

    /// Tries the path and its parents, longest first; nothing longer than the longest route is hashed.
    fn longest_match(&self, path: &str) -> Option<Match> {
        let bytes = path.as_bytes();
        let mut end = bytes.len();
        loop {
            if end <= self.longest_bytes
                && let Some(found) = path.get(..end).and_then(|prefix| self.by_path.get(prefix))
            {
                return Some(*found);
            }
            end = bytes[..end].iter().rposition(|byte| *byte == b'/')?;
            if end == 0 {
                return self.by_path.get("/").copied();
            }
        }
    }
}

/// [`host_name`] in lower case; `None` for what is too long to be one.
fn lower_name<'a>(host: &str, space: &'a mut [u8; HOST_BYTES_MAX]) -> Option<&'a str> {
    let name = host_name(host);
    let lower = space.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

fn check(route: &Route) -> Result<(), Error> {
    let path = route.path.as_str();
    if !path.starts_with('/') || (path != "/" && path.ends_with('/')) {
        return Err(Error::BadRoutePath { path: path.into() });
    }
    match &route.host {
        Some(host) if host.is_empty() || host_name(host) != host || host.bytes().any(|b| b.is_ascii_uppercase()) => {
            Err(Error::BadRouteHost { host: host.clone() })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::edge::{Absent, Service, matching};
    use proptest::prelude::*;

    use super::*;

    fn route(host: Option<&str>, path: &str) -> Route {
        Route {
            host: host.map(Into::into),
            path: path.into(),
            strip_prefix: true,
            service: ServiceName::new("x").unwrap(),
        }
    }

    /// Each route leads to the service of its own position.
    fn table(routes: &[Route]) -> Routes {
        Routes::build(routes, |wanted| routes.iter().position(|route| std::ptr::eq(route, wanted))).unwrap()
    }

    #[test]
    fn exact_host_beats_any_then_the_longest_path_wins() {
        let routes = [
            route(None, "/"),
            route(None, "/api"),
            route(None, "/api/v2"),
            route(Some("a.test"), "/"),
            route(Some("b.test"), "/only"),
            route(Some("[::1]"), "/"),
        ];
        let table = table(&routes);
        for (host, path, service) in [
            (None, "/", 0),
            (None, "/api", 1),
            (None, "/api/", 1),
            (None, "/api/x", 1),
            (None, "/apix", 0),
            (None, "/api/v2", 2),
            (None, "/api/v2/deep/er", 2),
            (None, "/api/v22", 1),
            (Some("a.test"), "/api/v2", 3),
            (Some("A.Test:8080"), "/", 3),
            (Some("a.test."), "/", 3),
            (Some("a.test.:80"), "/", 3),
            (Some("b.test"), "/only/this", 4),
            (Some("b.test"), "/other", 0),
            (Some("c.test"), "/", 0),
            (Some("[::1]:8080"), "/x", 5),
            (Some(&"a".repeat(400)), "/", 0),
        ] {
            assert_eq!(table.lookup(host, path).map(|found| found.service), Some(service), "{host:?} {path}");
        }
    }

    #[test]
    fn nothing_matches_without_a_root() {
        let routes = [route(None, "/api")];
        let table = table(&routes);
        assert_eq!(table.lookup(None, "/"), None);
        assert_eq!(table.lookup(None, "/other"), None);
        assert_eq!(table.lookup(None, "/api/x"), Some(Match { service: 0, strip_bytes: 4 }));
    }

    #[test]
    fn bad_routes_are_refused() {
        let build = |routes: &[Route]| Routes::build(routes, |_| Some(0)).unwrap_err();
        assert!(matches!(build(&[route(None, "/a"), route(None, "/a")]), Error::DuplicateRoute { .. }));
        assert!(matches!(build(&[route(None, "a")]), Error::BadRoutePath { .. }));
        assert!(matches!(build(&[route(None, "/a/")]), Error::BadRoutePath { .. }));
        assert!(matches!(build(&[route(Some("A.test"), "/")]), Error::BadRouteHost { .. }));
        assert!(matches!(build(&[route(Some("a.test:80"), "/")]), Error::BadRouteHost { .. }));
        assert!(matches!(Routes::build(&[route(None, "/")], |_| None).unwrap_err(), Error::UnknownService { .. }));
    }

    #[test]
    fn names_are_the_host_alone() {
        let [api, web] = ["api", "web-2"].map(|name| ServiceName::new(name).unwrap());
        let names = Names::build("svc.internal", [&api, &web].into_iter());
        let at = |host| names.lookup(host).map(|found| (found.service, found.strip_bytes));
        for host in
            ["api.svc.internal", "API.Svc.INTERNAL.", "api.svc.internal:8081", "api.svc.internal.:1", "api", "Api:80"]
        {
            assert_eq!(at(Some(host)), Some((0, 0)), "{host}");
        }
        assert_eq!(at(Some("web-2.svc.internal")), Some((1, 0)));
        let long = format!("{}.svc.internal", "a".repeat(300));
        for host in [
            "",
            ".",
            "svc.internal",
            ".svc.internal",
            "apii",
            "x.api.svc.internal",
            "api.svc.internal.com",
            "api.svc",
            "apisvc.internal",
            "api.svc.internal..",
            "127.0.0.1",
            "[::1]:8081",
            &long,
        ] {
            assert_eq!(at(Some(host)), None, "{host}");
        }
        assert_eq!(at(None), None);
        assert_eq!(Names::default().lookup(Some("api")), None);
    }

    #[test]
    fn only_loopback_is_let_in_from_within() {
        for (peer, admitted) in [
            ("127.0.0.1:9", true),
            ("127.8.8.8:9", true),
            ("[::1]:9", true),
            ("[::ffff:127.0.0.1]:9", true),
            ("10.0.0.1:9", false),
            ("[fe80::1]:9", false),
        ] {
            let peer: SocketAddr = peer.parse().unwrap();
            assert_eq!(Entrance::Internal.admits(peer), admitted, "{peer}");
            assert!(Entrance::External.admits(peer), "{peer}");
        }
    }

    fn a_path() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "ab", "b", ""]), 0..4)
            .prop_map(|segments| format!("/{}", segments.join("/")))
    }

    fn a_host() -> impl Strategy<Value = Option<String>> {
        prop::option::of(prop::sample::select(vec!["a.test", "b.test", "c"]).prop_map(String::from))
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_the_plain_rule(
            keys in prop::collection::btree_set((a_host(), a_path()), 0..12),
            host in a_host(),
            decoration in prop::sample::select(vec!["", ".", ":80", ".:80"]),
            path in a_path(),
        ) {
            let routes: Vec<Route> = keys.iter()
                .filter(|(_, path)| path == "/" || !path.ends_with('/'))
                .map(|(host, path)| route(host.as_deref(), path))
                .collect();
            let sent = host.map(|host| format!("{}{decoration}", host.to_uppercase()));
            let found = table(&routes).lookup(sent.as_deref(), &path).map(|found| found.service);
            prop_assert_eq!(found, matching::external(&routes, sent.as_deref(), &path));
        }

        #[test]
        fn names_agree_with_the_plain_rule(
            labels in prop::collection::btree_set("[ab][a-c0-9-]?[a-c]", 0..6),
            host in prop_oneof![
                "[abAB][a-c0-9-]?[a-cA-C](\\.svc\\.internal|\\.SVC\\.internal|\\.svc|\\.other)?\\.?(:80)?",
                Just(String::new()),
                Just("svc.internal".to_owned()),
            ],
        ) {
            let services: Vec<Service> = labels.iter()
                .map(|label| Service {
                    name: ServiceName::new(label.clone()).unwrap(),
                    backends: Vec::new(),
                    absent: Absent::Starting,
                })
                .collect();
            let names = Names::build("svc.internal", services.iter().map(|service| &service.name));
            let found = names.lookup(Some(&host)).map(|found| found.service);
            prop_assert_eq!(found, matching::internal(&services, "svc.internal", &host));
        }
    }
}
