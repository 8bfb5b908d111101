//! UFW beside our table, for as long as a mode stands: somebody may enable it, reset it or delete our allows, and then it
//! drops what the mode lets in.

use std::collections::BTreeSet;
use std::time::Duration;

use agentd_protocol::api::What;
use agentd_protocol::security::Mode;
use agentd_sys::causes::chain;
use tokio::time::Instant;

use super::Policy;
use super::allows::Allows;
use super::task::Task;
use super::ufw::{Allow, Stamp};

/// Though none of its files changed; asking takes a run of ufw.
const ASK: Duration = Duration::from_secs(60);

/// What UFW was last seen to have.
#[derive(Debug)]
pub(super) struct Beside {
    of: Policy,
    stamp: Option<Stamp>,
    at: Instant,
    allows: Allows,
    /// By this process, for this policy: who deletes one again means it.
    put_back: BTreeSet<Allow>,
}

impl Beside {
    /// What it keeps from the mode, and what to do about it.
    pub(super) fn amiss(&self, policy: &Policy) -> Option<String> {
        match &self.allows {
            _ if self.of != *policy => None,
            Allows::NotNeeded | Allows::InPlace => None,
            Allows::Refused(cause) => Some(format!("ufw may drop what the mode lets in: {cause}")),
            Allows::Missing(missing) => missing.first().map(|first| {
                let (count, order) = (missing.len(), first.order());
                format!("ufw drops what the mode lets in ({count} allows were deleted again): `{order}`")
            }),
        }
    }
}

impl Task {
    /// Whether UFW is to be asked: it was changed, or not asked for long.
    fn is_due(&self, policy: &Policy, stamp: Option<&Stamp>) -> bool {
        policy.mode == Mode::DaemonPort
            && self.beside.as_ref().is_none_or(|beside| {
                beside.of != *policy || beside.stamp.as_ref() != stamp || beside.at.elapsed() >= ASK
            })
    }

    /// Puts back what is missing, once. `true`: UFW is not as it was.
    pub(super) async fn keep_allows(&mut self, policy: &Policy, stamp: Option<Stamp>) -> bool {
        if stamp.is_none() || !self.is_due(policy, stamp.as_ref()) {
            return false;
        }
        let mut put_back = match self.beside.take() {
            Some(beside) if beside.of == *policy => beside.put_back,
            Some(_) | None => BTreeSet::new(),
        };
        let mut allows = self.ask_ufw(policy).await;
        let mut is_changed = false;
        if let Allows::Missing(missing) = &allows
            && !missing.is_subset(&put_back)
        {
            is_changed = true;
            put_back.extend(missing.iter().copied());
            let names: Vec<String> = missing.iter().map(Allow::to_string).collect();
            let (start, names) = (Instant::now(), names.join(", "));
            match self.blocking(|core| core.settle_allows()).await {
                Ok(()) => {
                    let after_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                    let cause = format!("ufw had no allows of ours for {names}");
                    (self.note)(What::SecurityRepaired { cause, after_ms });
                    allows = self.ask_ufw(policy).await;
                }
                Err(error) => allows = Allows::Refused(chain(&error)),
            }
        }
        let scales = self.scales.clone();
        // As it is after our own change.
        let stamp = scales.blocking(|core| core.ufw_stamp()).await;
        self.beside = Some(Beside { of: policy.clone(), stamp, at: Instant::now(), allows, put_back });
        is_changed
    }

    async fn ask_ufw(&mut self, policy: &Policy) -> Allows {
        let (scales, policy) = (self.scales.clone(), policy.clone());
        self.is_surveying = true;
        let allows = self.meanwhile(async move { scales.blocking(move |core| core.allows(&policy)).await }).await;
        self.is_surveying = false;
        allows
    }
}
