//! What changed between two looks at the status, in lines for a person (pure).

use std::collections::BTreeMap;

use serde_json::Value;

/// Lines of a failed service's log that are shown.
const LOG_LINES: usize = 10;

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct News {
    /// By service: what was last said of it.
    services: BTreeMap<String, String>,
    /// Causes that were told.
    problems: Vec<String>,
}

impl News {
    /// Lines that were not told yet.
    pub(super) fn of(&mut self, status: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        for service in list(&status["services"]) {
            let name = text(&service["name"]).to_owned();
            let said = said_of(service);
            if self.services.get(&name) != Some(&said) {
                lines.push(format!("{name:8} {said}"));
                self.services.insert(name, said);
            }
        }
        let problems: Vec<String> = list(&status["stack"]["problems"]).iter().map(explained).collect();
        lines.extend(problems.iter().filter(|problem| !self.problems.contains(problem)).cloned());
        self.problems = problems;
        lines
    }
}

fn said_of(service: &Value) -> String {
    let state = text(&service["state"]);
    match (state, service["release"].as_u64()) {
        ("ready" | "partial", Some(release)) => {
            let commit = text(&service["commit"]).get(..7).unwrap_or_default();
            let pinned = if service["pinned"].is_null() { "" } else { ", pinned" };
            format!("{state}: release {release}, commit {commit}{pinned}")
        }
        _ => state.to_owned(),
    }
}

fn explained(problem: &Value) -> String {
    let service = problem["service"].as_str().unwrap_or("stack");
    let tail = list(&problem["log_tail"]);
    let lines =
        tail.iter().skip(tail.len().saturating_sub(LOG_LINES)).map(|line| format!("\n           | {}", text(line)));
    format!(
        "{service:8} failed at {}: {}{}",
        text(&problem["phase"]),
        text(&problem["cause"]),
        lines.collect::<String>()
    )
}

/// Everything the newest document asks for runs.
pub(super) fn is_applied(status: &Value) -> bool {
    let stack = &status["stack"];
    stack["verdict"] == "applied" && stack["version"].is_u64() && stack["version"] == stack["applied_version"]
}

/// Something is not as the newest document asks.
pub(super) fn is_degraded(status: &Value) -> bool {
    status["stack"]["verdict"] == "degraded"
}

/// Services on their way, with the seconds they have been at it: `notes building 12 s`.
pub(super) fn under_way(status: &Value, now_unix_ms: u64) -> Vec<String> {
    let at_work = |service: &&Value| {
        matches!(text(&service["state"]), "pending" | "fetching" | "building" | "starting" | "stopping")
    };
    let shown = |service: &Value| {
        let since = service["since_unix_ms"].as_u64().unwrap_or(now_unix_ms);
        let seconds = now_unix_ms.saturating_sub(since) / 1000;
        format!("{} {} {seconds} s", text(&service["name"]), text(&service["state"]))
    };
    list(&status["services"]).iter().filter(at_work).map(shown).collect()
}

/// What still runs, for whoever waits for its end.
pub(super) fn still_up(status: &Value) -> Vec<String> {
    let of = |service: &Value| {
        let pids: Vec<String> = list(&service["instances"])
            .iter()
            .filter_map(|instance| Some(instance["pid"].as_u64()?.to_string()))
            .collect();
        (!pids.is_empty())
            .then(|| format!("{} ({}), pid {}", text(&service["name"]), text(&service["state"]), pids.join(", ")))
    };
    list(&status["services"]).iter().filter_map(of).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(state: &str, problems: &[Value]) -> Value {
        json!({
            "stack": { "verdict": "applying", "version": 2, "applied_version": 1, "problems": problems },
            "services": [{ "name": "notes", "state": state, "release": 3, "commit": "0123456789", "pinned": null,
                "since_unix_ms": 5_000, "instances": [{ "pid": 7 }, { "pid": null }] }],
        })
    }

    #[test]
    fn each_change_is_told_once() {
        let mut news = News::default();
        assert_eq!(news.of(&status("building", &[])), ["notes    building"]);
        assert!(news.of(&status("building", &[])).is_empty());
        assert_eq!(news.of(&status("ready", &[])), ["notes    ready: release 3, commit 0123456"]);
        let problem =
            json!({ "service": "notes", "phase": "build", "cause": "exit code 1", "log_tail": ["no network"] });
        let failed = status("ready", std::slice::from_ref(&problem));
        assert_eq!(news.of(&failed), ["notes    failed at build: exit code 1\n           | no network"]);
        assert!(news.of(&failed).is_empty());
    }

    #[test]
    fn what_is_under_way_and_what_still_runs() {
        assert_eq!(under_way(&status("building", &[]), 17_900), ["notes building 12 s"]);
        assert!(under_way(&status("ready", &[]), 17_900).is_empty());
        assert_eq!(still_up(&status("stopping", &[])), ["notes (stopping), pid 7"]);
        assert!(!is_applied(&status("ready", &[])));
    }
}
