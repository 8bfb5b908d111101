//! What to publish, from what the file says, what its refs point at and what was published before (pure).
//!
//! The rule throughout: what cannot be known never changes what runs.

use std::collections::BTreeMap;

use agentd_protocol::ids::{Commit, ServiceName};
use agentd_protocol::stack::{Revision, Service, Stack};

use super::Unresolved;
use super::questions::{Question, question};
use crate::store::Refs;

pub(super) type Answers = BTreeMap<Question, Result<Commit, Unresolved>>;

/// What a version holds, and what its commits were resolved from.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) stack: Stack,
    pub(super) refs: Refs,
}

pub(super) struct Decision {
    /// `Err`: publishing would take something away from a service that has to stay as it was; says what.
    pub(super) publish: Result<Published, String>,
    pub(super) unresolved: Vec<(ServiceName, String)>,
    pub(super) stale: Vec<(ServiceName, String)>,
}

/// `answers` holds one for every question of `file`; a missing one counts as not answered yet.
pub(super) fn decide(file: &Stack, answers: &Answers, previous: Option<&Published>) -> Decision {
    let mut stack = Stack { service: Vec::with_capacity(file.service.len()), ..file.clone() };
    let mut refs = Refs::new();
    let (mut unresolved, mut stale, mut carried) = (Vec::new(), Vec::new(), Vec::new());
    for entry in &file.service {
        let (chosen, reference) = match choose(entry, answers, previous) {
            Choice::Take { entry, reference } => (entry, reference),
            Choice::Stale { entry, reference, error } => {
                stale.push((entry.name.clone(), format!("stays at its last commit: {error}")));
                (entry, Some(reference))
            }
            Choice::Carry { entry, reference, error } => {
                unresolved.push((entry.name.clone(), format!("stays as it was before this entry: {error}")));
                carried.push(entry.name.clone());
                (entry, reference)
            }
            Choice::Pending { error } => {
                unresolved.push((entry.name.clone(), format!("not started yet: {error}")));
                continue;
            }
        };
        refs.extend(reference.map(|reference| (chosen.name.clone(), reference)));
        stack.service.push(chosen);
    }
    let publish = match clash(&stack.service, &carried) {
        Some(clash) => Err(clash),
        None => Ok(Published { stack, refs }),
    };
    Decision { publish, unresolved, stale }
}

enum Choice {
    Take {
        entry: Service,
        reference: Option<String>,
    },
    /// The new entry at the old commit.
    Stale {
        entry: Service,
        reference: String,
        error: String,
    },
    /// The old entry whole: its old commit says nothing about another repository or ref.
    Carry {
        entry: Service,
        reference: Option<String>,
        error: String,
    },
    Pending {
        error: String,
    },
}

fn choose(entry: &Service, answers: &Answers, previous: Option<&Published>) -> Choice {
    let Some(question) = question(entry) else {
        return Choice::Take { entry: entry.clone(), reference: None };
    };
    let reference = question.reference.clone();
    let at = |commit: &Commit| Service { source: Revision::Commit(commit.clone()), ..entry.clone() };
    let error = match answers.get(&question) {
        Some(Ok(commit)) => return Choice::Take { entry: at(commit), reference: Some(reference) },
        Some(Err(unresolved)) => unresolved.to_string(),
        None => "its ref is being looked up".to_owned(),
    };
    let old = previous.and_then(|previous| {
        let old = previous.stack.service.iter().find(|old| old.name == entry.name)?;
        Some((old, previous.refs.get(&entry.name)))
    });
    match old {
        None => Choice::Pending { error },
        Some((old, was)) => match &old.source {
            Revision::Commit(commit) if old.repo == entry.repo && was == Some(&reference) => {
                Choice::Stale { entry: at(commit), reference, error }
            }
            Revision::Commit(_) | Revision::Ref(_) => {
                Choice::Carry { entry: old.clone(), reference: was.cloned(), error }
            }
        },
    }
}

