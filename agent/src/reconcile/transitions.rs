//! What is worth an event in the step from one view to the next (pure): documents, snapshots, verdicts on a version.
//! Instances have a file of their own ([`super::lives`]).

use std::collections::{BTreeMap, BTreeSet};

use agentd_protocol::api::{DeployPhase, Problem, What};
use agentd_protocol::edge::{Route, Snapshot};
use agentd_protocol::ids::{InstanceId, ReleaseNumber, ServiceName, Version};

use super::status::DocumentProblems;
use super::worker::is_same;

/// Something that happened and has no number yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) service: Option<ServiceName>,
    pub(super) release: Option<ReleaseNumber>,
    pub(super) instance: Option<InstanceId>,
    /// `None`: now.
    pub(super) at_unix_ms: Option<u64>,
    /// Of the instance's shim, where that told it.
    pub(super) shim_seq: Option<u64>,
    pub(super) what: What,
}

impl Fact {
    pub(super) fn host(what: What) -> Self {
        Self { service: None, release: None, instance: None, at_unix_ms: None, shim_seq: None, what }
    }

    pub(super) fn service(service: &ServiceName, what: What) -> Self {
        Self { service: Some(service.clone()), ..Self::host(what) }
    }
}

/// Of the stack file: what cannot be used, which refs cannot be resolved, and what is good again.
pub(super) fn document(before: &DocumentProblems, after: &DocumentProblems) -> Vec<Fact> {
    let mut facts = Vec::new();
    let known: BTreeMap<_, _> = before.services.iter().map(|problem| (&problem.service, &problem.cause)).collect();
    let open: BTreeSet<_> = after.services.iter().map(|problem| &problem.service).collect();
    let told = before.file.as_ref().map(|problem| &problem.text);
    if let Some(problem) = &after.file
        && told != Some(&problem.text)
    {
        let mut lines = problem.text.lines();
        let first = lines.next().unwrap_or_default();
        let problem = match lines.count() {
            0 => first.to_owned(),
            more => format!("{first} (and {more} more: `agentctl status`)"),
        };
        facts.push(Fact::host(What::ConfigRejected { problem }));
    }
    if let Some(reading) = after.reading
        && after.file.is_none()
        && (before.reading != after.reading || before.file.is_some())
    {
        facts.push(Fact::host(What::ConfigSeen { services: reading.services }));
    }
    for problem in &after.services {
        if known.get(&problem.service) != Some(&&problem.cause) {
            let what = What::ConfigUnresolved { cause: problem.cause.clone() };
            facts.push(Fact { service: problem.service.clone(), ..Fact::host(what) });
        }
    }
    for problem in before.services.iter().filter(|problem| !open.contains(&problem.service)) {
        facts.push(Fact { service: problem.service.clone(), ..Fact::host(What::ConfigResolved {}) });
    }
    facts
}

/// Of the snapshot in force at the edge: routes by the service they lead to, and the names of services.
pub(super) fn snapshot(before: &Snapshot, after: &Snapshot) -> Vec<Fact> {
    let (was, is) = (by_place(before), by_place(after));
    let mut changes: BTreeMap<&ServiceName, [Vec<String>; 3]> = BTreeMap::new();
    for (place, route) in &is {
        let [added, _, changed] = changes.entry(&route.service).or_default();
        match was.get(place) {
            None => added.push(shown(route)),
            Some(old) if old == route => {}
            Some(old) if old.service != route.service => {
                changed.push(format!("{} (was {}'s)", shown(route), old.service));
            }
            Some(_) => changed.push(shown(route)),
        }
    }
    for (_, route) in was.iter().filter(|(place, _)| !is.contains_key(*place)) {
        let [_, removed, _] = changes.entry(&route.service).or_default();
        removed.push(shown(route));
    }
    let changes = changes.into_iter().filter(|(_, lists)| lists.iter().any(|list| !list.is_empty()));
    let mut facts: Vec<Fact> = changes
        .map(|(service, [added, removed, changed])| {
            Fact::service(service, What::RouteChanged { added, removed, changed })
        })
        .collect();
    let (had, has) = (names(before), names(after));
    let added: Vec<String> = has.difference(&had).cloned().collect();
    let removed: Vec<String> = had.difference(&has).cloned().collect();
    if !(added.is_empty() && removed.is_empty()) {
        facts.push(Fact::host(What::DnsChanged { added, removed }));
    }
    facts
}

