//! What happened on a host, as a closed vocabulary: one word per kind of transition, and what belongs to it.
//!
//! `GET /v1/events` answers one [`Event`] a line (NDJSON). `docs/events.md` lists every word; a test compares the two.
//! No event ever holds the value of an environment variable.

mod text;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::DeployPhase;
use crate::ids::{Commit, EventId, InstanceId, ReleaseNumber, ServiceName, Version};
use crate::security::Mode;

/// Most events of one answer; a longer history is asked for in parts, with `after`.
pub const EVENTS_MAX: u32 = 1_000;
/// Events of an answer when nobody says how many.
pub const EVENTS_DEFAULT: u32 = 50;
/// Header of the answer: the newest event there was, whether it is among those answered or not. Who was cut off before
/// any event came asks on from there.
pub const NEWEST_EVENT_HEADER: &str = "agentd-newest-event";
/// While nothing happens, a followed answer carries an empty line so often: a silent one is broken.
pub const KEEP_ALIVE_SECS: u64 = 15;

/// How much a person should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Info,
    Warn,
    Error,
}

/// One transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows in the order in which events were written down; never used twice.
    pub id: EventId,
    /// When it happened, Unix time. May be earlier than that of a lower id: what happened while no manager ran is written
    /// down by the next one.
    pub at_unix_ms: u64,
    pub severity: Severity,
    /// `None`: the host as a whole.
    pub service: Option<ServiceName>,
    pub release: Option<ReleaseNumber>,
    pub instance: Option<InstanceId>,
    /// Events of this service that were not kept since its last one: too many at once.
    #[serde(default)]
    pub suppressed: u64,
    #[serde(flatten)]
    pub what: What,
    /// The same in a sentence fragment for people.
    pub text: String,
}

/// A row of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub word: &'static str,
    pub severity: Severity,
    /// What belongs to it, beside time, service, release and instance.
    pub details: &'static [&'static str],
    pub meaning: &'static str,
}

impl Kind {
    /// The part before the dot.
    pub fn family(&self) -> &'static str {
        self.word.split('.').next().unwrap_or(self.word)
    }
}

macro_rules! vocabulary {
    ($( $word:literal $variant:ident { $($field:ident: $type:ty),* } $severity:ident $meaning:literal; )+) => {
        /// What happened. On the wire `kind` is the word and `details` holds the fields.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "kind", content = "details")]
        pub enum What {
            $(
                #[doc = $meaning]
                #[serde(rename = $word)]
                $variant { $($field: $type),* },
            )+
            /// Written by another version of the agent: shown as it stands.
            #[serde(untagged)]
            Unknown {
                kind: String,
                #[serde(default)]
                details: Value,
            },
        }

        /// Every kind this version knows.
        pub const KINDS: &[Kind] = &[
            $( Kind {
                word: $word,
                severity: Severity::$severity,
                details: &[$(stringify!($field)),*],
                meaning: $meaning,
            } ),+
        ];

        impl What {
            /// The dotted word.
            pub fn word(&self) -> &str {
                match self {
                    $( Self::$variant { .. } => $word, )+
                    Self::Unknown { kind, .. } => kind,
                }
            }

            pub fn severity(&self) -> Severity {
                match self {
                    $( Self::$variant { .. } => Severity::$severity, )+
                    Self::Unknown { .. } => Severity::Info,
                }
            }
        }
    };
}

