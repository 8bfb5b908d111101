//! What the room tells others: what the kernel lets in now, whatever was asked for.

use agentd_protocol::api::{Awaiting, Drops, OpenSsh, Origin, SecurityBrief, SecurityStatus, TrialStatus};
use agentd_protocol::security::{Exposure, Mode};
use ipnet::IpNet;

use super::files::{Moment, OpenedSsh, Pending};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    /// `false` until the kernel has been looked at once.
    pub known: bool,
    /// Why this agent leaves the firewall alone.
    pub unmanaged: Option<String>,
    /// Of what was confirmed.
    pub mode: Mode,
    pub exposure: Exposure,
    pub enforcement: String,
    /// Why nothing here can keep what is asked for: nft is missing, or may not be used.
    pub lacking: Option<String>,
    /// What UFW keeps from the mode.
    pub ufw: Option<String>,
    pub origin: Option<Origin>,
    pub ssh: Vec<IpNet>,
    pub trial: Option<Pending>,
    pub awaiting: Option<Awaiting>,
    pub opened: Option<OpenedSsh>,
    pub altered: Option<String>,
    pub drops: Drops,
    pub repairs: u64,
    pub last: Option<String>,
}

impl Truth {
    pub fn unknown() -> Self {
        Self {
            known: false,
            unmanaged: None,
            mode: Mode::Open,
            exposure: Exposure::Unmanaged,
            enforcement: "not looked at yet".to_owned(),
            lacking: None,
            ufw: None,
            origin: None,
            ssh: Vec::new(),
            trial: None,
            awaiting: None,
            opened: None,
            altered: None,
            drops: Drops::default(),
            repairs: 0,
            last: None,
        }
    }

    pub fn is_told(&self) -> bool {
        self.known || self.unmanaged.is_some()
    }

    /// Time that is left is told as of `now`.
    pub fn status(&self, now: &Moment) -> SecurityStatus {
        SecurityStatus {
            at_unix_ms: now.unix_ms,
            unmanaged: self.unmanaged.clone(),
            mode: self.mode,
            exposure: self.exposure,
            enforcement: self.enforcement.clone(),
            origin: self.origin,
            ssh: self.ssh.clone(),
            trial: self.trial.as_ref().map(|pending| trial_status(pending, now)),
            awaiting: self.awaiting.clone(),
            open_ssh: self.opened.as_ref().and_then(|opened| {
                let left_ms = opened.left_ms(now);
                (left_ms > 0).then(|| OpenSsh { networks: opened.networks.clone(), left_ms })
            }),
            altered: self.altered.clone(),
            drops: self.drops,
            repairs: self.repairs,
            last: self.last.clone(),
        }
    }

    pub fn brief(&self, now: &Moment) -> SecurityBrief {
        let status = self.status(now);
        let trial = status.trial.map(|trial| {
            format!(
                "{} on trial, {} s left: `agentctl security confirm` from a new connection",
                trial.to,
                trial.left_ms / 1_000
            )
        });
        let opened = status.open_ssh.map(|open| {
            let networks: Vec<String> = open.networks.iter().map(IpNet::to_string).collect();
            format!("SSH let in from {} for {} s more", networks.join(", "), open.left_ms / 1_000)
        });
        let awaiting = status.awaiting.map(|awaiting| match &self.unmanaged {
            None => {
                format!("the document asks for {}: {}; to agree: {}", awaiting.mode, awaiting.why, awaiting.command)
            }
            Some(_) => format!("the document asks for {}, which is not enforced here", awaiting.mode),
        });
        let altered = status.altered.map(|reason| format!("the rules are not as confirmed: {reason}"));
        SecurityBrief {
            mode: self.mode,
            exposure: self.exposure,
            enforcement: self.enforcement.clone(),
            is_kept: self.altered.is_none() && (self.unmanaged.is_none() || self.mode == Mode::Open),
            notice: altered.or(trial).or(self.ufw.clone()).or(awaiting).or(opened),
        }
    }

    /// What a document asks for and this agent does not enforce, for the list of limitations.
    pub fn limitation(&self) -> Option<String> {
        let reason = self.unmanaged.as_ref().or(self.lacking.as_ref())?;
        let awaiting = self.awaiting.as_ref()?;
        Some(format!("the document asks for security mode {}, which is not enforced here: {reason}", awaiting.mode))
    }
}

pub fn trial_status(pending: &Pending, now: &Moment) -> TrialStatus {
    TrialStatus {
        tx: pending.tx.clone(),
        from: pending.from.mode,
        to: pending.to.mode,
        left_ms: pending.left_ms(now),
        origin: pending.by,
    }
}
