//! What applying a stack would do, service by service (pure): removals first, then changes, then additions.

use std::collections::BTreeMap;

use agentd_protocol::api::{Plan, PlanAct, PlanStep};
use agentd_protocol::ids::{Commit, ReleaseNumber, ServiceName, Version};
use agentd_protocol::stack::{Revision, Service, Stack};

/// What is known of a service before.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) name: ServiceName,
    pub(super) active: Option<(ReleaseNumber, Commit, Service)>,
    pub(super) pinned: Option<ReleaseNumber>,
    pub(super) stopped: bool,
    pub(super) removed: bool,
}

pub(super) fn plan(known: &[Known], wanted: &Stack, version: Option<Version>) -> Plan {
    let mut steps: Vec<PlanStep> = known
        .iter()
        .filter(|service| !service.removed && wanted.service.iter().all(|entry| entry.name != service.name))
        .map(|service| {
            let why = "is no longer in the document: unrouted, drained, stopped; its data stays until `agentctl prune`";
            step(&service.name, PlanAct::Remove, why.to_owned())
        })
        .collect();
    let mut changes = Vec::new();
    let mut additions = Vec::new();
    for entry in &wanted.service {
        match known.iter().find(|service| service.name == entry.name && !service.removed) {
            Some(service) => changes.extend(change(service, entry)),
            None => additions.push(step(&entry.name, PlanAct::Add, added(entry))),
        }
    }
    steps.append(&mut changes);
    steps.append(&mut additions);
    let notes = [kept(known, wanted), notes(wanted, &steps)].concat();
    Plan { version, steps, notes }
}

/// Puts the commit a ref had at its last look-up in the ref's place, where repository and ref are the same.
pub(super) fn with_known_commits(mut stack: Stack, latest: &Stack, refs: &BTreeMap<ServiceName, String>) -> Stack {
    for entry in &mut stack.service {
        let before = latest.service.iter().find(|known| known.name == entry.name && known.repo == entry.repo);
        if let (Some(before), Revision::Ref(name)) = (before, &entry.source)
            && refs.get(&entry.name) == Some(name)
        {
            entry.source = before.source.clone();
        }
    }
    stack
}

fn step(service: &ServiceName, act: PlanAct, why: String) -> PlanStep {
    PlanStep { service: service.clone(), act, why }
}

fn added(entry: &Service) -> String {
    let place = match (&entry.host, &entry.path) {
        (Some(host), Some(path)) => format!("routed at {host}{path}"),
        (None, Some(path)) => format!("routed at {path}"),
        (_, None) => "not routed from outside".to_owned(),
    };
    format!("new: fetch, {}start, {place}", if entry.build.is_some() { "build, " } else { "" })
}

fn change(service: &Known, entry: &Service) -> Option<PlanStep> {
    let name = &service.name;
    if service.stopped || service.pinned.is_some() {
        return None;
    }
    let Some((release, commit, active)) = &service.active else {
        return Some(step(name, PlanAct::Build, "has no working release yet".to_owned()));
    };
    let new = match &entry.source {
        Revision::Commit(new) => new,
        Revision::Ref(name) => {
            return Some(step(&service.name, PlanAct::Build, format!("follows {name}, whose commit is not known yet")));
        }
    };
    if new != commit || active.build != entry.build || active.dir != entry.dir || active.repo != entry.repo {
        let why = if new == commit {
            "other build settings".to_owned()
        } else {
            format!("{} → {}", commit.short(), new.short())
        };
        return Some(step(name, PlanAct::Build, why));
    }
    let differing = differences(active, entry);
    if differing.is_empty() {
        return None;
    }
    let act = match differing.iter().map(|(act, _)| *act).collect::<Vec<_>>() {
        acts if acts.contains(&PlanAct::Replace) => PlanAct::Replace,
        acts if acts.contains(&PlanAct::Scale) => PlanAct::Scale,
        _ => PlanAct::Route,
    };
    let keys: Vec<&str> = differing.iter().map(|(_, key)| *key).collect();
    Some(step(name, act, format!("{} changed, release {release} is built already", keys.join(", "))))
}

/// The keys that differ, with what each asks for.
fn differences(old: &Service, new: &Service) -> Vec<(PlanAct, &'static str)> {
    let replace = PlanAct::Replace;
    let route = PlanAct::Route;
    [
        (old.run != new.run, replace, "run"),
        (old.root != new.root, replace, "root"),
        (old.fallback != new.fallback, replace, "fallback"),
        (old.port != new.port, replace, "port"),
        (old.kind != new.kind, replace, "kind"),
        (old.env != new.env, replace, "env"),
        (old.env_file != new.env_file, replace, "env_file"),
        (old.health != new.health, replace, "health"),
        (old.start_deadline != new.start_deadline, replace, "health.start_deadline"),
        (old.restart != new.restart, replace, "restart"),
        (old.stop != new.stop, replace, "stop"),
        (old.replicas != new.replicas, PlanAct::Scale, "replicas"),
        (old.host != new.host, route, "host"),
        (old.path != new.path, route, "path"),
        (old.strip_prefix != new.strip_prefix, route, "strip_prefix"),
        (old.public != new.public, route, "public"),
        (old.drain != new.drain, route, "drain"),
    ]
    .into_iter()
    .filter(|(differs, ..)| *differs)
    .map(|(_, act, key)| (act, key))
    .collect()
}

