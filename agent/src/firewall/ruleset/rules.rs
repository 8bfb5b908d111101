//! The rules themselves, one line each, in the order the kernel reads them. Numbers are of docs/security-modes.md.

use std::collections::BTreeSet;

use agentd_protocol::security::Mode;
use ipnet::IpNet;
use nftables::types::NfChainPolicy;

use super::layout::{
    ARMED, DROPPED_FORWARD, DROPPED_IN, GLASS4, GLASS6, GUEST_IN, ICMP_IN, SURVIVORS_IN, SURVIVORS4, SURVIVORS6,
};
use super::words::{
    Act, Expr, accept, any_of, any_word, concat, counted, ct, drop, field, goto, iifname, is, is_reply, jump, meta,
    network, number, opens_no_connection, per_second, text,
};
use super::{Revision, Stamp};
use crate::firewall::{Facts, Policy};
use nftables::expr::MetaKey;

/// Echo requests let in (A3): a bucket of 5 that 15 a second refill lets no more than 20 through in any one second.
const ECHO_PER_SECOND: u32 = 15;
const ECHO_BURST: u32 = 5;

/// Errors about a connection of this host (P4). Redirects count as related to the kernel, and are not among them (D7).
const ERRORS4: &[&str] = &["destination-unreachable", "time-exceeded", "parameter-problem"];
const ERRORS6: &[&str] = &["destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem"];
/// RFC 4890 §4.4.1 less the solicitation of routers, which only a router answers.
const NEIGHBOURS: &[&str] = &["nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"];
const LISTENERS: &[&str] = &["mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report"];

/// One rule: what it is for, and what it does.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) comment: String,
    pub(super) acts: Vec<Act>,
}

fn line(comment: impl Into<String>, acts: impl Into<Vec<Act>>) -> Line {
    Line { comment: comment.into(), acts: acts.into() }
}

/// Where one policy's rules go.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) input: &'static str,
    pub(super) forward: &'static str,
    pub(super) ping: &'static str,
}

impl Names {
    pub(super) const BASE: Self = Self { input: "input", forward: "forward", ping: "ping_in" };
    pub(super) const TRIAL: Self = Self { input: "trial_input", forward: "trial_forward", ping: "trial_ping_in" };
}

/// What a base chain does with packets that no rule judged. Every chain of ours judges all; this is the second belt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Side(pub(super) NfChainPolicy);

impl Side {
    pub(super) fn closed(mode: Mode) -> Self {
        match mode {
            Mode::Open => Self(NfChainPolicy::Accept),
            Mode::DaemonPort | Mode::Tunnel => Self(NfChainPolicy::Drop),
        }
    }
}

/// The chains of one policy.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) stamp: Stamp,
    pub(super) chains: Vec<(&'static str, Vec<Line>)>,
}

impl Rules {
    pub(super) fn of(policy: &Policy, facts: &Facts, names: &Names) -> Self {
        let revision = Self::hashed(policy, facts);
        let stamp = Stamp { mode: policy.mode, revision };
        let seal = stamp.to_string();
        Self { stamp, chains: chains(policy, facts, names, &seal) }
    }

    /// Of the policy that lets everything in.
    pub(super) fn open() -> Self {
        Self::of(&Policy::open(), &Facts::default(), &Names::BASE)
    }

    /// Over the same chain names whether on trial or not, and over what all policies share.
    fn hashed(policy: &Policy, facts: &Facts) -> Revision {
        let mut chains = chains(policy, facts, &Names::BASE, "");
        chains.extend(shared());
        let lines: Vec<_> = chains
            .iter()
            .flat_map(|(chain, lines)| lines.iter().map(move |line| (chain, &line.comment, &line.acts)))
            .collect();
        Revision::of(&serde_json::to_vec(&lines).expect("nft's types are plain JSON"))
    }
}

fn chains(policy: &Policy, facts: &Facts, names: &Names, seal: &str) -> Vec<(&'static str, Vec<Line>)> {
    match policy.mode {
        Mode::Open => {
            let all = || vec![line(format!("C7 nothing is shut; {seal}"), [accept()])];
            vec![(names.input, all()), (names.forward, all())]
        }
        Mode::DaemonPort | Mode::Tunnel => vec![
            (names.input, input(policy, facts, names, seal)),
            (names.forward, forward(policy, facts, seal)),
            (names.ping, ping(policy.mode)),
        ],
    }
}

/// The first rule of a base chain while a trial runs: gone with the element in `armed`, and the old rules are next.
pub(super) fn branch(target: &'static str, trial: &Stamp) -> Line {
    line(format!("C2 on trial; {trial}"), [is(meta(MetaKey::L4proto), text(ARMED)), goto(target)])
}

