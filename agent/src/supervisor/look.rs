//! One look at an instance: ask it, and where the answer may be somebody else's, see who listens.

use std::time::Duration;

use agentd_protocol::ids::{Incarnation, InstanceId};
use tokio::time::Instant;

use super::health::{Health, Prober, Target, passed};
use super::launch::Gate;
use super::ports::{judge, survey};
use super::tracked::{Checked, Tracked};

/// A program that does not answer is searched for at other ports no sooner after its start, and no more often.
const HINT_AFTER: Duration = Duration::from_secs(3);
const HINT_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Question {
    id: InstanceId,
    incarnation: Incarnation,
    program: u32,
    uid: u32,
    target: Target,
    owner: OwnerCheck,
}

/// When to search /proc for who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnerCheck {
    /// It passed its gate before; its reservation keeps strangers off.
    Never,
    OnPass,
    /// Also when it fails: it may listen elsewhere, or a stranger answers in its place.
    Always,
}

impl Question {
    /// `None` when no program runs.
    pub(super) fn about(tracked: &Tracked, now: Instant, hinted_at: Option<Instant>) -> Option<Self> {
        let program = tracked.mirror.phase.program()?.pid;
        let record = &tracked.record;
        let owner = match (tracked.health, tracked.gate()) {
            (_, Gate::None) => OwnerCheck::Never,
            (Health::Starting { since } | Health::Overdue { since }, Gate::Tcp | Gate::Http { .. }) => {
                let due = hinted_at.is_none_or(|at| now.duration_since(at) >= HINT_EVERY);
                if due && now.duration_since(since) >= HINT_AFTER { OwnerCheck::Always } else { OwnerCheck::OnPass }
            }
            (Health::Idle | Health::Ready { .. } | Health::Failing { .. }, Gate::Tcp | Gate::Http { .. }) => {
                OwnerCheck::Never
            }
        };
        Some(Self {
            id: record.id.clone(),
            incarnation: tracked.mirror.incarnation,
            program,
            uid: record.uid,
            target: Target { gate: tracked.gate().clone(), port: record.port, timeout: record.probe.timeout },
            owner,
        })
    }

    pub(super) fn wants_hint(&self) -> bool {
        self.owner == OwnerCheck::Always
    }
}

pub(super) async fn look(prober: Prober, question: Question) -> Checked {
    let Question { id, incarnation, program, uid, target, owner } = question;
    let probe = prober.ask(&target).await;
    let searched = match owner {
        OwnerCheck::Never => false,
        OwnerCheck::OnPass => passed(&probe.outcome),
        OwnerCheck::Always => true,
    };
    let judgement = match target.port.filter(|_| searched) {
        None => None,
        Some(port) => {
            let searched =
                crate::lifecycle::spawn_blocking("port-owner", move || judge(&survey(&id, program, uid), port)).await;
            // Cancelled only when the runtime ends.
            searched.ok()
        }
    };
    Checked { incarnation, probe, judgement }
}