/// What a person has settled, which no document changes.
fn kept(known: &[Known], wanted: &Stack) -> Vec<String> {
    let is_wanted = |service: &&Known| !service.removed && wanted.service.iter().any(|e| e.name == service.name);
    let note = |Known { name, pinned, stopped, .. }: &Known| match (stopped, pinned) {
        (true, _) => Some(format!("{name}: stays stopped until `agentctl start {name}`")),
        (false, Some(pinned)) => Some(format!("{name}: stays at release {pinned} until `agentctl unpin {name}`")),
        (false, None) => None,
    };
    known.iter().filter(is_wanted).filter_map(note).collect()
}

fn notes(wanted: &Stack, steps: &[PlanStep]) -> Vec<String> {
    let names: Vec<ServiceName> = wanted.service.iter().map(|entry| entry.name.clone()).collect();
    let mut notes = Vec::new();
    for entry in &wanted.service {
        for variable in super::environment::overridden(entry.env.keys(), &names) {
            notes.push(format!("{}: env.{variable} overrides the one agentd sets", entry.name));
        }
        let replaced =
            |step: &PlanStep| step.service == entry.name && matches!(step.act, PlanAct::Build | PlanAct::Replace);
        if let Some(port) = entry.port.filter(|_| steps.iter().any(replaced)) {
            notes.push(format!(
                "{}: fixed port {port}, so the new release starts after the old one has stopped; requests wait meanwhile",
                entry.name
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use agentd_protocol::stack::{Proxy, SCHEMA, Span, StackSection};

    use super::super::testing::entry;
    use super::*;

    fn stack(service: Vec<Service>) -> Stack {
        Stack {
            schema: SCHEMA,
            stack: StackSection { name: ServiceName::new("s").unwrap(), poll_interval: Span::from_secs(15) },
            proxy: Proxy { port: 8080, health_path: None },
            security: None,
            service,
        }
    }

    fn known(entry: Service) -> Known {
        let Revision::Commit(commit) = entry.source.clone() else { panic!("resolved above") };
        let name = entry.name.clone();
        let active = Some((ReleaseNumber(1), commit, entry));
        Known { name, active, pinned: None, stopped: false, removed: false }
    }

    #[test]
    fn removals_come_first_and_equal_services_not_at_all() {
        let before = [known(entry("gone", 'a')), known(entry("same", 'a')), known(entry("moved", 'a'))];
        let wanted = stack(vec![entry("new", 'a'), entry("moved", 'b'), entry("same", 'a')]);
        let acts: Vec<_> =
            plan(&before, &wanted, None).steps.into_iter().map(|s| (s.service.to_string(), s.act)).collect();
        assert_eq!(
            acts,
            [("gone".into(), PlanAct::Remove), ("moved".into(), PlanAct::Build), ("new".into(), PlanAct::Add)]
        );
    }

    #[test]
    fn only_what_a_program_sees_replaces_it() {
        type Edit = fn(&mut Service);
        let cases: [(Edit, PlanAct); 4] = [
            (|e| e.path = Some("/other".into()), PlanAct::Route),
            (|e| e.replicas = 3, PlanAct::Scale),
            (|e| e.run = Some("y".into()), PlanAct::Replace),
            (|e| e.build = Some("make".into()), PlanAct::Build),
        ];
        for (edit, act) in cases {
            let mut changed = entry("a", 'a');
            edit(&mut changed);
            let steps = plan(&[known(entry("a", 'a'))], &stack(vec![changed]), None).steps;
            assert_eq!(steps.len(), 1);
            assert_eq!(steps[0].act, act);
        }
    }

    #[test]
    fn what_a_person_settled_is_a_note_and_no_step() {
        let mut stopped = Known { stopped: true, ..known(entry("a", 'a')) };
        let wanted = stack(vec![entry("a", 'b')]);
        let with_plan = plan(std::slice::from_ref(&stopped), &wanted, None);
        assert_eq!(
            (with_plan.steps.len(), with_plan.notes[0].as_str()),
            (0, "a: stays stopped until `agentctl start a`")
        );
        stopped = Known { stopped: false, pinned: Some(ReleaseNumber(4)), ..stopped };
        let with_plan = plan(&[stopped], &wanted, None);
        assert_eq!(with_plan.notes, ["a: stays at release 4 until `agentctl unpin a`"]);
        assert!(with_plan.steps.is_empty());
    }

    #[test]
    fn a_fixed_port_is_noted_when_it_is_replaced() {
        let fixed = |commit| Service { port: Some(3000), ..entry("a", commit) };
        assert!(plan(&[known(fixed('a'))], &stack(vec![fixed('a')]), None).notes.is_empty());
        assert_eq!(plan(&[known(fixed('a'))], &stack(vec![fixed('b')]), None).notes.len(), 1);
    }

    #[test]
    fn overrides_are_said() {
        let mut changed = entry("a", 'a');
        changed.env.insert("PORT".into(), "1".into());
        let notes = plan(&[], &stack(vec![changed]), None).notes;
        assert_eq!(notes, ["a: env.PORT overrides the one agentd sets"]);
    }
}