fn input(policy: &Policy, facts: &Facts, names: &Names, seal: &str) -> Vec<Line> {
    let mut lines = vec![line("P1 loopback", [iifname(text("lo")), accept()])];
    let loopback4 = || network(&"127.0.0.0/8".parse().expect("a network"));
    for (protocol, side, address) in [
        ("ip", "saddr", loopback4()),
        ("ip", "daddr", loopback4()),
        ("ip6", "saddr", text("::1")),
        ("ip6", "daddr", text("::1")),
    ] {
        lines.push(refuse("D2 loopback address from the wire", vec![is(field(protocol, side), address)]));
    }
    lines.extend(on(&policy.trusted_interfaces, |on| line("P9 trusted interface", [on, accept()])));
    // Before the replies: the second request of one ping counts as established to the kernel.
    let echo = if policy.mode == Mode::DaemonPort { "A3 ping" } else { "D7 ping" };
    for protocol in ["icmp", "icmpv6"] {
        lines.push(line(echo, [is(field(protocol, "type"), text("echo-request")), goto(names.ping)]));
    }
    lines.extend(replies("P3 P7"));
    // Before what is invalid: neighbour discovery is not tracked.
    lines.push(line("P4 P5 ICMP", [is(meta(MetaKey::L4proto), any_word(&["icmp", "ipv6-icmp"])), jump(ICMP_IN)]));
    lines.push(refuse("D5 belongs to no connection", vec![ct("state", &["invalid"])]));
    lines.extend(dhcp());
    lines.push(line(
        "P7 connections older than the rules",
        [is(meta(MetaKey::L4proto), text("tcp")), ct("state", &["new", "untracked"]), jump(SURVIVORS_IN)],
    ));
    // Tracking would take it for new; an open port would answer a scanner's ACK with a reset.
    lines.push(refuse("D5 opens no connection", vec![opens_no_connection()]));
    lines.extend(on(&facts.guest_interfaces, |on| line("P8 questions of guests", [on, jump(GUEST_IN)])));
    if policy.mode == Mode::DaemonPort && !policy.proxy_tcp.is_empty() {
        lines.push(line("A1 proxy", [tcp_to(&policy.proxy_tcp), accept()]));
    }
    lines.extend(ssh(policy, facts));
    lines.push(refuse(&format!("D1 final drop; {seal}"), Vec::new()));
    lines
}

/// A conversation that is not TCP's has no end: one that somebody outside began is not let go on (D1), while the
/// kernel would count it as established for as long as he keeps asking.
fn replies(numbers: &str) -> [Line; 2] {
    let established = || ct("state", &["established"]);
    [
        line(format!("{numbers} TCP under way"), [is(meta(MetaKey::L4proto), text("tcp")), established(), accept()]),
        line(format!("{numbers} replies"), [established(), is_reply(), accept()]),
    ]
}

fn dhcp() -> [Line; 2] {
    let link_local = || network(&"fe80::/10".parse().expect("a network"));
    let port = |side, port: u16| is(field("udp", side), number(port));
    [
        line(
            "P6 DHCPv4 answer",
            [is(field("ip", "daddr"), text("255.255.255.255")), port("sport", 67), port("dport", 68), accept()],
        ),
        line(
            "P6 DHCPv6 answer",
            [
                is(field("ip6", "saddr"), link_local()),
                is(field("ip6", "daddr"), link_local()),
                port("sport", 547),
                port("dport", 546),
                accept(),
            ],
        ),
    ]
}

fn ssh(policy: &Policy, facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    if facts.ssh_ports.is_empty() {
        return lines;
    }
    let to_ssh = || tcp_to(&facts.ssh_ports);
    if policy.mode == Mode::DaemonPort {
        let (v4, v6): (Vec<IpNet>, Vec<IpNet>) =
            IpNet::aggregate(&policy.ssh_networks()).into_iter().partition(|network| network.addr().is_ipv4());
        for (protocol, networks) in [("ip", v4), ("ip6", v6)] {
            if !networks.is_empty() {
                lines.push(line("A2 SSH by network", [to_ssh(), from(protocol, &networks), accept()]));
            }
        }
    }
    lines.extend(on(&policy.ssh_interfaces, |on| line("A2 T1 SSH by interface", [to_ssh(), on, accept()])));
    for (protocol, set) in [("ip", GLASS4), ("ip6", GLASS6)] {
        lines.push(line("T2 SSH for a while", [to_ssh(), is(field(protocol, "saddr"), text(set)), accept()]));
    }
    lines
}