/// The file was valid as a whole; an entry carried over from before may want what another one has now.
fn clash(services: &[Service], carried: &[ServiceName]) -> Option<String> {
    let is_carried = |entry: &&Service| carried.contains(&entry.name);
    services.iter().filter(is_carried).find_map(|old| {
        let other = services.iter().filter(|other| other.name != old.name).find(|other| {
            let same_route = old.path.is_some() && old.path == other.path && old.host == other.host;
            same_route || (old.port.is_some() && old.port == other.port)
        })?;
        Some(format!(
            "nothing of the file is in force: the ref of `{}` cannot be resolved, and what the service has until then \
             (its path or port) is given to `{}`",
            old.name, other.name
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{commit, name, service, stack};

    fn by_ref(label: &str, reference: &str) -> Service {
        Service { source: Revision::Ref(reference.to_owned()), ..service(label) }
    }

    fn answer(entry: &Service, answer: Result<Commit, &str>) -> Answers {
        let failed = |text: &str| Unresolved { text: text.to_owned() };
        [(question(entry).unwrap(), answer.map_err(failed))].into()
    }

    fn published(file: &Stack, answers: &Answers) -> Published {
        decide(file, answers, None).publish.unwrap_or_else(|clash| panic!("{clash}"))
    }

    fn commits(decision: &Decision) -> Vec<(&str, Revision)> {
        let Ok(published) = &decision.publish else { return Vec::new() };
        published.stack.service.iter().map(|entry| (entry.name.as_str(), entry.source.clone())).collect()
    }

    #[test]
    fn refs_become_commits_and_are_remembered() {
        let api = by_ref("api", "main");
        let file = stack(vec![api.clone(), service("web")]);
        let decision = decide(&file, &answer(&api, Ok(commit('a'))), None);
        assert_eq!(
            commits(&decision),
            [("api", Revision::Commit(commit('a'))), ("web", Revision::Commit(commit('1')))]
        );
        assert_eq!(decision.publish.ok().unwrap().refs, Refs::from([(name("api"), "main".to_owned())]));
    }

    #[test]
    fn a_new_service_without_a_commit_waits_alone() {
        let api = by_ref("api", "main");
        let file = stack(vec![api.clone(), service("web")]);
        let decision = decide(&file, &answer(&api, Err("no route to host")), None);
        assert_eq!(commits(&decision), [("web", Revision::Commit(commit('1')))]);
        assert_eq!(decision.unresolved, [(name("api"), "not started yet: no route to host".to_owned())]);
    }

    #[test]
    fn a_known_ref_keeps_its_commit_under_the_new_entry() {
        let api = by_ref("api", "main");
        let previous = published(&stack(vec![api.clone()]), &answer(&api, Ok(commit('a'))));
        let edited = Service { replicas: 3, ..api };
        let decision = decide(&stack(vec![edited.clone()]), &answer(&edited, Err("timeout")), Some(&previous));
        assert_eq!(commits(&decision), [("api", Revision::Commit(commit('a')))]);
        assert_eq!(decision.stale.len(), 1);
        let publish = decision.publish.ok().unwrap();
        assert_eq!((publish.stack.service[0].replicas, publish.refs), (3, previous.refs));
    }

    #[test]
    fn a_wrong_new_ref_leaves_a_known_service_as_it_was() {
        let api = by_ref("api", "main");
        let previous = published(&stack(vec![api.clone()]), &answer(&api, Ok(commit('a'))));
        for edited in [
            Service { replicas: 3, ..by_ref("api", "mian") },
            Service { repo: "https://git.example.com/other".into(), ..api.clone() },
        ] {
            let file = stack(vec![edited.clone(), service("web")]);
            let decision = decide(&file, &answer(&edited, Err("no such ref")), Some(&previous));
            assert_eq!(decision.unresolved.len(), 1);
            let publish = decision.publish.ok().unwrap();
            assert_eq!(publish.stack.service[0], previous.stack.service[0]);
            assert_eq!((publish.stack.service.len(), publish.refs), (2, previous.refs.clone()));
        }
    }

    #[test]
    fn nothing_is_published_that_takes_a_carried_services_path_or_port() {
        let api = Service { port: Some(3000), ..by_ref("api", "main") };
        let previous = published(&stack(vec![api.clone()]), &answer(&api, Ok(commit('a'))));
        let edited = Service { path: Some("/v1".into()), port: None, ..by_ref("api", "mian") };
        for other in
            [Service { path: Some("/api".into()), ..service("web") }, Service { port: Some(3000), ..service("web") }]
        {
            let file = stack(vec![edited.clone(), other]);
            let decision = decide(&file, &answer(&edited, Err("no such ref")), Some(&previous));
            assert!(decision.publish.err().unwrap().contains("`web`"));
        }
    }

    #[test]
    fn a_pinned_commit_needs_no_answer() {
        let decision = decide(&stack(vec![service("api")]), &Answers::new(), None);
        assert!(decision.publish.ok().unwrap().refs.is_empty());
    }
}
