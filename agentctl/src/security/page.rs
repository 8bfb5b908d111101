//! The screens (pure).

use agentd_protocol::api::{Check, Colour, Origin, SecurityPlan, SecurityStatus};
use ipnet::IpNet;

use crate::screen::{Line, Style};
use crate::words::{harmless, span};

pub(super) fn plan(plan: &SecurityPlan) -> Vec<Line> {
    let mut lines = vec![
        Line::from("now:         ").with(Style::Strong, plan.now.as_str()),
        Line::from("wanted:      ").with(Style::Strong, plan.wanted.as_str()),
        Line::from(format!("SSH from:    {}", networks(&plan.wanted_ssh))),
        Line::from(format!("enforced by: {}", plan.enforcement)),
    ];
    lines.extend(plan.tools.iter().map(|tool| Line::from(format!("also here:   {}", harmless(tool)))));
    for (style, words, all) in [(Style::Bad, "refused", &plan.refuses), (Style::Busy, "asks first", &plan.asks)] {
        lines.extend(all.iter().map(|one| Line::new(style, format!("{words:11}: {}", harmless(one)))));
    }
    if !plan.closes.is_empty() {
        lines.push("will no longer be reached from outside:".into());
        lines.extend(plan.closes.iter().map(|port| Line::from(format!("  {}", harmless(port)))));
    }
    if !plan.ssh.is_empty() {
        lines.push("on SSH now:".into());
        lines.extend(plan.ssh.iter().map(|session| {
            let peer = Line::from(format!("  {}, to port {}  ", session.peer, session.port));
            match session.comes_back {
                true => peer.with(Style::Good, "could come back"),
                false => peer.with(Style::Bad, "could NOT come back"),
            }
        }));
    }
    lines.push("checks:".into());
    lines.extend(checks(&plan.checks));
    lines.extend(plan.notes.iter().map(|note| Line::new(Style::Busy, format!("note: {}", harmless(note)))));
    lines
}

pub(super) fn checks(checks: &[Check]) -> Vec<Line> {
    let line = |check: &Check| {
        let (style, word) = match check.colour {
            Colour::Green => (Style::Good, "green"),
            Colour::Red => (Style::Bad, "red"),
            Colour::NotApplicable => (Style::Dim, "n/a"),
        };
        Line::from(format!("  {:13} ", check.name))
            .with(style, format!("{word:5}"))
            .with(Style::Plain, format!(" {}", harmless(&check.text)))
    };
    checks.iter().map(line).collect()
}

pub(super) fn status(status: &SecurityStatus) -> Vec<Line> {
    let origin = match status.origin {
        None => "",
        Some(Origin::Document) => ", as the document asks",
        Some(Origin::Local) => ", a local choice (until the document's section changes)",
    };
    let mut lines = vec![
        Line::from("mode:        ").with(Style::Strong, status.mode.as_str()).with(Style::Plain, origin),
        Line::from("exposure:    ").with(Style::Strong, status.exposure.to_string()),
        Line::from(format!("enforced by: {}", status.enforcement)),
        Line::from(format!("SSH from:    {}", networks(&status.ssh))),
    ];
    if let Some(reason) = &status.unmanaged {
        lines.push(Line::new(Style::Busy, format!("unmanaged here: {reason}")));
    }
    if let Some(reason) = &status.altered {
        lines.push(Line::new(Style::Bad, format!("not as confirmed: {}", harmless(reason))));
    }
    if let Some(trial) = &status.trial {
        let left = span(trial.left_ms);
        lines.push(Line::new(
            Style::Busy,
            format!("on trial:    {} for {left} more, then {} again", trial.to, trial.from),
        ));
        lines.push("  to keep it: agentctl security confirm   (from a NEW connection)".into());
    }
    if let Some(awaiting) = &status.awaiting {
        lines.push(Line::new(
            Style::Busy,
            format!("the document asks for {}: {}", awaiting.mode, harmless(&awaiting.why)),
        ));
        lines.push(Line::from("  to agree: ").with(Style::Strong, awaiting.command.as_str()));
    }
    if let Some(open) = &status.open_ssh {
        lines.push(Line::from(format!(
            "SSH let in:  from {} for {} more",
            networks(&open.networks),
            span(open.left_ms)
        )));
    }
    let drops = status.drops;
    lines.push(Line::from(format!(
        "dropped:     {} packets to this host, {} to be forwarded",
        drops.input, drops.forward
    )));
    if status.repairs > 0 {
        lines.push(Line::from(format!("put back:    {} times since agentd started", status.repairs)));
    }
    lines.extend(status.last.as_ref().map(|last| Line::from(format!("last:        {}", harmless(last)))));
    lines
}

fn networks(networks: &[IpNet]) -> String {
    let said: Vec<String> = networks.iter().map(IpNet::to_string).collect();
    if said.is_empty() { "-".to_owned() } else { said.join(", ") }
}

#[cfg(test)]
mod tests {
    use agentd_protocol::api::{CheckName, SshSession};
    use agentd_protocol::security::Mode;

    use super::*;
    use crate::screen::Screen;

    #[test]
    fn the_plan_says_who_is_cut_off() {
        let plan = SecurityPlan {
            now: Mode::Open,
            wanted: Mode::DaemonPort,
            wanted_ssh: vec!["203.0.113.0/24".parse().unwrap()],
            tools: vec!["ufw, active".into()],
            enforcement: "nftables".into(),
            asks: vec!["a rule (cure)".into()],
            refuses: vec!["a node (cure)".into()],
            closes: vec!["5432/tcp, pid 7 (postgres)".into()],
            ssh: vec![SshSession { peer: "198.51.100.20".parse().unwrap(), port: 22, comes_back: false }],
            phrase: Some("block ssh from 198.51.100.20".into()),
            checks: vec![Check { name: CheckName::Dns, colour: Colour::Red, text: "silent".into() }],
            notes: Vec::new(),
        };
        let said: Vec<String> = super::plan(&plan).iter().map(|line| line.shown(Screen::Plain).to_string()).collect();
        assert_eq!(
            said,
            [
                "now:         open",
                "wanted:      daemon-port",
                "SSH from:    203.0.113.0/24",
                "enforced by: nftables",
                "also here:   ufw, active",
                "refused    : a node (cure)",
                "asks first : a rule (cure)",
                "will no longer be reached from outside:",
                "  5432/tcp, pid 7 (postgres)",
                "on SSH now:",
                "  198.51.100.20, to port 22  could NOT come back",
                "checks:",
                "  dns           red   silent",
            ]
        );
    }
}
