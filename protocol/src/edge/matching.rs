//! Which route or service a request belongs to, said once and plainly. The edge has a faster form for its own use, which a
//! test compares with this one on random tables.

use std::cmp::Reverse;

use super::{Route, Service, Snapshot};

/// The host without port and trailing dot; an IPv6 literal keeps its brackets.
pub fn host_name(host: &str) -> &str {
    let name = match host.rfind(']') {
        Some(bracket) => &host[..=bracket],
        None => host.split(':').next().unwrap_or(host),
    };
    name.strip_suffix('.').unwrap_or(name)
}

impl Route {
    /// `host` as the client sent it, `path` without its query.
    pub fn fits(&self, host: Option<&str>, path: &str) -> bool {
        let host_fits = match &self.host {
            None => true,
            Some(wanted) => host.is_some_and(|host| host_name(host).eq_ignore_ascii_case(wanted)),
        };
        let path_fits = self.path == "/"
            || path.strip_prefix(self.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        host_fits && path_fits
    }
}

/// An exact host beats any host, then the longest path wins. Position in `routes`.
pub fn external(routes: &[Route], host: Option<&str>, path: &str) -> Option<usize> {
    let fitting = routes.iter().enumerate().filter(|(_, route)| route.fits(host, path));
    fitting.max_by_key(|(_, route)| (route.host.is_some(), route.path.len())).map(|(position, _)| position)
}

/// `<service>.<suffix>` or `<service>` alone, whatever the path. Position in `services`.
pub fn internal(services: &[Service], suffix: &str, host: &str) -> Option<usize> {
    let name = host_name(host).to_ascii_lowercase();
    let service = match name.split_once('.') {
        Some((service, rest)) if rest == suffix => service,
        Some(_) => return None,
        None => name.as_str(),
    };
    services.iter().position(|known| known.name.as_str() == service)
}

impl Snapshot {
    /// The routes in the order in which they are tried.
    pub fn routes_in_match_order(&self) -> Vec<Route> {
        let mut routes = self.routes.clone();
        routes.sort_by(|a, b| {
            let key = |route: &Route| {
                (route.host.is_none(), route.host.clone(), Reverse(route.path.len()), route.path.clone())
            };
            key(a).cmp(&key(b))
        });
        routes
    }
}
