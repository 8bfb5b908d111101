//! From what was seen to what is kept, and what the owner is told.

use agentd_protocol::security::Mode;

use super::super::Policy;
use super::{
    Backend, Enforcement, Engine, Finding, NftSeen, Place, Runtime, Seen, Severity, UfwSeen, Verdict, XdpSeen,
};

pub fn judge(seen: &Seen, policy: &Policy) -> Verdict {
    let (enforcement, reason) = enforcement(seen, policy.mode);
    let mut findings = Vec::new();
    if policy.mode != Mode::Open {
        findings.extend(kept(enforcement, policy.mode, &reason));
        findings.extend(others(seen, policy));
        findings.extend(beyond(seen));
        findings.extend(ufw(seen.ufw, policy.mode));
        findings.extend(notes(seen, policy.mode));
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    }
    Verdict { enforcement, reason, findings }
}

fn enforcement(seen: &Seen, mode: Mode) -> (Enforcement, String) {
    let ufw_active = match seen.ufw {
        UfwSeen::Absent => false,
        UfwSeen::Installed { runtime: Runtime::Active, .. } => true,
        UfwSeen::Installed { runtime: Runtime::Inactive, .. } => false,
        // What it is meant to do is the best guess at what it does.
        UfwSeen::Installed { runtime: Runtime::Unknown, at_boot, .. } => at_boot,
    };
    let lacking = match (&seen.nft, seen.may_administer) {
        (NftSeen::Missing, _) => "nft is not installed".to_owned(),
        (_, false) => "no CAP_NET_ADMIN".to_owned(),
        (NftSeen::Refused(said), true) => format!("nft is refused: {said}"),
        (NftSeen::Usable { .. }, true) if ufw_active && mode == Mode::DaemonPort => {
            return (Enforcement::NftablesWithUfwAllows, String::new());
        }
        (NftSeen::Usable { .. }, true) => return (Enforcement::Nftables, String::new()),
    };
    if ufw_active && seen.may_administer { (Enforcement::PartialUfw, lacking) } else { (Enforcement::Nothing, lacking) }
}

/// Whether the mode can be kept with that at all.
fn kept(enforcement: Enforcement, mode: Mode, reason: &str) -> Option<Finding> {
    let cure =
        "`apt install nftables`, or run agentd with CAP_NET_ADMIN; until then the mode `open` is all that is true";
    match enforcement {
        Enforcement::Nftables | Enforcement::NftablesWithUfwAllows => None,
        Enforcement::PartialUfw if mode == Mode::DaemonPort => Some(finding(
            Severity::Ask,
            format!("{reason}; UFW alone leaves ports published by containers open, and opens up while it reloads"),
            cure,
        )),
        Enforcement::PartialUfw | Enforcement::Nothing => {
            Some(finding(Severity::Refuse, format!("{reason}; nothing here can keep `{mode}`"), cure))
        }
    }
}

/// Programs whose work a closed mode would break.
fn others(seen: &Seen, policy: &Policy) -> Vec<Finding> {
    let mut findings = Vec::new();
    if seen.engines.contains(&Engine::Kubernetes) {
        findings.push(finding(
            Severity::Refuse,
            "this host is a node of Kubernetes: the control plane, other nodes and NodePorts could not reach it".into(),
            "leave it `open`, or add --force and name the cluster's interfaces in trusted_interfaces of policy.toml",
        ));
    }
    let forwarders: Vec<&str> = seen.forwarders.difference(&policy.trusted_interfaces).map(String::as_str).collect();
    if seen.forwarders.len() > 1 && !forwarders.is_empty() {
        findings.push(finding(
            Severity::Ask,
            format!(
                "this host forwards packets (ip_forward) between {}, which a closed mode ends",
                forwarders.join(", ")
            ),
            "name the inner ones in trusted_interfaces of policy.toml, or switch forwarding off",
        ));
    }
    if matches!(seen.nft, NftSeen::Usable { has_notrack: true }) {
        findings.push(finding(
            Severity::Ask,
            "a rule takes connections out of tracking (notrack): replies to them would be dropped".into(),
            "find it with `nft list ruleset | grep notrack`, and see that it spares what this host opens itself",
        ));
    }
    findings
}

