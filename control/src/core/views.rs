//! What is in memory, as people see it. A silent host is never said to be stopped: it is silent, and since when.

use std::collections::BTreeSet;

use agentd_protocol::api::{ServiceState, Verdict};
use agentd_protocol::control::ids::StackId;
use agentd_protocol::control::report::Snapshot;
use agentd_protocol::ids::{ServiceName, Version};

use super::fleet::{Fleet, HostNow, StackNow};
use super::{Control, Error};
use crate::clock;
use crate::model::*;
use crate::store::StoredStanding;

/// A host that has not reported for two and a half times its interval, and some seconds, is silent.
const INTERVAL_SECS: u64 = 30;
const SILENT_SLACK_MS: u64 = 10_000;
/// Versions a service's page looks at for what changed.
const HISTORY_LOOKED_AT: u32 = 100;
/// Services on their way that are told of one host.
const DOING_MAX: usize = 5;

impl Control {
    pub async fn stacks(&self) -> Result<Vec<StackOverview>, Error> {
        let mut ids: Vec<(String, StackId)> =
            self.fleet().stacks.values().map(|stack| (stack.stored.name.clone(), stack.stored.id.clone())).collect();
        ids.sort();
        let mut overviews = Vec::new();
        for (_, id) in ids {
            overviews.push(self.overview(&id).await?);
        }
        Ok(overviews)
    }

    pub(super) async fn overview(&self, id: &StackId) -> Result<StackOverview, Error> {
        let draft = self.inner.store.draft(id).await?;
        let fleet = self.fleet();
        let stack = fleet.stacks.get(id).ok_or_else(|| Error::not_found(format!("stack {id}")))?;
        let draft_differs = draft.is_some_and(|draft| draft.revision != draft.published);
        Ok(overview_of(&fleet, stack, draft_differs, clock::now_unix_ms()))
    }

    pub async fn stack(&self, id: &StackId) -> Result<StackDetail, Error> {
        let overview = self.overview(id).await?;
        let services = self.service_rows(id).await?;
        Ok(StackDetail { overview, hosts: self.hosts(Some(id)).await?, services })
    }

    async fn service_rows(&self, id: &StackId) -> Result<Vec<ServiceRow>, Error> {
        let newest = self.stored_stack(id)?.last_version;
        let published = self.inner.store.version(id, newest).await?.map(|version| version.services).unwrap_or_default();
        let (fleet, now) = (self.fleet(), clock::now_unix_ms());
        let stack = fleet.stacks.get(id).ok_or_else(|| Error::not_found(format!("stack {id}")))?;
        let hosts = fleet.hosts_of(id);
        let reported = hosts.iter().filter_map(|host| host.snapshot.as_ref()).flat_map(|one| &one.body.services);
        let reported: BTreeSet<&ServiceName> = reported.map(|service| &service.name).collect();
        let is_published = |name: &ServiceName| published.iter().any(|service| service.name == *name);
        let names = published.iter().map(|service| &service.name);
        let names: Vec<&ServiceName> = names.chain(reported.into_iter().filter(|name| !is_published(name))).collect();
        let row = |name: &ServiceName| ServiceRow {
            name: name.clone(),
            published: published.iter().find(|service| service.name == *name).cloned(),
            cells: hosts.iter().filter_map(|host| cell(stack, host, name, now)).collect(),
        };
        Ok(names.into_iter().map(row).collect())
    }

    pub async fn service(&self, id: &StackId, name: &ServiceName) -> Result<ServiceDetail, Error> {
        let rows = self.service_rows(id).await?;
        let row = rows.into_iter().find(|row| row.name == *name);
        let row = row.ok_or_else(|| Error::not_found(format!("service {name}")))?;
        let newest = self.stored_stack(id)?.last_version;
        let content = self.open_version(id, newest).await?;
        let services = content.iter().flat_map(|(_, stack)| &stack.service);
        let env = services.filter(|service| service.name == *name).flat_map(|service| service.env.keys().cloned());
        let versions = self.versions(id, None, HISTORY_LOOKED_AT).await?;
        let (plain, changed) = (format!("{name} "), format!("{name}: "));
        let is_about = |line: &String| line.starts_with(&plain) || line.starts_with(&changed);
        let history = versions.into_iter().filter(|version| version.summary.iter().any(is_about)).collect();
        Ok(ServiceDetail { row, env: env.collect(), history })
    }
}

fn cell(stack: &StackNow, host: &HostNow, name: &ServiceName, now: u64) -> Option<ServiceCell> {
    if matches!(host.stored.standing, StoredStanding::Revoked { .. }) {
        return None;
    }
    let snapshot = host.snapshot.as_ref()?;
    let report = snapshot.body.services.iter().find(|service| service.name == *name)?.clone();
    let silent = !matches!(presence(stack, host, now), Presence::Reporting { .. });
    Some(ServiceCell { host: host.stored.id.clone(), host_name: host.stored.name.clone(), silent, report })
}

