//! The words for people.

use serde_json::Value;

use super::What;
use crate::api::DeployPhase;
use crate::ids::ReleaseNumber;

impl What {
    /// A sentence fragment; service, release and instance stand beside it and are not repeated.
    pub fn text(&self) -> String {
        match self {
            Self::ConfigSeen { .. }
            | Self::ConfigRejected { .. }
            | Self::ConfigUnresolved { .. }
            | Self::ConfigResolved {}
            | Self::ConfigPublished { .. }
            | Self::ConfigApplied { .. }
            | Self::ConfigDegraded { .. } => self.config(),
            Self::BuildStarted { .. }
            | Self::BuildSucceeded { .. }
            | Self::BuildFailed { .. }
            | Self::BuildCancelled {}
            | Self::DeployStarted { .. }
            | Self::DeployDone { .. }
            | Self::DeployFailed { .. }
            | Self::DeployRolledBack { .. }
            | Self::DeploySuperseded { .. } => self.deploy(),
            Self::RunStarted { .. }
            | Self::RunReady { .. }
            | Self::RunStopped { .. }
            | Self::RunAdopted { .. }
            | Self::RunStragglers { .. }
            | Self::RunLogDropped { .. }
            | Self::RunUnkillable { .. }
            | Self::CrashExited { .. }
            | Self::CrashLoopEntered { .. }
            | Self::CrashLoopLeft {}
            | Self::HealthFailing { .. }
            | Self::HealthOverdue { .. }
            | Self::HealthRecovered { .. }
            | Self::HealthRestart { .. } => self.instance(),
            Self::RouteChanged { added, removed, changed } => {
                listed(&[("added", added), ("removed", removed), ("changed", changed)])
            }
            Self::DnsChanged { added, removed } => listed(&[("added", added), ("removed", removed)]),
            Self::ServiceStopped {}
            | Self::ServiceStarted {}
            | Self::ServiceRestarted {}
            | Self::ServicePinned {}
            | Self::ServiceUnpinned { .. }
            | Self::ServiceRemoved {}
            | Self::ServicePruned {} => self.service(),
            Self::SecurityTrial { .. }
            | Self::SecurityOverruled { .. }
            | Self::SecurityApplied { .. }
            | Self::SecurityConfirmed { .. }
            | Self::SecurityReverted { .. }
            | Self::SecurityRefused { .. }
            | Self::SecurityAwaitingConsent { .. }
            | Self::SecurityRepaired { .. }
            | Self::SecurityUnrepaired { .. }
            | Self::SecurityOpened { .. } => self.security(),
            Self::HostStart { .. }
            | Self::HostStop { .. }
            | Self::HostDown {}
            | Self::HostKeeperReplaced { .. }
            | Self::EdgeStarted { .. }
            | Self::EdgeLost { .. } => self.host(),
            Self::ControlJoined { .. }
            | Self::ControlLeft {}
            | Self::ControlConnected {}
            | Self::ControlLost { .. }
            | Self::ControlRefused { .. }
            | Self::TrustViolation { .. } => self.control(),
            Self::TunnelConnected { .. } | Self::TunnelDegraded { .. } | Self::TunnelDown { .. } => self.tunnel(),
            Self::Unknown { kind, details: Value::Null } => kind.clone(),
            Self::Unknown { kind, details } => format!("{kind} {details}"),
        }
    }

    fn config(&self) -> String {
        match self {
            Self::ConfigSeen { services } => format!("stack file read: {}", many(*services, "service")),
            Self::ConfigRejected { problem } => {
                format!("the document is not in force as it stands: {problem}")
            }
            Self::ConfigUnresolved { cause } => cause.clone(),
            Self::ConfigResolved {} => "its ref can be resolved again".into(),
            Self::ConfigPublished { version, services } => {
                format!("version {version} is to be applied: {}", many(*services, "service"))
            }
            Self::ConfigApplied { version } => format!("version {version} is applied"),
            Self::ConfigDegraded { version, cause } => format!("version {version} is degraded: {cause}"),
            _ => unreachable!("text hands over the config family alone"),
        }
    }

    fn deploy(&self) -> String {
        match self {
            Self::BuildStarted { commit } => format!("building commit {}", commit.short()),
            Self::BuildSucceeded { commit, duration_ms } => {
                format!("built commit {} in {}", commit.short(), span(*duration_ms))
            }
            Self::BuildFailed { phase, cause, duration_ms } => {
                format!("{} failed{}: {cause}", phase_word(*phase), after(*duration_ms))
            }
            Self::BuildCancelled {} => "build cancelled: a newer order came first".into(),
            Self::DeployStarted { from: Some(from) } => format!("deploy started, to replace release {from}"),
            Self::DeployStarted { from: None } => "first deploy started".into(),
            Self::DeployDone { from, duration_ms } => {
                format!("deployed in {}{}", span(*duration_ms), instead(*from))
            }
            Self::DeployFailed { from, phase, cause, duration_ms } => {
                let stays = from.map_or_else(String::new, |from| format!("; release {from} serves on"));
                format!("deploy failed in {}{}: {cause}{stays}", phase_word(*phase), after(*duration_ms))
            }
            Self::DeployRolledBack { from, duration_ms } => {
                format!("rolled back in {}{}", span(*duration_ms), instead(*from))
            }
            Self::DeploySuperseded { .. } => "deploy given up: a newer order came first".into(),
            _ => unreachable!("text hands over the build and deploy families alone"),
        }
    }