vocabulary! {
    "config.seen" ConfigSeen { services: usize } Info "The stack file was read and is good; what it holds is not what this manager read before.";
    "config.rejected" ConfigRejected { problem: String } Error "The stack file is not in force as it stands; what was applied last is.";
    "config.unresolved" ConfigUnresolved { cause: String } Warn "The ref of a service cannot be resolved to a commit now; the service stays as it is.";
    "config.resolved" ConfigResolved {} Info "A ref that could not be resolved can be again.";
    "config.published" ConfigPublished { version: Version, services: usize } Info "A new version: the document, or a commit that one of its refs points at, is another one.";
    "config.applied" ConfigApplied { version: Version } Info "Everything is as this version wants it.";
    "config.degraded" ConfigDegraded { version: Version, cause: String } Error "This version is in force as far as possible; one service is not as it wants it.";

    "build.started" BuildStarted { commit: Commit } Info "The build command of a new release runs.";
    "build.succeeded" BuildSucceeded { commit: Commit, duration_ms: u64 } Info "The release is built.";
    "build.failed" BuildFailed { phase: DeployPhase, cause: String, duration_ms: Option<u64> } Error "No release came of it: fetching or building failed. What ran before runs on.";
    "build.cancelled" BuildCancelled {} Info "A newer order, or the end of the manager, came before the build's end.";

    "run.started" RunStarted { pid: u32, port: Option<u16>, incarnation: u32 } Info "The program of an instance was started.";
    "run.ready" RunReady { after_ms: Option<u64> } Info "An instance passed its health check, or came up without one: requests may go there.";
    "run.stopped" RunStopped { exit: Option<String>, uptime_ms: Option<u64> } Info "An instance has ended as it was asked to, or as its kind does, and is not started again.";
    "run.adopted" RunAdopted { pid: u32 } Info "The shim of an instance was replaced; its program runs on.";
    "run.stragglers" RunStragglers { count: u32 } Warn "Processes that a program left behind were killed.";
    "run.log-dropped" RunLogDropped { bytes: u64 } Warn "Output of a program could not be written to its log.";
    "run.unkillable" RunUnkillable { count: u32 } Error "Processes of an instance survive SIGKILL.";

    "crash.exited" CrashExited { exit: String, uptime_ms: u64, restart_in_ms: Option<u64> } Error "A program ended and nobody had asked it to.";
    "crash.loop-entered" CrashLoopEntered { retry_in_ms: u64 } Error "A program keeps ending; from now on it is started rarely.";
    "crash.loop-left" CrashLoopLeft {} Info "A program that kept ending is ready again.";

    "health.failing" HealthFailing { failures: u32, cause: String } Warn "An instance that was ready fails its health check; requests go elsewhere where there is an elsewhere.";
    "health.overdue" HealthOverdue { cause: String } Warn "An instance is not ready within its start deadline.";
    "health.recovered" HealthRecovered { after_ms: Option<u64> } Info "An instance passes its health check again.";
    "health.restart" HealthRestart { exit: String, uptime_ms: u64 } Warn "An instance failed its health check for so long that it was restarted.";

    "deploy.started" DeployStarted { from: Option<ReleaseNumber> } Info "Instances of a release are started to take over.";
    "deploy.done" DeployDone { from: Option<ReleaseNumber>, duration_ms: u64 } Info "The release serves.";
    "deploy.failed" DeployFailed { from: Option<ReleaseNumber>, phase: DeployPhase, cause: String, duration_ms: Option<u64> } Error "The release does not serve; the one before does, where there is one.";
    "deploy.rolled-back" DeployRolledBack { from: Option<ReleaseNumber>, duration_ms: u64 } Info "An earlier release serves again.";
    "deploy.superseded" DeploySuperseded { from: Option<ReleaseNumber> } Info "A newer order came before the deploy's end.";

    "route.changed" RouteChanged { added: Vec<String>, removed: Vec<String>, changed: Vec<String> } Info "The edge routes other paths to this service than before.";
    "dns.changed" DnsChanged { added: Vec<String>, removed: Vec<String> } Info "Names of services were added or removed.";

    "service.stopped" ServiceStopped {} Info "The operator stopped it.";
    "service.started" ServiceStarted {} Info "The operator started it.";
    "service.restarted" ServiceRestarted {} Info "The operator asked for new instances.";
    "service.pinned" ServicePinned {} Info "The operator rolled back to this release and pinned it.";
    "service.unpinned" ServiceUnpinned { cause: String } Info "The service follows the document again.";
    "service.removed" ServiceRemoved {} Info "It has left the document and is gone, but for its data.";
    "service.pruned" ServicePruned {} Info "The operator removed its releases and data.";

    "host.start" HostStart { pid: u32, version: String, adopted: usize } Info "The manager started, and found what ran.";
    "host.stop" HostStop { signal: String } Info "The manager ended on a signal; services run on.";
    "host.down" HostDown {} Warn "Everything was taken down, on the operator's word.";
    "host.keeper-replaced" HostKeeperReplaced { pid: u32, before: u32 } Warn "The keeper was gone and another one was started; services ran on.";

    "security.trial" SecurityTrial { from: Mode, to: Mode, window_ms: u64 } Info "New rules are in force on trial; unconfirmed, the kernel itself goes back.";
    "security.overruled" SecurityOverruled { mode: Mode, findings: Vec<String> } Warn "Rules are on trial though something spoke against them, on the operator's word (--accept, --force).";
    "security.applied" SecurityApplied { from: Mode, to: Mode } Info "Other rules are in force for good, as the document asks; the checks were green.";
    "security.confirmed" SecurityConfirmed { from: Mode, to: Mode } Info "The operator confirmed a trial: its rules are in force for good.";
    "security.reverted" SecurityReverted { from: Mode, to: Mode, cause: String } Warn "A trial ended with the rules of before.";
    "security.refused" SecurityRefused { mode: Mode, cause: String } Warn "Other rules were asked for, and nothing was changed.";
    "security.awaiting-consent" SecurityAwaitingConsent { mode: Mode, cause: String } Warn "The document asks for rules that a person has to agree to; those of before are in force.";
    "security.repaired" SecurityRepaired { cause: String, after_ms: u64 } Warn "Somebody removed or changed our rules; they are back.";
    "security.unrepaired" SecurityUnrepaired { cause: String } Error "Our rules are not in force as confirmed, and cannot be put back now.";
    "security.opened" SecurityOpened { networks: Vec<String>, for_ms: u64 } Warn "SSH is let in from these networks for a while, on the operator's word.";

    "edge.started" EdgeStarted { pid: u32 } Info "The edge was started.";
    "edge.lost" EdgeLost { exit: String, uptime_ms: u64 } Error "The edge ended and nobody had asked it to; it is started again on the same sockets.";

    "control.joined" ControlJoined { url: String, host: String } Info "This host follows a control server from now on.";
    "control.left" ControlLeft {} Info "This host follows no control server any more; what ran runs on.";
    "control.connected" ControlConnected {} Info "The control server takes this host's reports.";
    "control.lost" ControlLost { cause: String } Warn "The control server does not answer; what runs runs on, and events are kept.";
    "control.refused" ControlRefused { cause: String } Error "The control server does not take this host's reports; what runs runs on.";
    "trust.violation" TrustViolation { reason: String } Error "What the control server handed out is not believed; nothing was changed.";

    "tunnel.connected" TunnelConnected { connections: u32 } Info "Requests come in by the tunnel.";
    "tunnel.degraded" TunnelDegraded { connections: u32, cause: String } Warn "Requests come in by the tunnel, and may soon no more.";
    "tunnel.down" TunnelDown { cause: String } Error "No request comes in by the tunnel; the security mode stays as it is.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    const FAMILIES: [&str; 15] = [
        "build", "config", "control", "crash", "deploy", "dns", "edge", "health", "host", "route", "run", "security",
        "service", "trust", "tunnel",
    ];

    fn event(what: What) -> Event {
        Event {
            id: EventId(7),
            at_unix_ms: 1,
            severity: what.severity(),
            service: Some(ServiceName::new("api").unwrap()),
            release: None,
            instance: None,
            suppressed: 0,
            text: what.text(),
            what,
        }
    }

    #[test]
    fn words_are_unique_dotted_and_of_the_known_families() {
        let words: BTreeSet<&str> = KINDS.iter().map(|kind| kind.word).collect();
        assert_eq!(words.len(), KINDS.len());
        let families: BTreeSet<&str> = KINDS.iter().map(Kind::family).collect();
        assert_eq!(families, BTreeSet::from(FAMILIES));
        assert!(words.iter().all(|word| word.split('.').count() == 2), "{words:?}");
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let sent = event(What::CrashExited { exit: "exit code 1".into(), uptime_ms: 1_200, restart_in_ms: Some(250) });
        let json = serde_json::to_value(&sent).unwrap();
        assert_eq!(json["kind"], "crash.exited");
        assert_eq!(json["severity"], "error");
        assert_eq!(json["details"], json!({"exit": "exit code 1", "uptime_ms": 1_200, "restart_in_ms": 250}));
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), sent);
        let bare = event(What::ServiceStopped {});
        assert_eq!(serde_json::from_value::<Event>(serde_json::to_value(&bare).unwrap()).unwrap(), bare);
    }

    #[test]
    fn a_kind_of_another_version_is_shown_as_it_stands() {
        let mut json = serde_json::to_value(event(What::ConfigResolved {})).unwrap();
        json["kind"] = "moon.full".into();
        json["details"] = json!({"phase": 3});
        let read: Event = serde_json::from_value(json).unwrap();
        assert_eq!(read.what.word(), "moon.full");
        assert_eq!(read.what.text(), r#"moon.full {"phase":3}"#);
        // A known word whose details are others is no error either.
        let old: What = serde_json::from_value(json!({"kind": "run.started", "details": {"n": 1}})).unwrap();
        assert!(matches!(old, What::Unknown { .. }), "{old:?}");
    }

    #[test]
    fn the_manual_lists_every_kind() {
        let manual = include_str!("../../../docs/events.md");
        for kind in KINDS {
            let details = kind.details.iter().map(|detail| format!("`{detail}`")).collect::<Vec<_>>().join(", ");
            let severity = serde_json::to_value(kind.severity).unwrap();
            let row = format!("| `{}` | {} | {} | {details} |", kind.word, severity.as_str().unwrap(), kind.meaning);
            assert!(manual.lines().any(|line| line == row), "docs/events.md lacks:\n{row}");
        }
        let rows = manual.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, KINDS.len(), "docs/events.md lists a kind that is gone");
    }
}