fn forward(policy: &Policy, facts: &Facts, seal: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = replies("P8 P7").into();
    lines.extend([
        line("P8 errors", [ct("state", &["related"]), is(field("icmp", "type"), any_word(ERRORS4)), accept()]),
        line("P8 errors", [ct("state", &["related"]), is(field("icmpv6", "type"), any_word(ERRORS6)), accept()]),
    ]);
    let bridged: Vec<Expr> = named(&facts.bridged).map(|name| concat(vec![text(name), text(name)])).collect();
    if !bridged.is_empty() {
        let both = concat(vec![meta(MetaKey::Iifname), meta(MetaKey::Oifname)]);
        lines.push(line("P8 within one bridge", [is(both, any_of(bridged)), accept()]));
    }
    lines.extend(on(&policy.trusted_interfaces, |on| line("P9 trusted interface", [on, accept()])));
    lines.extend(on(&facts.guest_interfaces, |on| line("P8 guests go out", [on, accept()])));
    let stop = |comment: String, condition: Vec<Act>| {
        line(comment, [condition, vec![counted(DROPPED_FORWARD), drop()]].concat())
    };
    lines.push(stop("D3 published port".to_owned(), vec![ct("status", &["dnat"])]));
    lines.push(stop(format!("D4 final drop; {seal}"), Vec::new()));
    lines
}

fn ping(mode: Mode) -> Vec<Line> {
    let mut lines = Vec::new();
    if mode == Mode::DaemonPort {
        lines.push(line("A3 ping", [per_second(ECHO_PER_SECOND, ECHO_BURST), accept()]));
    }
    lines.push(refuse("D7 ping", Vec::new()));
    lines
}

/// Chains that read the same whatever the policy.
pub(super) fn shared() -> Vec<(&'static str, Vec<Line>)> {
    vec![(ICMP_IN, icmp_in()), (GUEST_IN, guest_in()), (SURVIVORS_IN, survivors_in())]
}

fn icmp_in() -> Vec<Line> {
    // Errors are untracked where the owner took their connections out of tracking; nobody can tell whose they are then.
    let known = || ct("state", &["related", "untracked"]);
    vec![
        line("P4 errors", [known(), is(field("icmp", "type"), any_word(ERRORS4)), accept()]),
        line("P4 errors", [known(), is(field("icmpv6", "type"), any_word(ERRORS6)), accept()]),
        line("P5 neighbours, routers", [is(field("icmpv6", "type"), any_word(NEIGHBOURS)), from_the_link(), accept()]),
        line(
            "P5 multicast listeners",
            [
                is(field("icmpv6", "type"), any_word(LISTENERS)),
                is(field("ip6", "saddr"), network(&"fe80::/10".parse().expect("a network"))),
                accept(),
            ],
        ),
    ]
}

fn guest_in() -> Vec<Line> {
    let dns_and_dhcp = any_of([53_u16, 67, 547].map(number));
    vec![
        line("P8 DNS and DHCP", [is(field("udp", "dport"), dns_and_dhcp), accept()]),
        line("P8 DNS", [is(field("tcp", "dport"), number(53_u16)), accept()]),
        line("P8 router wanted", [is(field("icmpv6", "type"), text("nd-router-solicit")), from_the_link(), accept()]),
    ]
}

fn survivors_in() -> Vec<Line> {
    let tuple = |family| {
        concat(vec![field(family, "saddr"), field("tcp", "sport"), field(family, "daddr"), field("tcp", "dport")])
    };
    [("ip", SURVIVORS4), ("ip6", SURVIVORS6)]
        .map(|(family, set)| line("P7 by both ends", [opens_no_connection(), is(tuple(family), text(set)), accept()]))
        .into()
}

fn refuse(comment: &str, condition: Vec<Act>) -> Line {
    line(comment, [condition, vec![counted(DROPPED_IN), drop()]].concat())
}

/// No router has decremented it: the sender is on this link (RFC 4861 §6.1, §7.1).
fn from_the_link() -> Act {
    is(field("ip6", "hoplimit"), number(255_u16))
}

fn tcp_to(ports: &BTreeSet<u16>) -> Act {
    is(field("tcp", "dport"), any_of(ports.iter().map(|port| number(*port))))
}

/// A network of length 0 is everybody, and no element to nft.
fn from(protocol: &'static str, networks: &[IpNet]) -> Act {
    if networks.iter().any(|network| network.prefix_len() == 0) {
        let family = if protocol == "ip" { "ipv4" } else { "ipv6" };
        return is(meta(MetaKey::Nfproto), text(family));
    }
    is(field(protocol, "saddr"), any_of(networks.iter().map(network)))
}

fn on(interfaces: &BTreeSet<String>, rule: impl FnOnce(Act) -> Line) -> Option<Line> {
    let names: Vec<Expr> = named(interfaces).map(text).collect();
    (!names.is_empty()).then(|| rule(iifname(any_of(names))))
}

/// To nft a name may be a pattern (`*`), a set (`@`) or a variable (`$`): whatever could be is left out, which shuts.
fn named(interfaces: &BTreeSet<String>) -> impl Iterator<Item = &String> {
    /// IFNAMSIZ less the closing zero.
    const NAME_BYTES_MAX: usize = 15;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    interfaces.iter().filter(move |name| (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain))
}
