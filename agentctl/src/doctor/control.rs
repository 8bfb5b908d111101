//! How the host stands with its control server, with the cure of each trouble (pure).

use agentd_protocol::api::{ControlLink, ControlStatus, Readoption, Status};

use super::checks::{Check, note, ok, problem};
use crate::words::{harmless, span};

/// The server refuses requests beyond 300 s; half of that is worth a word, ms.
const SKEW_NOTE_MS: u64 = 150_000;

pub(super) fn checks(status: &Status) -> Vec<Check> {
    let mut checks: Vec<Check> = status.control.iter().flat_map(|control| of(control, status.at_unix_ms)).collect();
    checks.extend(status.stack.file_problem.as_ref().map(|text| {
        let cure = "correct the file, or policy.toml where that forbids it; what was applied last stays in force";
        problem("document", harmless(text), cure)
    }));
    checks
}

fn refused_cure(readoption: Option<&Readoption>) -> &'static str {
    match readoption {
        Some(Readoption::Pending { .. }) => {
            "it was restored from an older backup: say yes to this host there, by the code of `agentctl status`"
        }
        Some(Readoption::Due) => "it has forgotten this host, which asks to be taken back; look again in a minute",
        Some(Readoption::Denied { .. }) => {
            "it has forgotten this host, and does not take it back: `agentd leave`, then join with a new token"
        }
        None => "look at the host there; where it was revoked or copied: `agentd leave`, then join with a new token",
    }
}

fn of(control: &ControlStatus, now_unix_ms: u64) -> Vec<Check> {
    let url = harmless(&control.url);
    let held = span(now_unix_ms.saturating_sub(control.since_unix_ms));
    let mut checks = vec![match &control.link {
        ControlLink::Connected => ok("control", format!("{url}, connected for {held}")),
        ControlLink::Connecting => note("control", format!("{url}, not asked yet"), "look again in a moment"),
        ControlLink::Offline { cause } => note(
            "control",
            format!("{url} does not answer for {held}: {}", harmless(cause)),
            "services run on and events are kept; is the server up, and may this host connect to it?",
        ),
        ControlLink::Refused { cause } => problem(
            "control",
            format!("{url} does not take this host: {}", harmless(cause)),
            refused_cure(control.readoption.as_ref()),
        ),
    }];
    if let Some(refused) = &control.refused {
        let version =
            refused.version.map_or_else(|| "what it hands out".to_owned(), |version| format!("version {version}"));
        let cure = if refused.kind == "trust.violation" {
            "somebody between here and the server, or the server itself, hands out what was not signed; look at it"
        } else {
            "publish another version, or change policy.toml of this host where that forbids it"
        };
        let said = format!("{version} is not taken: {}", harmless(&refused.reasons.join("; ")));
        checks.push(problem("control version", said, cure));
    }
    if control.fresh_until_unix_ms.is_some_and(|until| until < now_unix_ms) && control.newest.is_some() {
        let cure = "it comes back with the server; nothing here changes meanwhile";
        checks.push(note("control version", "nobody has said lately that it is the newest", cure));
    }
    if control.outbox.lost > 0 {
        let said =
            format!("{} events were lost while the server was away: too many, or 7 days old", control.outbox.lost);
        checks.push(note("control events", said, "the timeline there shows where; nothing else is lost by it"));
    }
    let skew_ms = control.clock_skew_ms.unsigned_abs();
    if skew_ms >= SKEW_NOTE_MS {
        let said = format!("it differs from the control server's by {}", span(skew_ms));
        checks.push(note("clock", said, "set the wrong one, and let a time service keep both"));
    }
    checks
}