/// By name, revoked ones last.
pub(super) fn host_rows(fleet: &Fleet, stack: &StackNow, now: u64) -> Vec<HostRow> {
    let mut rows: Vec<HostRow> =
        fleet.hosts_of(&stack.stored.id).into_iter().map(|host| host_row(stack, host, now)).collect();
    rows.sort_by_key(|row| matches!(row.standing, Standing::Revoked { .. }));
    rows
}

pub(super) fn host_row(stack: &StackNow, host: &HostNow, now: u64) -> HostRow {
    let stored = &host.stored;
    let snapshot = host.snapshot.as_ref().map(|snapshot| &*snapshot.body);
    let security = snapshot.and_then(|snapshot| snapshot.host.security.as_ref());
    let word =
        |value: serde_json::Result<serde_json::Value>| value.ok().and_then(|value| value.as_str().map(str::to_owned));
    let (presence, rollout) = (presence(stack, host, now), rollout(stack, host));
    let (problem, problem_since_unix_ms) = host_problem(host, presence, &rollout, now).unzip();
    let problem_since_unix_ms = problem_since_unix_ms.flatten();
    let services = snapshot.map(|snapshot| snapshot.services.as_slice()).unwrap_or_default();
    let count = |ready: &dyn Fn(&agentd_protocol::control::report::ServiceReport) -> bool| {
        u32::try_from(services.iter().filter(|service| ready(service)).count()).unwrap_or(u32::MAX)
    };
    HostRow {
        id: stored.id.clone(),
        stack: stored.stack.clone(),
        stack_name: stack.stored.name.clone(),
        name: stored.name.clone(),
        labels: stored.labels.clone(),
        standing: match &stored.standing {
            StoredStanding::Pending { code } => Standing::Pending { code: code.clone() },
            StoredStanding::Active => Standing::Active,
            StoredStanding::Revoked { at, reason } => Standing::Revoked { at_unix_ms: *at, reason: reason.clone() },
        },
        problem,
        problem_since_unix_ms,
        presence,
        rollout,
        seen: host.live.as_ref().map(|live| live.seen).unwrap_or_default(),
        applied: host.live.as_ref().map(|live| live.applied).unwrap_or_default(),
        verdict: snapshot.map(|snapshot| snapshot.stack.verdict),
        agent: snapshot.map(|snapshot| snapshot.host.agent.clone()).unwrap_or_default(),
        security_mode: security.and_then(|security| word(serde_json::to_value(security.mode))),
        exposure: security.and_then(|security| word(serde_json::to_value(security.exposure))),
        services_ready: count(&|service| service.state == ServiceState::Ready),
        services: count(&|service| service.state != ServiceState::Removed),
        verdict_since_unix_ms: snapshot.and_then(|snapshot| snapshot.stack.since_unix_ms),
        doing: services.iter().filter_map(doing).take(DOING_MAX).collect(),
        usage: snapshot.and_then(|snapshot| snapshot.host.usage.clone()),
    }
}

fn doing(service: &agentd_protocol::control::report::ServiceReport) -> Option<Doing> {
    match service.state {
        ServiceState::Pending
        | ServiceState::Fetching
        | ServiceState::Building
        | ServiceState::Starting
        | ServiceState::Stopping => {}
        ServiceState::Ready
        | ServiceState::Partial
        | ServiceState::Failing
        | ServiceState::CrashLoop
        | ServiceState::Stopped
        | ServiceState::Removed => return None,
    }
    let (service, state, since_unix_ms) = (service.name.clone(), service.state, service.since_unix_ms);
    Some(Doing { service, state, since_unix_ms })
}

fn presence(stack: &StackNow, host: &HostNow, now: u64) -> Presence {
    let Some(live) = &host.live else { return Presence::NeverReported };
    let interval_ms = INTERVAL_SECS.max(stack.stored.poll_s).saturating_mul(1_000);
    let silent_after = interval_ms.saturating_mul(5) / 2 + SILENT_SLACK_MS;
    if now.saturating_sub(live.last_seen) <= silent_after {
        Presence::Reporting { last_unix_ms: live.last_seen }
    } else {
        Presence::Silent { since_unix_ms: live.last_seen }
    }
}

fn rollout(stack: &StackNow, host: &HostNow) -> Rollout {
    let newest = stack.stored.last_version;
    let (seen, applied) = host.live.as_ref().map(|live| (live.seen, live.applied)).unwrap_or_default();
    let refused = host.snapshot.as_ref().and_then(|snapshot| snapshot.body.host.refused.clone());
    if seen > newest {
        return Rollout::Ahead;
    }
    match refused {
        Some(refusal) => Rollout::Refused { refusal },
        None if newest == Version(0) => Rollout::NothingPublished,
        None if applied == newest => Rollout::Applied,
        None if stack.stored.held => Rollout::Held,
        None => Rollout::Behind,
    }
}