/// What no rule of ours reaches.
fn beyond(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &seen.xdp {
        XdpSeen::On(links) if !links.is_empty() => findings.push(finding(
            Severity::CannotVouch,
            format!("XDP programs read packets before any rule on {}", join(links)),
            "`bpftool net` names them",
        )),
        XdpSeen::On(_) => {}
        XdpSeen::CouldNotAsk => findings.push(finding(
            Severity::CannotVouch,
            "the kernel did not say whether XDP programs are attached".into(),
            "`ip -d link` shows them as `xdp`",
        )),
    }
    let container = match seen.place {
        Place::Host => return findings,
        Place::Container => "this is a container: only its own network is shut, not the host's",
        Place::OtherNamespace => "this is a network namespace of its own: only that is shut, not the host's network",
    };
    findings.push(finding(Severity::CannotVouch, container.into(), "run agentd on the host itself to shut the host"));
    findings
}

fn ufw(seen: UfwSeen, mode: Mode) -> Vec<Finding> {
    let UfwSeen::Installed { runtime, at_boot, manages_ipv6 } = seen else { return Vec::new() };
    let mut findings = Vec::new();
    if runtime == Runtime::Unknown {
        findings.push(finding(
            Severity::CannotVouch,
            "UFW does not say whether it is active; it may drop what the mode lets in".into(),
            "run `ufw status` and mend what it complains of",
        ));
    }
    if runtime == Runtime::Active && mode == Mode::DaemonPort {
        findings.push(finding(
            Severity::Note,
            "UFW is active: it gets allows with the comment `agentd:`, and nothing else of it is changed".into(),
            "nothing to do; they go when the mode does",
        ));
    }
    if runtime == Runtime::Inactive && at_boot {
        findings.push(finding(
            Severity::Note,
            "UFW is off now and on after the next boot, when it may drop what the mode lets in".into(),
            "`ufw disable` to keep it off",
        ));
    }
    if runtime == Runtime::Active && !manages_ipv6 {
        findings.push(finding(
            Severity::Note,
            "UFW has IPV6=no: it drops all IPv6, outgoing too".into(),
            "set IPV6=yes in /etc/default/ufw if this host is to use IPv6",
        ));
    }
    findings
}

fn notes(seen: &Seen, mode: Mode) -> Vec<Finding> {
    let mut findings = Vec::new();
    if seen.is_firewalld_running && mode == Mode::DaemonPort {
        findings.push(finding(
            Severity::Ask,
            "firewalld is running and may drop what the mode lets in".into(),
            "`firewall-cmd --add-port=PORT/tcp`, and again with --permanent",
        ));
    }
    let guests: Vec<String> =
        seen.engines.iter().filter(|engine| **engine != Engine::Kubernetes).map(Engine::to_string).collect();
    if !guests.is_empty() {
        findings.push(finding(
            Severity::Note,
            format!(
                "ports published by {} are shut from outside (D3); their guests reach out as before",
                guests.join(", ")
            ),
            "give the stack a service that leads there",
        ));
    }
    if !seen.legacy_tables.is_empty() && seen.iptables != Some(Backend::Legacy) {
        findings.push(finding(
            Severity::Note,
            format!("old iptables rules are in force too, which nft does not show: {}", join(&seen.legacy_tables)),
            "`iptables-legacy-save` shows them",
        ));
    }
    if seen.is_nftables_service_enabled {
        findings.push(finding(
            Severity::Note,
            "nftables.service removes all rules whenever it is started, reloaded or stopped; ours come back within 2 s"
                .into(),
            "`systemctl disable nftables` if it has no rules of yours",
        ));
    }
    findings
}

fn finding(severity: Severity, text: String, cure: &str) -> Finding {
    Finding { severity, text, cure: cure.to_owned() }
}

fn join(names: &std::collections::BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
