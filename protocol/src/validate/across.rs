//! What no two services may both have.

use std::collections::{BTreeMap, BTreeSet};

use super::open::{Flaw, Problems, quote};
use super::{Locus, ProxyDraft, named};
use crate::ids::ServiceName;
use crate::keys::nearest_word;
use crate::order;

/// What one service takes for itself, as far as it was readable.
#[derive(Debug, Default)]
pub(super) struct Claim {
    pub(super) index: usize,
    pub(super) name: Option<ServiceName>,
    pub(super) port: Option<u16>,
    pub(super) host: Option<String>,
    /// Only when it is routed from outside.
    pub(super) path: Option<String>,
    pub(super) depends_on: Vec<ServiceName>,
}

impl Claim {
    fn note(&self, leaf: &str, flaw: Flaw, problems: &mut Problems) {
        problems.note(format!("/service/{}/{leaf}", self.index), format!("service.{leaf}"), flaw, Locus::Value);
    }
}

pub(super) fn check(claims: &[Claim], proxy: &ProxyDraft, problems: &mut Problems) {
    let mut names = BTreeMap::new();
    let mut ports = BTreeMap::new();
    let mut routes = BTreeMap::new();
    for claim in claims {
        if let Some(name) = &claim.name {
            let first: &Claim = names.entry(name).or_insert(claim);
            if first.index != claim.index {
                let found = format!("{}, the name of service number {} too", quote(name.as_str()), first.index + 1);
                claim.note("name", Flaw::plain(found, "a name no other service has"), problems);
            }
        }
        if let Some(port) = claim.port {
            let first: &Claim = ports.entry(port).or_insert(claim);
            if proxy.port == Some(port) {
                let flaw = Flaw::plain(format!("{port}, which is `proxy.port`"), "another port");
                claim.note("port", flaw, problems);
            } else if first.index != claim.index {
                let found = format!("{port}, the port of {} too", named(first.name.as_ref(), first.index));
                claim.note("port", Flaw::plain(found, "a port no other service has"), problems);
            }
        }
        if let Some(path) = &claim.path {
            let first: &Claim = routes.entry((&claim.host, path)).or_insert(claim);
            if proxy.health_path.as_ref() == Some(path) {
                let flaw = Flaw::plain(format!("{}, which is `proxy.health_path`", quote(path)), "another path");
                claim.note("path", flaw, problems);
            } else if first.index != claim.index {
                let host = claim.host.as_ref().map_or("any host".to_owned(), |host| format!("host {}", quote(host)));
                let owner = named(first.name.as_ref(), first.index);
                let found = format!("{} on {host}, the route of {owner} too", quote(path));
                claim.note("path", Flaw::plain(found, "a host and path no other service has"), problems);
            }
        }
    }
    dependencies(claims, problems);
}

/// Every name in `depends_on` is a service of this stack, and no service waits for itself.
fn dependencies(claims: &[Claim], problems: &mut Problems) {
    let known: BTreeSet<&ServiceName> = claims.iter().filter_map(|claim| claim.name.as_ref()).collect();
    for claim in claims {
        for needed in claim.depends_on.iter().filter(|needed| !known.contains(needed)) {
            let near = nearest_word(needed.as_str(), known.iter().map(|name| name.as_str()));
            let flaw = Flaw::of(needed.as_str(), "the name of a service of this stack").near(near.map(quote));
            claim.note("depends_on", flaw, problems);
        }
    }
    let needs = claims.iter().filter_map(|claim| Some((claim.name.as_ref()?, claim.depends_on.as_slice()))).collect();
    if let Err(waiting) = order::steps(&needs) {
        let names = waiting.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let first = claims.iter().find(|claim| claim.name.as_ref() == waiting.first().copied());
        let flaw = Flaw::plain(format!("services that wait for each other ({names})"), "an order to start them in");
        first.expect("who waits has a claim").note("depends_on", flaw, problems);
    }
}
