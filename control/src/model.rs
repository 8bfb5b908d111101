//! What the dashboard shows and `/api/v1` answers: the same types for both, and for the command line.
//!
//! Times are Unix time in ms. Every text that came from a host is hostile: whoever shows it escapes it. No type here has
//! room for the value of an env variable.

use std::collections::BTreeMap;

use agentd_protocol::api::{ServiceState, Severity, Verdict};
use agentd_protocol::control::ids::{HostId, StackId, TokenId};
use agentd_protocol::control::report::{EventRecord, Refusal, ServiceReport, Snapshot};
use agentd_protocol::digest::Digest;
use agentd_protocol::ids::{Commit, ServiceName, Version};
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StackOverview {
    pub id: StackId,
    pub name: String,
    /// What it is: `production`, `staging`; free text.
    pub environment: String,
    /// 0: nothing was published yet.
    pub version: Version,
    /// Hosts stay at what they run.
    pub held: bool,
    pub created_unix_ms: u64,
    pub last: Option<VersionRow>,
    pub hosts: HostCounts,
    pub health: Health,
    /// The worst that is wrong, in a sentence; `None`: nothing is.
    pub problem: Option<String>,
    /// Since when, where that is known.
    #[serde(default)]
    pub problem_since_unix_ms: Option<u64>,
    /// Until when hosts believe that `version` is current.
    pub fresh_until_unix_ms: Option<u64>,
    pub poll_interval_s: u64,
    /// The draft differs from what was published last.
    pub draft_differs: bool,
    /// Version of the host that has seen the newest, where that is more than was published here: a database was restored.
    pub ahead: Option<Version>,
}

/// Worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// No host has reported.
    Unknown,
    Good,
    /// Hosts are on their way to the newest version.
    Moving,
    /// Silent, behind, refused or in conflict.
    Warning,
    /// A service is not as wanted.
    Broken,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCounts {
    /// Enrolled and not revoked.
    pub active: u32,
    /// Waiting for a person to say yes.
    pub pending: u32,
    pub revoked: u32,
    /// Of the active ones:
    pub applied: u32,
    pub behind: u32,
    pub degraded: u32,
    pub silent: u32,
    pub refused: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StackDetail {
    pub overview: StackOverview,
    /// By name; revoked ones last.
    pub hosts: Vec<HostRow>,
    /// Those of the newest version in its order, then those that hosts still have.
    pub services: Vec<ServiceRow>,
}

/// One line of the grid of services and hosts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceRow {
    pub name: ServiceName,
    /// `None`: not in the newest version.
    pub published: Option<VersionService>,
    pub cells: Vec<ServiceCell>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceCell {
    pub host: HostId,
    pub host_name: String,
    /// The host is silent: what follows was true then.
    pub silent: bool,
    pub report: ServiceReport,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostRow {
    pub id: HostId,
    pub stack: StackId,
    pub stack_name: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub standing: Standing,
    pub presence: Presence,
    pub rollout: Rollout,
    pub seen: Version,
    pub applied: Version,
    pub verdict: Option<Verdict>,
    /// The worst that is wrong on it, in a sentence.
    pub problem: Option<String>,
    /// Since when, where that is known.
    #[serde(default)]
    pub problem_since_unix_ms: Option<u64>,
    pub agent: String,
    /// `open`, `daemon-port`, `tunnel`; `None`: not reported.
    pub security_mode: Option<String>,
    /// `unmanaged`, `daemon-port`, `none`.
    pub exposure: Option<String>,
    pub services_ready: u32,
    pub services: u32,
    /// Since when the verdict is what it is, by the host's clock.
    #[serde(default)]
    pub verdict_since_unix_ms: Option<u64>,
    /// What it is at, of services that are on their way; at most a few.
    #[serde(default)]
    pub doing: Vec<Doing>,
    #[serde(default)]
    pub usage: Option<agentd_protocol::api::Host>,
}

/// A service that is fetched, built, started or stopped on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doing {
    pub service: ServiceName,
    pub state: ServiceState,
    pub since_unix_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Standing {
    /// Asks to join; the same code is shown on the host.
    Pending {
        code: String,
    },
    Active,
    Revoked {
        at_unix_ms: u64,
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Presence {
    NeverReported,
    Reporting { last_unix_ms: u64 },
    Silent { since_unix_ms: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Rollout {
    NothingPublished,
    /// Runs the newest version.
    Applied,
    /// Has not applied the newest version yet.
    Behind,
    /// The stack is on hold, and the host stays at an older version.
    Held,
    /// Has seen a version that this server never published: the database was restored.
    Ahead,
    /// Will not take it.
    Refused {
        refusal: Refusal,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostDetail {
    pub row: HostRow,
    pub os: String,
    pub arch: String,
    pub enrolled_unix_ms: u64,
    pub approved_by: Option<String>,
    pub token: Option<TokenId>,
    /// The host's public key, shortened.
    pub key_id: String,
    /// As it reported last.
    pub snapshot: Option<Snapshot>,
    pub snapshot_unix_ms: Option<u64>,
    /// Two machines were seen with its key, or its state went back several times.
    pub conflict_unix_ms: Option<u64>,
}

/// One service on every host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceDetail {
    pub row: ServiceRow,
    /// Names of its variables in the newest version.
    pub env: Vec<String>,
    /// Versions in which it changed, newest first.
    pub history: Vec<VersionRow>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VersionRow {
    pub number: Version,
    pub note: VersionKind,
    pub by: String,
    pub reason: String,
    pub created_unix_ms: u64,
    /// Of the state object: `sha256sum` of what hosts fetch.
    pub sha256: Digest,
    /// Differences from the version before, in words; at most a few.
    pub summary: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum VersionKind {
    Deploy,
    Rollback { of: Version },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VersionDetail {
    pub row: VersionRow,
    pub services: Vec<VersionService>,
    /// The state object: names of env variables, no values.
    pub document: Value,
    /// How far each active host is with the newest version.
    pub hosts: Vec<HostRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionService {
    pub name: ServiceName,
    pub repo: String,
    /// Branch or tag it was resolved from.
    pub from: Option<String>,
    pub commit: Commit,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Of version 0 there is nothing.
    Version(Version),
    Draft,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// Keys outside of services, as a person writes them.
    pub stack: Vec<KeyChange>,
    pub services: Vec<ServiceChange>,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.stack.is_empty() && self.services.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// `proxy.port`, `health.path`.
    pub key: String,
    /// `None`: was not there.
    pub from: Option<String>,
    /// `None`: is gone.
    pub to: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChange {
    pub name: ServiceName,
    pub change: Change,
    pub keys: Vec<KeyChange>,
    /// Names; a value is never shown, only that it changed.
    pub env: Vec<EnvChange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvChange {
    pub name: String,
    pub change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    Added,
    Removed,
    Changed,
}

/// The document as it is edited.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Draft {
    pub stack: StackId,
    /// 0: never saved. What `If-Match` names.
    pub revision: u64,
    pub format: DraftFormat,
    /// Values of env variables stand as [`KEPT`].
    pub text: String,
    pub by: String,
    pub saved_unix_ms: u64,
    /// Empty: it can be published.
    pub problems: Vec<DraftProblem>,
    /// What publishing it would change; `None` while there are problems.
    pub diff: Option<Diff>,
}

/// What publishing the draft now would do: branches and tags were asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Preview {
    /// In the order of the document; services with a fixed commit are not among them.
    pub follows: Vec<Follows>,
    /// With the commits that were found out; what could not be is taken as it was published.
    pub diff: Diff,
}

/// A service of the draft that follows a branch or tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows {
    pub service: ServiceName,
    pub repo: String,
    pub reference: String,
    /// What the newest version runs; `None`: the service is not in it.
    pub published: Option<Commit>,
    pub now: PointsAt,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum PointsAt {
    Commit {
        commit: Commit,
    },
    /// A sentence for the operator.
    Unknown {
        why: String,
    },
}

/// Stands for a value that is kept and never shown; on saving it means "as it is".
pub const KEPT: &str = "<kept>";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DraftFormat {
    Toml,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftProblem {
    /// From 1; 0: not known.
    pub line: u64,
    pub column: u64,
    /// RFC 6901.
    pub pointer: String,
    /// As a person writes it: `service.health.path`.
    pub key: String,
    /// The whole in a sentence.
    pub text: String,
    pub nearest: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenRow {
    pub id: TokenId,
    pub stack: StackId,
    /// For people.
    pub note: String,
    /// Given to the host that joins with it.
    pub labels: BTreeMap<String, String>,
    pub approval: Approval,
    pub state: TokenState,
    pub by: String,
    pub created_unix_ms: u64,
    pub expires_unix_ms: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Approval {
    /// Who has the token is in.
    #[default]
    None,
    /// A person compares the codes and says yes.
    Person,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum TokenState {
    Open,
    Used { by: HostId, at_unix_ms: u64 },
    Expired,
    Revoked { at_unix_ms: u64 },
}

/// Shown once, and kept nowhere. `Debug` shows neither secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenMade {
    pub token: TokenRow,
    /// The join string.
    pub join: String,
    /// To be pasted on a fresh host; holds the join string.
    pub command: String,
    /// What a person should know before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

impl std::fmt::Debug for TokenMade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenMade").field("token", &self.token).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventRow {
    /// Grows in the order in which events arrived; never used twice: the cursor of pages and streams.
    pub id: u64,
    pub stack: StackId,
    pub host: HostId,
    pub host_name: String,
    pub received_unix_ms: u64,
    /// As the host sent it.
    pub event: EventRecord,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventPage {
    /// Newest first when `before` or nothing was asked for, oldest first after `after`.
    pub events: Vec<EventRow>,
    /// Of all there are, whatever the filter.
    pub newest: u64,
    /// There are more in the direction asked for.
    pub more: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    pub stack: Option<StackId>,
    pub host: Option<HostId>,
    pub service: Option<ServiceName>,
    /// That and worse.
    pub severity: Option<Severity>,
    /// A word of docs/events.md, or its family: `build`.
    pub kind: Option<String>,
    /// Later than this id.
    pub after: Option<u64>,
    /// Earlier than this id.
    pub before: Option<u64>,
    pub since_unix_ms: Option<u64>,
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditRow {
    pub id: u64,
    pub at_unix_ms: u64,
    /// `local uid 0`, `user ...`, `token adt_...`.
    pub actor: String,
    /// `stack.create`, `version.publish`, `token.used-twice`.
    pub action: String,
    pub target: String,
    /// Never with a secret.
    pub detail: Value,
    /// Wants a person to look.
    pub alarm: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditPage {
    /// Newest first.
    pub rows: Vec<AuditRow>,
    pub more: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewStack {
    pub name: String,
    #[serde(default)]
    pub environment: String,
}

/// What is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StackEdit {
    pub name: Option<String>,
    pub environment: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewToken {
    pub note: String,
    pub labels: BTreeMap<String, String>,
    pub approval: Approval,
    /// Default: [`agentd_protocol::control::join::TTL_SECS_DEFAULT`].
    pub ttl_s: Option<u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reason {
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Publish {
    pub reason: String,
    /// What the caller saw services at: should one be at another commit when it is published, nothing is. Of services that
    /// are left out any commit will do.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub expect: BTreeMap<ServiceName, Commit>,
}

/// A service that is not at the commit it was expected at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    pub service: ServiceName,
    pub saw: Commit,
    /// `None`: the document has no such service.
    pub found: Option<Commit>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupMade {
    pub file: String,
    pub bytes: u64,
    pub sha256: Digest,
    pub contents: BackupContents,
}

/// What would come back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupContents {
    pub made_unix_ms: u64,
    pub schema: u32,
    pub stacks: Vec<BackupStack>,
    /// Hosts that a restore lets in, also those that were revoked since; the first 200 of `stacks[].hosts`.
    #[serde(default)]
    pub active: Vec<BackupHost>,
    /// Open tokens, which a restore revokes.
    pub tokens_open: u64,
    pub audit_rows: u64,
    /// Whether this key file opens its secrets; `None`: no key file was at hand.
    pub key_fits: Option<bool>,
    /// Whether it was made by who has this key file, and is as it was made; `None`: no key file was at hand.
    pub authentic: Option<bool>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupHost {
    pub id: HostId,
    pub name: String,
    /// Its name.
    pub stack: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupStack {
    pub id: StackId,
    pub name: String,
    pub version: Version,
    pub hosts: u64,
}