/// A conflict that was seen is told of for a day: should it go on, it is seen again.
const CONFLICT_SHOWN_MS: u64 = 24 * 3_600 * 1_000;

pub(super) fn conflict(host: &HostNow, now: u64) -> Option<u64> {
    host.stored.conflict_at.filter(|at| now.saturating_sub(*at) < CONFLICT_SHOWN_MS)
}

/// What is wrong, and since when where that is known.
type Wrong = (String, Option<u64>);

fn host_problem(host: &HostNow, presence: Presence, rollout: &Rollout, now: u64) -> Option<Wrong> {
    let other = other_problem(host, presence, rollout);
    let Some(at) = conflict(host, now) else { return other };
    let conflict = "two machines report with its identity, or its disk was set back";
    let said = other.map_or_else(|| conflict.to_owned(), |(other, _)| format!("{conflict}; also: {other}"));
    Some((said, Some(at)))
}

fn other_problem(host: &HostNow, presence: Presence, rollout: &Rollout) -> Option<Wrong> {
    if let Rollout::Refused { refusal } = rollout {
        let reason = refusal.reasons.first().map_or("", String::as_str);
        return Some((format!("refuses the version: {reason}"), Some(refusal.since_unix_ms)));
    }
    if let Some(problem) = host.snapshot.as_ref().and_then(|snapshot| worst(&snapshot.body)) {
        return Some(problem);
    }
    match presence {
        Presence::Silent { since_unix_ms } => {
            Some(("silent: what it runs is not known now".to_owned(), Some(since_unix_ms)))
        }
        Presence::NeverReported | Presence::Reporting { .. } => None,
    }
}

fn worst(snapshot: &Snapshot) -> Option<Wrong> {
    let of_stack = snapshot.stack.problems.first().map(|problem| {
        let said = match &problem.service {
            Some(service) => format!("{service}: {}", problem.cause),
            None => problem.cause.clone(),
        };
        (said, Some(problem.since_unix_ms))
    });
    let failing = snapshot.services.iter().find(|service| {
        matches!(service.state, ServiceState::Failing | ServiceState::CrashLoop | ServiceState::Partial)
    });
    of_stack.or_else(|| {
        let failing = failing?;
        let said = format!("{}: {}", failing.name, failing.last_error.as_deref().unwrap_or("not ready"));
        Some((said, Some(failing.since_unix_ms)))
    })
}

fn overview_of(fleet: &Fleet, stack: &StackNow, draft_differs: bool, now: u64) -> StackOverview {
    let rows = host_rows(fleet, stack, now);
    let ahead = fleet.newest_seen(&stack.stored);
    let hosts = counts(&rows);
    let worst = worst_of(&rows);
    StackOverview {
        id: stack.stored.id.clone(),
        name: stack.stored.name.clone(),
        environment: stack.stored.environment.clone(),
        version: stack.stored.last_version,
        held: stack.stored.held,
        created_unix_ms: stack.stored.created_at,
        last: stack.last.clone(),
        health: health(&rows, hosts),
        problem: worst.and_then(|row| Some(format!("{}: {}", row.name, row.problem.as_ref()?))),
        problem_since_unix_ms: worst.and_then(|row| row.problem_since_unix_ms),
        hosts,
        fresh_until_unix_ms: stack.stored.fresh_until,
        poll_interval_s: stack.stored.poll_s,
        draft_differs,
        ahead: (ahead > stack.stored.last_version).then_some(ahead),
    }
}

/// A host whose service does not work tells more than one that is silent.
fn worst_of(rows: &[HostRow]) -> Option<&HostRow> {
    let wrong = rows.iter().filter(|row| row.standing == Standing::Active && row.problem.is_some());
    wrong.min_by_key(|row| row.verdict != Some(Verdict::Degraded))
}

fn counts(rows: &[HostRow]) -> HostCounts {
    let mut counts = HostCounts::default();
    for row in rows {
        match &row.standing {
            Standing::Pending { .. } => counts.pending += 1,
            Standing::Revoked { .. } => counts.revoked += 1,
            Standing::Active => {
                counts.active += 1;
                counts.applied += u32::from(row.rollout == Rollout::Applied);
                counts.behind += u32::from(matches!(row.rollout, Rollout::Behind | Rollout::Held));
                counts.refused += u32::from(matches!(row.rollout, Rollout::Refused { .. }));
                counts.degraded += u32::from(row.verdict == Some(Verdict::Degraded));
                counts.silent += u32::from(matches!(row.presence, Presence::Silent { .. }));
            }
        }
    }
    counts
}

fn health(rows: &[HostRow], counts: HostCounts) -> Health {
    let mut active = rows.iter().filter(|row| row.standing == Standing::Active);
    if counts.degraded > 0 {
        Health::Broken
    } else if active.any(|row| row.problem.is_some()) {
        Health::Warning
    } else if counts.behind > 0 {
        Health::Moving
    } else if counts.applied > 0 {
        Health::Good
    } else {
        Health::Unknown
    }
}