    fn instance(&self) -> String {
        match self {
            Self::RunStarted { pid, port, incarnation } => {
                let port = port.map_or_else(String::new, |port| format!(", port {port}"));
                let again = if *incarnation > 1 { format!(", start {incarnation}") } else { String::new() };
                format!("started as pid {pid}{port}{again}")
            }
            Self::RunReady { after_ms } => format!("ready{}", after(*after_ms)),
            Self::RunStopped { exit: Some(exit), uptime_ms } => format!("stopped{}: {exit}", after(*uptime_ms)),
            Self::RunStopped { exit: None, .. } => "stopped".into(),
            Self::RunAdopted { pid } => format!("its shim was replaced; pid {pid} runs on"),
            Self::RunStragglers { count } => format!("{count} processes it left behind were killed"),
            Self::RunLogDropped { bytes } => format!("{bytes} bytes of output were dropped: the log disk was full"),
            Self::RunUnkillable { count } => format!("{count} processes survive SIGKILL; look for state D in ps"),
            Self::CrashExited { exit, uptime_ms, restart_in_ms } => {
                let next = match restart_in_ms {
                    Some(0) => "starts again at once".into(),
                    Some(wait) => format!("starts again in {}", span(*wait)),
                    None => "is not started again".to_owned(),
                };
                format!("crashed after {}: {exit}; {next}", span(*uptime_ms))
            }
            Self::CrashLoopEntered { retry_in_ms } => format!("crash loop: tried again every {}", span(*retry_in_ms)),
            Self::CrashLoopLeft {} => "crash loop over: ready again".into(),
            Self::HealthFailing { failures, cause } => {
                format!("failing its health check, {failures} times in a row: {cause}")
            }
            Self::HealthOverdue { cause } => format!("not ready within its start deadline: {cause}"),
            Self::HealthRecovered { after_ms } => format!("passes its health check again{}", after(*after_ms)),
            Self::HealthRestart { exit, uptime_ms } => {
                format!("restarted, since it kept failing its health check; it ran {}: {exit}", span(*uptime_ms))
            }
            _ => unreachable!("text hands over the run, crash and health families alone"),
        }
    }

    fn security(&self) -> String {
        match self {
            Self::SecurityTrial { from, to, window_ms } => {
                format!("{to} on trial for {}; unconfirmed, {from} comes back", span(*window_ms))
            }
            Self::SecurityOverruled { mode, findings } => {
                format!("{mode} is on trial on the operator's word, though {}", findings.join("; "))
            }
            Self::SecurityApplied { from, to } => format!("{to} in place of {from}, as the document asks"),
            Self::SecurityConfirmed { from, to } => format!("{to} in place of {from}, confirmed by the operator"),
            Self::SecurityReverted { from, to, cause } => format!("{to} went back to {from}: {cause}"),
            Self::SecurityRefused { mode, cause } => format!("{mode} was asked for, nothing was changed: {cause}"),
            Self::SecurityAwaitingConsent { mode, cause } => {
                format!("the document asks for {mode}, a person has to agree: {cause}; see `agentctl security status`")
            }
            Self::SecurityRepaired { cause, after_ms } => {
                format!("firewall rules put back after {}: {cause}", span(*after_ms))
            }
            Self::SecurityUnrepaired { cause } => format!("firewall rules are not as confirmed: {cause}"),
            Self::SecurityOpened { networks, for_ms } => {
                format!("SSH let in from {} for {}", networks.join(", "), span(*for_ms))
            }
            _ => unreachable!("text hands over the security family alone"),
        }
    }

    fn service(&self) -> String {
        match self {
            Self::ServiceStopped {} => "stopped by the operator".into(),
            Self::ServiceStarted {} => "started by the operator".into(),
            Self::ServiceRestarted {} => "restarted by the operator".into(),
            Self::ServicePinned {} => "rolled back and pinned by the operator".into(),
            Self::ServiceUnpinned { cause } => format!("follows the document again: {cause}"),
            Self::ServiceRemoved {} => "has left the document and is gone; its data is kept until it is pruned".into(),
            Self::ServicePruned {} => "its releases and data were removed by the operator".into(),
            _ => unreachable!("text hands over the service family alone"),
        }
    }