fn by_place(snapshot: &Snapshot) -> BTreeMap<(Option<&str>, &str), &Route> {
    snapshot.routes.iter().map(|route| ((route.host.as_deref(), route.path.as_str()), route)).collect()
}

fn shown(route: &Route) -> String {
    let host = route.host.as_deref().unwrap_or_default();
    let strip = if route.strip_prefix { " (prefix stripped)" } else { "" };
    format!("{host}{}{strip}", route.path)
}

fn names(snapshot: &Snapshot) -> BTreeSet<String> {
    snapshot.services.iter().map(|service| format!("{}.{}", service.name, snapshot.suffix)).collect()
}

/// Where the newest version stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Standing {
    #[default]
    Unknown,
    Applying(Version),
    Applied(Version),
    /// Nobody works on it any more; this is the first thing that is not as wanted.
    Degraded(Version, Box<Problem>),
}

/// Each verdict is told once per version; a service that tries again does not start the count anew.
pub(super) fn verdict(before: &Standing, after: &Standing) -> Option<Fact> {
    match after {
        Standing::Applied(version) if !matches!(before, Standing::Applied(told) if told == version) => {
            Some(Fact::host(What::ConfigApplied { version: *version }))
        }
        Standing::Degraded(version, problem) if !same_trouble(before, *version, problem) => {
            let cause = match &problem.service {
                Some(service) => format!("{service}: {}", problem.cause),
                None => problem.cause.clone(),
            };
            let what = What::ConfigDegraded { version: *version, cause };
            Some(Fact { service: None, release: problem.release, ..Fact::host(what) })
        }
        Standing::Unknown | Standing::Applying(_) | Standing::Applied(_) | Standing::Degraded(..) => None,
    }
}

fn same_trouble(before: &Standing, version: Version, problem: &Problem) -> bool {
    match before {
        Standing::Degraded(told, old) => *told == version && old.service == problem.service && is_same(old, problem),
        Standing::Unknown | Standing::Applying(_) | Standing::Applied(_) => false,
    }
}

/// A problem of a service that came outside a build or a deploy, told when it is another one than before.
pub(super) fn problem(before: Option<&Problem>, after: &Problem, active: Option<ReleaseNumber>) -> Option<What> {
    if before.is_some_and(|before| is_same(before, after)) {
        return None;
    }
    let cause = after.cause.clone();
    Some(match after.phase {
        DeployPhase::Fetch | DeployPhase::Build => What::BuildFailed { phase: after.phase, cause, duration_ms: None },
        DeployPhase::Document
        | DeployPhase::Start
        | DeployPhase::Health
        | DeployPhase::Route
        | DeployPhase::Drain
        | DeployPhase::Run => What::DeployFailed { from: active, phase: after.phase, cause, duration_ms: None },
    })
}

#[cfg(test)]
mod tests {
    use agentd_protocol::edge::{Absent, ForwardedBy, Service};
    use agentd_protocol::ids::Generation;

    use super::super::status::{FileProblem, Reading};
    use super::super::testing::{commit, name};
    use super::*;

    fn trouble(service: &str, phase: DeployPhase, cause: &str) -> Problem {
        Problem {
            service: Some(name(service)),
            phase,
            cause: cause.into(),
            commit: Some(commit('a')),
            release: None,
            probes: Vec::new(),
            log_tail: Vec::new(),
            why: Default::default(),
            since_unix_ms: 0,
        }
    }

    fn words(facts: &[Fact]) -> Vec<&str> {
        facts.iter().map(|fact| fact.what.word()).collect()
    }

    #[test]
    fn a_document_is_told_when_it_turns_bad_and_when_it_is_good_again() {
        let good = |number| DocumentProblems { reading: Some(Reading { number, services: 2 }), ..Default::default() };
        let file = |text: &str| FileProblem { text: text.into(), since_unix_ms: 1 };
        let bad = |text: &str| DocumentProblems { file: Some(file(text)), ..good(1) };
        let stuck =
            |cause: &str| DocumentProblems { services: vec![trouble("api", DeployPhase::Fetch, cause)], ..good(1) };
        for (before, after, expected) in [
            (DocumentProblems::default(), good(1), vec!["config.seen"]),
            (good(1), good(2), vec!["config.seen"]),
            (good(1), good(1), vec![]),
            (good(1), bad("line 3"), vec!["config.rejected"]),
            (bad("line 3"), bad("line 3"), vec![]),
            (bad("line 3"), bad("line 4"), vec!["config.rejected"]),
            (bad("line 3"), good(1), vec!["config.seen"]),
            (good(1), stuck("no such ref"), vec!["config.unresolved"]),
            (stuck("no such ref"), stuck("no such ref"), vec![]),
            (stuck("no such ref"), stuck("timeout"), vec!["config.unresolved"]),
            (stuck("timeout"), good(1), vec!["config.resolved"]),
        ] {
            assert_eq!(words(&document(&before, &after)), expected, "{before:?} {after:?}");
        }
        let what = &document(&good(1), &bad("s.toml:3: no such key\ns.toml:9: and more"))[0].what;
        let problem = "s.toml:3: no such key (and 1 more: `agentctl status`)".to_owned();
        assert_eq!(*what, What::ConfigRejected { problem });
    }

    fn routes(routes: &[(&str, &str)]) -> Snapshot {
        let route = |(path, service): &(&str, &str)| Route {
            host: None,
            path: (*path).into(),
            strip_prefix: false,
            service: name(service),
        };
        let services: BTreeSet<&str> = routes.iter().map(|(_, service)| *service).collect();
        let service = |service| Service { name: name(service), backends: Vec::new(), absent: Absent::Starting };
        Snapshot {
            generation: Generation(1),
            health_path: None,
            routes: routes.iter().map(route).collect(),
            services: services.into_iter().map(service).collect(),
            suffix: "svc.test".into(),
            client_address: ForwardedBy::Nobody,
        }
    }

    #[test]
    fn routes_and_names_are_told_by_what_became_of_them() {
        let told = |before: &Snapshot, after: &Snapshot| -> Vec<(Option<String>, String)> {
            let facts = snapshot(before, after);
            facts.iter().map(|fact| (fact.service.as_ref().map(ToString::to_string), fact.what.text())).collect()
        };
        let api = || Some("api".to_owned());
        let first = routes(&[("/", "api")]);
        assert_eq!(
            told(&routes(&[]), &first),
            [(api(), "added /".to_owned()), (None, "added api.svc.test".to_owned())]
        );
        assert_eq!(told(&first, &first), []);
        assert_eq!(told(&first, &routes(&[("/v2", "api")])), [(api(), "added /v2; removed /".to_owned())]);
        let mut stripped = first.clone();
        stripped.routes[0].strip_prefix = true;
        assert_eq!(told(&first, &stripped), [(api(), "changed / (prefix stripped)".to_owned())]);
        let moved = told(&routes(&[("/", "old"), ("/x", "api")]), &routes(&[("/", "api"), ("/x", "api")]));
        assert_eq!(moved, [(api(), "changed / (was old's)".to_owned()), (None, "removed old.svc.test".to_owned())]);
    }

    #[test]
    fn a_verdict_is_told_once_per_version() {
        let degraded =
            |version, cause| Standing::Degraded(Version(version), Box::new(trouble("api", DeployPhase::Start, cause)));
        let applied = |version| Standing::Applied(Version(version));
        for (before, after, expected) in [
            (Standing::Unknown, Standing::Applying(Version(1)), None),
            (Standing::Unknown, applied(1), Some("config.applied")),
            (applied(1), applied(1), None),
            (applied(1), applied(2), Some("config.applied")),
            (Standing::Unknown, degraded(1, "x"), Some("config.degraded")),
            (degraded(1, "x"), degraded(1, "x"), None),
            (degraded(1, "x"), degraded(1, "y"), Some("config.degraded")),
            (degraded(1, "x"), degraded(2, "x"), Some("config.degraded")),
            (degraded(1, "x"), applied(1), Some("config.applied")),
        ] {
            let told = verdict(&before, &after);
            assert_eq!(told.as_ref().map(|fact| fact.what.word()), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn the_same_trouble_again_is_no_event() {
        let start = trouble("api", DeployPhase::Start, "x");
        assert_eq!(problem(Some(&start), &Problem { since_unix_ms: 9, ..start.clone() }, None), None);
        let told = |after: &Problem| problem(Some(&start), after, None).map(|what| what.word().to_owned());
        assert_eq!(told(&trouble("api", DeployPhase::Start, "y")).as_deref(), Some("deploy.failed"));
        assert_eq!(told(&trouble("api", DeployPhase::Fetch, "x")).as_deref(), Some("build.failed"));
    }
}