    fn tunnel(&self) -> String {
        match self {
            Self::TunnelConnected { connections } => format!("tunnel connected by {}", connected(*connections)),
            Self::TunnelDegraded { connections, cause } => {
                format!("tunnel degraded, {}: {cause}", connected(*connections))
            }
            Self::TunnelDown { cause } => format!("tunnel down: {cause}"),
            _ => unreachable!("text hands over the tunnel family alone"),
        }
    }

    fn control(&self) -> String {
        match self {
            Self::ControlJoined { url, host } => format!("joined the control server {url} as {host}"),
            Self::ControlLeft {} => "left the control server; what ran runs on".into(),
            Self::ControlConnected {} => "connected to the control server".into(),
            Self::ControlLost { cause } => {
                format!("the control server does not answer; what runs runs on: {cause}")
            }
            Self::ControlRefused { cause } => {
                format!("the control server does not take reports of this host; what runs runs on: {cause}")
            }
            Self::TrustViolation { reason } => {
                format!("what the control server handed out is not believed, nothing was changed: {reason}")
            }
            _ => unreachable!("text hands over the control and trust families alone"),
        }
    }

    fn host(&self) -> String {
        match self {
            Self::HostStart { pid, version, adopted } => {
                format!("manager {version} started as pid {pid}, found {} running", many(*adopted, "instance"))
            }
            Self::HostStop { signal } => format!("the manager ended on {signal}; services run on"),
            Self::HostDown {} => "everything was taken down by the operator; the next start brings it back".into(),
            Self::HostKeeperReplaced { pid, before } => {
                format!("keeper {before} was gone, keeper {pid} took over; services ran on")
            }
            Self::EdgeStarted { pid } => format!("edge started as pid {pid}"),
            Self::EdgeLost { exit, uptime_ms } => {
                format!("edge ended after {}: {exit}; it is started again on the same sockets", span(*uptime_ms))
            }
            _ => unreachable!("text hands over the host and edge families alone"),
        }
    }
}

fn phase_word(phase: DeployPhase) -> &'static str {
    match phase {
        DeployPhase::Document => "document",
        DeployPhase::Fetch => "fetch",
        DeployPhase::Build => "build",
        DeployPhase::Start => "start",
        DeployPhase::Health => "health",
        DeployPhase::Route => "route",
        DeployPhase::Drain => "drain",
        DeployPhase::Run => "run",
    }
}

fn instead(from: Option<ReleaseNumber>) -> String {
    from.map_or_else(String::new, |from| format!(", instead of release {from}"))
}

fn after(ms: Option<u64>) -> String {
    ms.map_or_else(String::new, |ms| format!(" after {}", span(ms)))
}

fn connected(connections: u32) -> String {
    many(usize::try_from(connections).unwrap_or(usize::MAX), "connection")
}

fn many(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn listed(parts: &[(&str, &Vec<String>)]) -> String {
    let said = parts.iter().filter(|(_, names)| !names.is_empty());
    said.map(|(word, names)| format!("{word} {}", names.join(", "))).collect::<Vec<_>>().join("; ")
}

/// A length of time, as coarse as a person wants it.
fn span(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{seconds}.{} s", ms % 1_000 / 100),
        60_000..3_600_000 => format!("{minutes} min {} s", seconds % 60),
        3_600_000..86_400_000 => format!("{hours} h {} min", minutes % 60),
        86_400_000.. => format!("{} d {} h", hours / 24, hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_as_coarse_as_they_are_long() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_250, "1.2 s"),
            (61_000, "1 min 1 s"),
            (3_660_000, "1 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn words_say_what_comes_next() {
        let crash = |restart_in_ms| {
            What::CrashExited { exit: "killed by SIGSEGV".into(), uptime_ms: 61_000, restart_in_ms }.text()
        };
        assert_eq!(crash(Some(0)), "crashed after 1 min 1 s: killed by SIGSEGV; starts again at once");
        assert_eq!(crash(Some(250)), "crashed after 1 min 1 s: killed by SIGSEGV; starts again in 250 ms");
        assert_eq!(crash(None), "crashed after 1 min 1 s: killed by SIGSEGV; is not started again");
        let failed = What::DeployFailed {
            from: Some(ReleaseNumber(2)),
            phase: DeployPhase::Health,
            cause: "answers 500".into(),
            duration_ms: Some(2_000),
        };
        assert_eq!(failed.text(), "deploy failed in health after 2.0 s: answers 500; release 2 serves on");
        let moved = What::RouteChanged {
            added: vec!["/a".into(), "/b".into()],
            removed: Vec::new(),
            changed: vec!["/c".into()],
        };
        assert_eq!(moved.text(), "added /a, /b; changed /c");
    }
}
